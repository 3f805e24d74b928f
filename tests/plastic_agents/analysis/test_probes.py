"""Probes of networks whose memory is known to be in a certain part of the state."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plastic_agents import (
    INTERVENTIONS,
    NetworkConfig,
    Plasticity,
    SupervisedAgent,
    adaptation_figure,
    held_out_rng,
    probe,
)
from plastic_agents.analysis.controls import CONTROLS
from plastic_agents.analysis.probes import _batch_sizes, _times_shown
from plastic_agents.analysis.report import BY_SHOWING, BY_STEP
from plastic_agents.seeding import HELD_OUT_SPLITS, Stream, stream_rng

from plastic_envs import EpisodeBatch, make_task, registered_ids
from tests.plastic_agents.memory_cores import Notebook

TASK = "PlasticRNN/CueReward-v0"


@pytest.fixture(scope="module")
def reports():
    """Reports by the part of the state that holds the memory."""
    task = make_task(TASK, noise=0.02)
    return {memory: probe(SupervisedAgent(task, Notebook(task, memory)), episodes=400) for memory in ("fast", "hidden")}


def test_a_last_single_episode_has_company():
    agent = small_agent()
    report = probe(agent, episodes=5, batch_size=2, interventions=["intact", CONTROLS["unrelated_transplant"]])
    assert report.episodes == 5
    assert _batch_sizes(5, 2) == [2, 3]
    assert _batch_sizes(1, 2) == [1]
    assert _batch_sizes(6, 4) == [4, 2]


def test_counts_of_items_need_little_memory():
    task = make_task("PlasticRNN/SequenceReproduction-v0", length=500, delay=0)
    episode = task.sample(np.random.default_rng(0), 50)
    tracemalloc.start()
    times = _times_shown(task, episode)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (times == -1).all()
    assert peak < 10 * times.nbytes + 8 * task.episode_length**2


def small_agent(rule="hebbian"):
    return SupervisedAgent(make_task(TASK), NetworkConfig(rule, hidden_size=4))


@pytest.mark.parametrize(("memory", "unused"), [("fast", "hidden"), ("hidden", "fast")])
def test_probe_finds_the_part_of_the_state_that_holds_the_memory(reports, memory, unused):
    report = reports[memory]
    intact, transplant = report["intact"], report[f"{memory}_transplant"]
    assert list(report) == list(INTERVENTIONS)
    # The notebook answers a new cue with the reward of another cue, which is a little worse than the oracle's zero.
    assert report.oracle.mean < intact.error.mean < 0.12
    assert report.memoryless.mean > 0.3
    assert report[f"{memory}_erased"].error.mean == pytest.approx(report.memoryless.mean, abs=1e-6)
    assert report[f"{unused}_erased"].error.mean == intact.error.mean
    assert report[f"{unused}_transplant"].error.mean == intact.error.mean
    assert transplant.twin_error.mean == pytest.approx(intact.error.mean, abs=0.03)
    assert transplant.error.mean > 0.5  # wrong answers are worse than the memoryless policy
    assert intact.twin_error.mean > 0.5


def test_no_writing_destroys_only_memory_in_fast_weights(reports):
    fast, hidden = reports["fast"], reports["hidden"]
    assert fast["no_writing"].error.mean == pytest.approx(fast.memoryless.mean, abs=1e-6)
    assert hidden["no_writing"].error.mean == hidden["intact"].error.mean


def test_adaptation_curve_falls_after_the_first_showing(reports):
    curve = reports["fast"]["intact"].curves[BY_SHOWING]
    assert curve.x[:3] == [0, 1, 2]
    assert curve.mean[0] > 0.3
    assert max(curve.mean[1:]) < 0.02
    assert all(low <= mean <= high for mean, low, high in zip(*curve[1:], strict=True) if not np.isnan(low))


@pytest.mark.parametrize("rule", ["hebbian", "gradient"])
def test_no_writing_equals_a_rate_of_zero(rule):
    torch.manual_seed(0)
    task = make_task(TASK)
    writing = SupervisedAgent(task, NetworkConfig(rule=rule, hidden_size=8))
    without = SupervisedAgent(task, NetworkConfig(rule=rule, hidden_size=8, plasticity=Plasticity(rate=0.0)))
    without.load_state_dict(writing.state_dict())
    report = probe(writing, episodes=20)
    expected = probe(without, episodes=20)["intact"].error.mean
    assert report["no_writing"].error.mean == pytest.approx(expected, rel=1e-5)
    assert report["no_writing"].error.mean != pytest.approx(report["intact"].error.mean, rel=1e-3)


def test_step_of_the_intervention():
    task = make_task(TASK, noise=0.02)
    agent = SupervisedAgent(task, Notebook(task, "fast"))
    at_start = probe(agent, episodes=50, step=0, interventions=("intact", "fast_erased"))
    assert at_start["fast_erased"].error.mean == at_start["intact"].error.mean
    late = probe(agent, episodes=50, step=15, interventions=("intact", "fast_erased"))
    assert at_start["intact"].error.mean < late["fast_erased"].error.mean < late.memoryless.mean


def test_networks_without_fast_weights_get_the_hidden_interventions():
    report = probe(small_agent("none"), episodes=20)
    assert list(report) == ["intact", "hidden_erased", "hidden_transplant"]


def test_results_are_in_the_order_of_the_request():
    report = probe(small_agent(), episodes=2, interventions=("hidden_erased", "no_writing", "intact"))
    assert list(report) == ["hidden_erased", "no_writing", "intact"]


def test_probe_is_deterministic():
    agent = small_agent()
    assert probe(agent, episodes=30) == probe(agent, episodes=30)
    assert probe(agent, episodes=30, seed=1).oracle != probe(agent, episodes=30).oracle


def test_probe_restores_training_mode():
    agent = small_agent().train()
    probe(agent, episodes=2, interventions=("intact",))
    assert agent.training


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"interventions": ("lobotomy",)}, ValueError, "interventions must be one of intact, .* got 'lobotomy'"),
        ({"interventions": ("intact", "intact")}, ValueError, "different names, got 'intact' 2 times"),
        ({"interventions": "intact"}, TypeError, "must be a sequence of names or Interventions, got 'intact'"),
        ({"interventions": INTERVENTIONS["intact"]}, TypeError, "must be a sequence of names or Interventions"),
        ({"interventions": (3,)}, TypeError, "interventions must be one of .* got 3"),
        ({"step": 20}, ValueError, "step must be between 0 and 19, got 20"),
        ({"step": 3.5}, TypeError, "step must be a whole number between 0 and 19, got 3.5"),
        ({"step": True}, TypeError, "step must be .* got True"),
        ({"episodes": 0}, ValueError, "episodes must be at least 1, got 0"),
        ({"episodes": True}, TypeError, "episodes must be a whole number .* got True"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        probe(small_agent(), **arguments)


def test_an_object_that_is_no_agent_is_refused():
    with pytest.raises(TypeError, match=r"agent must be a plastic_agents\.Agent, such as the agent of a learner.* got"):
        probe(small_agent().core)


def test_numpy_integers_are_accepted():
    agent = small_agent()
    numbers = {"episodes": 5, "seed": 3, "step": 12, "batch_size": 4}
    numpy_numbers = {name: np.int64(number) for name, number in numbers.items()}
    report = probe(agent, **numpy_numbers)
    assert report == probe(agent, **numbers)
    assert type(report.episodes) is type(report.seed) is type(report.step) is int


@settings(max_examples=50)
@given(items=st.lists(st.integers(-1, 3), min_size=6, max_size=6))
def test_times_shown_equals_a_count(items):
    task = make_task(TASK, n_support=4, n_queries=2)
    blank = np.zeros((1, 6, 1), np.float32)
    episode = EpisodeBatch(blank, blank, np.ones((1, 6), bool), item=np.array([items]))
    expected = [sum(items[s] == items[t] for s in range(min(t, 4))) if items[t] >= 0 else -1 for t in range(6)]
    assert _times_shown(task, episode)[0].tolist() == expected


@pytest.mark.parametrize("env_id", [env_id for env_id in registered_ids() if env_id.startswith("PlasticRNN/")])
def test_every_task_can_be_probed_and_has_its_curves(env_id):
    torch.manual_seed(0)
    task = make_task(env_id)
    report = probe(SupervisedAgent(task, NetworkConfig("hebbian", hidden_size=8)), episodes=30)
    assert list(report) == list(INTERVENTIONS)
    has_items = "Cue" in env_id
    assert list(report.oracle_curves) == ([BY_STEP, BY_SHOWING] if has_items else [BY_STEP])
    scored = np.flatnonzero(task.sample(held_out_rng(0), 1).scored[0]).tolist()
    assert report.oracle_curves[BY_STEP].x == scored
    if env_id == "PlasticRNN/CueChoice-v0":
        # A trial counts as a single showing, although it takes two steps.
        assert report.oracle_curves[BY_SHOWING].x[:4] == [0, 1, 2, 3]
    assert adaptation_figure({"": report}).axes[0].lines


def test_divergence_is_an_error():
    agent = small_agent()
    with torch.no_grad():
        agent.core.readout.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        probe(agent, episodes=2)


@pytest.mark.parametrize("rule", ["hebbian", "none"])
def test_a_hook_that_forgets_to_return_the_state_is_an_error(rule):
    agent = small_agent(rule)
    episode = agent.task.sample(np.random.default_rng(0), 2)
    with pytest.raises(TypeError, match="hook at step 3 must return a State, got NoneType"):
        agent.play(episode, hooks={3: lambda state: None})


SPLITS = st.sampled_from(HELD_OUT_SPLITS)


@given(seed=st.integers(0, 2**70), step=st.integers(0, 10**6), held_out=st.integers(0, 2**70), split=SPLITS)
def test_held_out_episodes_are_never_training_episodes(seed, step, held_out, split):
    assert stream_rng(Stream.TRAINING, seed, step).random() != held_out_rng(held_out, split).random()


@given(validation=st.integers(0, 2**70), test=st.integers(0, 2**70))
def test_test_episodes_are_never_validation_episodes(validation, test):
    assert held_out_rng(validation, "validation").random() != held_out_rng(test, "test").random()


@pytest.mark.parametrize("split", HELD_OUT_SPLITS)
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_held_out_episodes_are_not_those_of_seeds_beyond_32_bits(seed, split):
    assert held_out_rng(seed, split).random() != stream_rng(Stream.TRAINING, seed + 2**32, 0).random()


def test_probe_plays_the_episodes_of_the_split():
    agent = small_agent("hebbian")
    reports = {split: probe(agent, episodes=20, interventions=("intact",), split=split) for split in HELD_OUT_SPLITS}
    assert {split: report.split for split, report in reports.items()} == {split: split for split in HELD_OUT_SPLITS}
    assert reports["test"] == probe(agent, episodes=20, interventions=("intact",))
    assert reports["test"].memoryless != reports["validation"].memoryless
    with pytest.raises(ValueError, match="split must be one of validation, test, got 'train'"):
        probe(agent, episodes=20, split="train")
