"""Player: what probes need of it is what it asks of a deriving class, and no more."""

import numpy as np
import pytest
import torch
from torch import nn

from agents import NetworkConfig, TaskNetwork, probe
from agents.logs import fast_weight_norms
from agents.player import Player
from agents.traces import trace
from plastic_envs import Task, make_task


class WithHead(Player):
    """Chooses by a head on the network's output, as policies do; observations go in as they are."""

    def __init__(self, task: Task) -> None:
        actions = int(np.prod(task.action_space.shape or task.action_space.n))
        super().__init__(task, NetworkConfig(hidden_size=4).make(task.observation_space.shape[0], 3))
        self.head = nn.Linear(3, actions)

    def observe(self, observation):
        return observation

    def choose(self, y):
        logits = self.head(y)
        return logits.numpy() if self.task.action_space.shape else logits.argmax(-1).numpy()


@pytest.mark.parametrize("env_id", ["PlasticRNN/CueReward-v0", "PlasticRNN/CueChoice-v0"])
def test_any_player_is_probed_traced_and_logged(env_id):
    task = make_task(env_id)
    player = WithHead(task)
    episode = task.sample(np.random.default_rng(0), 3)
    actions, output = player.play(episode)
    # The obvious way: a step at a time, with what the player did shown to it.
    state, done = player.network.initial_state(3), np.zeros_like(episode.target)
    for step in range(task.episode_length):
        observation = torch.as_tensor(task.observations(episode, done)[:, step].copy())
        with torch.no_grad():
            expected, state = player.network.step(observation, state)
            done[:, step] = player.choose(expected.y)
        torch.testing.assert_close(output.y[step], expected.y)
    np.testing.assert_allclose(actions, done, rtol=1e-4, atol=1e-6)

    report = probe(player, episodes=4)
    assert list(report.outcomes) == [
        "intact",
        "no_writing",
        "fast_erased",
        "hidden_erased",
        "transplant",
        "hidden_transplant",
    ]
    followed = trace(player, episode)
    norms = fast_weight_norms(player, episodes=3)
    assert set(norms) == set(followed.norm) and all(norm > 0 for norm in norms.values())


def test_output_that_is_not_finite_is_refused():
    player = WithHead(make_task("PlasticRNN/CueChoice-v0"))
    nn.init.constant_(next(player.network.parameters()), torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        player.play(player.task.sample(np.random.default_rng(0), 2))


def test_a_player_says_what_it_sees_and_does():
    with pytest.raises(TypeError, match="choose"):
        Player(make_task("PlasticRNN/CueReward-v0"), nn.Identity())
    assert isinstance(TaskNetwork(make_task("PlasticRNN/CueReward-v0"), NetworkConfig(hidden_size=2)), Player)
