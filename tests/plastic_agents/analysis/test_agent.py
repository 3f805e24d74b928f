"""Agent: a subclass with the two abstract methods can be probed, traced and logged."""

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
    """An agent with a head on the network's output, as policies have; it does not preprocess observations."""

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
def test_a_subclass_can_be_probed_traced_and_logged(env_id):
    task = make_task(env_id)
    agent = WithHead(task)
    episode = task.sample(np.random.default_rng(0), 3)
    actions, output = agent.play(episode)
    # The reference plays one step at a time, with feedback on the agent's actions.
    state, expected_actions = agent.core.initial_state(3), np.zeros_like(episode.target)
    for step in range(task.episode_length):
        observation = torch.as_tensor(task.with_feedback(episode, expected_actions)[:, step].copy())
        with torch.no_grad():
            expected, state = agent.core.step(observation, state)
            expected_actions[:, step] = agent.decode(expected.y)
        torch.testing.assert_close(output.y[step], expected.y)
    np.testing.assert_allclose(actions, expected_actions, rtol=1e-4, atol=1e-6)

    report = probe(agent, episodes=4)
    assert list(report) == [
        "intact",
        "no_writing",
        "fast_erased",
        "hidden_erased",
        "fast_transplant",
        "hidden_transplant",
    ]
    result = trace(agent, episode)
    norms = play_examples(agent, 3)[2]
    assert set(norms) == set(result.norm)
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
    """A member of `TrialBook`'s state: rows of cue, outcome and two ones; empty rows are zero."""

    table: torch.Tensor


class TrialBook(RecurrentCore):
    """Stores the outcomes of approaches in its fast weights; approaches cues that are new or had positive outcomes."""

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
        # The distance between two cues is larger than the noise.
        stake = torch.where(distance.min(-1).values < 0.5, value, 1.0)
        written = table.clone()
        slot = filled.sum(-1).clamp(max=self.slots - 1)
        written[torch.arange(len(x)), slot] = torch.cat([cue, outcome[:, None], torch.ones(len(x), 2)], -1)
        table = torch.where(approached[:, None, None], written, table)
        return CoreOutput(torch.stack([torch.zeros_like(stake), stake], -1), None), state._replace(fast=Notes(table))


class TrialBookAgent(Agent):
    """Takes the actions of a `TrialBook`."""

    def __init__(self, **arguments):
        task = make_task("PlasticRNN/CueChoice-v0", noise=0.02, n_cues=3, **arguments)
        super().__init__(task, TrialBook(task))
        self.register_buffer("nothing", torch.zeros(0))

    def preprocess(self, observation):
        return observation

    def decode(self, y):
        return y.argmax(-1).numpy()


def test_probe_finds_the_memory_of_an_agents_own_trials():
    model = TrialBookAgent()
    report = probe(model, episodes=400)
    own = {name: result.metric.mean for name, result in report.items()}
    twin = {name: result.twin_metric.mean for name, result in report.items()}
    assert report.metric_name == "reward per scored step from step 12 on"
    assert own["intact"] > 0.9 * report.oracle.mean > 0.15
    assert own["hidden_erased"] == own["hidden_transplant"] == own["intact"]
    # An agent that forgets has to try again, as at the start of an episode.
    first_half = probe(TrialBookAgent(n_trials=6), episodes=400, step=0)
    assert own["fast_erased"] == pytest.approx(first_half["intact"].metric.mean, abs=0.03)
    assert own["no_writing"] == pytest.approx(0, abs=0.03)  # every cue seems new, so the agent approaches it
    assert own["fast_erased"] < own["intact"] - 0.03
    # With the twin's memory the agent acts as is best in the twin. No cue seems new, so it does not try again.
    assert twin["fast_transplant"] == pytest.approx(own["intact"], abs=0.05)
    assert own["fast_transplant"] < own["fast_erased"] - 0.05
    # With step=0, the trials before the intervention count too.
    all_trials = probe(model, episodes=400, step=0, interventions=("intact",))
    assert all_trials.metric_name == "reward per scored step"
    assert first_half["intact"].metric.mean < all_trials["intact"].metric.mean < own["intact"]
