"""Agent: what probes need of it is what it asks of a deriving class, and no more."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from plastic_agents import Agent, NetworkConfig, SupervisedAgent, probe
from plastic_agents.analysis.traces import trace
from plastic_agents.models.core import CoreOutput, RecurrentCore, State
from plastic_agents.training.tensorboard import play_examples
from torch import nn

from plastic_envs import Task, make_task


class WithHead(Agent):
    """Chooses by a head on the network's output, as policies do; observations go in as they are."""

    def __init__(self, task: Task) -> None:
        actions = int(np.prod(task.action_space.shape or task.action_space.n))
        super().__init__(task, NetworkConfig(hidden_size=4).make_core(task.observation_space.shape[0], 3))
        self.head = nn.Linear(3, actions)

    def preprocess(self, observation):
        return observation

    def decode(self, y):
        logits = self.head(y)
        return logits.numpy() if self.task.action_space.shape else logits.argmax(-1).numpy()


@pytest.mark.parametrize("env_id", ["PlasticRNN/CueReward-v0", "PlasticRNN/CueChoice-v0"])
def test_any_player_is_probed_traced_and_logged(env_id):
    task = make_task(env_id)
    agent = WithHead(task)
    episode = task.sample(np.random.default_rng(0), 3)
    actions, output = agent.play(episode)
    # The obvious way: a step at a time, with what the player did shown to it.
    state, done = agent.core.initial_state(3), np.zeros_like(episode.target)
    for step in range(task.episode_length):
        observation = torch.as_tensor(task.with_feedback(episode, done)[:, step].copy())
        with torch.no_grad():
            expected, state = agent.core.step(observation, state)
            done[:, step] = agent.decode(expected.y)
        torch.testing.assert_close(output.y[step], expected.y)
    np.testing.assert_allclose(actions, done, rtol=1e-4, atol=1e-6)

    report = probe(agent, episodes=4)
    assert list(report) == [
        "intact",
        "no_writing",
        "fast_erased",
        "hidden_erased",
        "fast_transplant",
        "hidden_transplant",
    ]
    followed = trace(agent, episode)
    norms = play_examples(agent, 3)[2]
    assert set(norms) == set(followed.norm)
    assert all(norm > 0 for norm in norms.values())


def test_output_that_is_not_finite_is_refused():
    agent = WithHead(make_task("PlasticRNN/CueChoice-v0"))
    nn.init.constant_(next(agent.core.parameters()), torch.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        agent.play(agent.task.sample(np.random.default_rng(0), 2))


def test_preprocess_and_decode_are_abstract():
    with pytest.raises(TypeError, match="abstract methods decode, preprocess"):
        Agent(make_task("PlasticRNN/CueReward-v0"), nn.Identity())
    assert isinstance(SupervisedAgent(make_task("PlasticRNN/CueReward-v0"), NetworkConfig(hidden_size=2)), Agent)


def test_actions_are_clipped_to_their_space():
    task = make_task("PlasticRNN/CueReward-v0")
    actions = SupervisedAgent(task, NetworkConfig(hidden_size=2)).decode(
        torch.tensor([[[-7.0], [-0.5]], [[0.25], [1.5]]])
    )
    np.testing.assert_array_equal(actions, [[[-1.0], [-0.5]], [[0.25], [1.0]]])


class Notes(NamedTuple):
    """A part of `TrialBook`'s state: rows of cue, outcome and two ones, zero where nothing is written yet."""

    table: torch.Tensor


class TrialBook(RecurrentCore):
    """Writes down, in the fast part, what approaching a cue brought; approaches what is new or was good."""

    def __init__(self, task):
        super().__init__(task.observation_space.shape[0], 2)
        self.slots = task.n_trials

    def initial_state(self, batch_size):
        return State(
            hidden=Notes(torch.zeros(batch_size, 1)), fast=Notes(torch.zeros(batch_size, self.slots, self.input_size))
        )

    def step(self, x, state):
        table = state.fast.table
        cue, outcome, approached = x[:, :-3], x[:, -3], x[:, -1] > 0
        filled = table[..., -1] > 0
        distance = (table[..., :-3] - cue[:, None]).square().sum(-1) + 1e6 * ~filled
        value = table[torch.arange(len(x)), distance.argmin(-1), -3]
        # Different cues are further apart than noise brings views of one.
        stake = torch.where(distance.min(-1).values < 0.5, value, 1.0)
        written = table.clone()
        slot = filled.sum(-1).clamp(max=self.slots - 1)
        written[torch.arange(len(x)), slot] = torch.cat([cue, outcome[:, None], torch.ones(len(x), 2)], -1)
        table = torch.where(approached[:, None, None], written, table)
        return CoreOutput(torch.stack([torch.zeros_like(stake), stake], -1), None), state._replace(fast=Notes(table))


class Trying(Agent):
    """Plays by a `TrialBook`."""

    def __init__(self, **arguments):
        task = make_task("PlasticRNN/CueChoice-v0", noise=0.02, n_cues=3, **arguments)
        super().__init__(task, TrialBook(task))
        self.register_buffer("nothing", torch.zeros(0))

    def preprocess(self, observation):
        return observation

    def decode(self, y):
        return y.argmax(-1).numpy()


def test_in_an_interactive_task_the_memory_of_ones_own_trials_is_found():
    model = Trying()
    report = probe(model, episodes=400)
    own = {name: result.metric.mean for name, result in report.items()}
    twin = {name: result.twin_metric.mean for name, result in report.items()}
    assert report.metric_name == "reward per scored step from step 12 on"
    assert own["intact"] > 0.9 * report.oracle.mean > 0.15
    assert own["hidden_erased"] == own["hidden_transplant"] == own["intact"]
    # Who forgets has to try again, as at the beginning of an episode: no worse, and no better.
    first_half = probe(Trying(n_trials=6), episodes=400, step=0)
    assert own["fast_erased"] == pytest.approx(first_half["intact"].metric.mean, abs=0.03)
    assert own["no_writing"] == pytest.approx(0, abs=0.03)  # all is new, and approached
    assert own["fast_erased"] < own["intact"] - 0.03
    # A twin's memories lead to what is good for the twin, and are not made good by trying: nothing seems new.
    assert twin["fast_transplant"] == pytest.approx(own["intact"], abs=0.05)
    assert own["fast_transplant"] < own["fast_erased"] - 0.05
    # With everything counted the trials before the intervention are, too.
    whole = probe(model, episodes=400, step=0, interventions=("intact",))
    assert whole.metric_name == "reward per scored step"
    assert first_half["intact"].metric.mean < whole["intact"].metric.mean < own["intact"]
