"""Probes, held against networks whose memory is known to live in one place."""

import json
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from plastic_agents import (
    INTERVENTIONS,
    NetworkConfig,
    Plasticity,
    SupervisedAgent,
    adaptation_figure,
    held_out_rng,
    over_seeds,
    probe,
)
from plastic_agents.analysis.probes import BY_SHOWING, BY_STEP, estimate, times_shown
from plastic_agents.models.core import CoreOutput, State
from plastic_agents.seeding import Stream, stream_rng
from torch import nn

from plastic_envs import EpisodeBatch, make_task, registered_ids

TASK = "PlasticRNN/CueReward-v0"


class Notes(NamedTuple):
    """Running table of what was shown: slots [B, N, cue + reward + 1 if filled]."""

    table: torch.Tensor


class NotebookNetwork(nn.Module):
    """Writes every presentation down, in the fast or in the hidden part, and answers with the nearest cue's reward."""

    def __init__(self, task, place):
        super().__init__()
        self.input_size, self.output_size = task.observation_space.shape[0], 1
        self.slots, self.place = task.query_start, place

    def initial_state(self, batch_size):
        empty = Notes(torch.zeros(batch_size, self.slots, self.input_size))
        return State(hidden=Notes(empty.table), fast=Notes(empty.table))

    def step(self, x, state):
        table = getattr(state, self.place).table
        cue, reward, query = x[:, :-2], x[:, -2], x[:, -1] > 0
        filled = table[..., -1] > 0
        distance = (table[..., :-2] - cue[:, None]).square().sum(-1) + 1e6 * ~filled
        nearest = distance.argmin(-1)
        found = filled.any(-1)
        answer = torch.where(found, table[torch.arange(len(x)), nearest, -2], 0.0)
        entry = torch.cat([cue, reward[:, None], torch.ones(len(x), 1)], -1)
        slot = filled.sum(-1).clamp(max=self.slots - 1)
        written = table.clone()
        written[torch.arange(len(x)), slot] = entry
        table = torch.where(query[:, None, None], table, written)
        return CoreOutput(answer[:, None], None), state._replace(**{self.place: Notes(table)})

    def unroll(self, xs, state=None, starts=None, hooks=None):
        state = self.initial_state(xs.shape[1]) if state is None else state
        ys = []
        for t, x in enumerate(xs):
            output, state = self.step(x, hooks[t](state) if hooks and t in hooks else state)
            ys.append(output.y)
        return CoreOutput(torch.stack(ys), None), state


@pytest.fixture(scope="module")
def reports():
    task = make_task(TASK, noise=0.02)
    return {
        place: probe(SupervisedAgent(task, NotebookNetwork(task, place)), episodes=400) for place in ("fast", "hidden")
    }


def mse(report, name, against="own"):
    return getattr(report.outcomes[name], against).mean


@pytest.mark.parametrize(("place", "other"), [("fast", "hidden"), ("hidden", "fast")])
def test_memory_is_found_where_it_lives(reports, place, other):
    report = reports[place]
    transplant = {"fast": "transplant", "hidden": "hidden_transplant"}
    assert list(report.outcomes) == list(INTERVENTIONS)
    # A cue that was never shown is answered with another's reward: a little worse than the oracle's zero.
    assert report.oracle.mean < mse(report, "intact") < 0.12 < 0.3 < report.memoryless.mean
    assert mse(report, f"{place}_erased") == pytest.approx(report.memoryless.mean, abs=1e-6)
    assert mse(report, f"{other}_erased") == mse(report, "intact")
    assert mse(report, transplant[other]) == mse(report, "intact")
    assert mse(report, transplant[place], "twin") == pytest.approx(mse(report, "intact"), abs=0.03)
    assert mse(report, transplant[place]) > 0.5  # against its own targets it is wrong, not merely ignorant
    assert mse(report, "intact", "twin") > 0.5


def test_without_writing_only_memory_in_fast_weights_is_lost(reports):
    fast, hidden = reports["fast"], reports["hidden"]
    assert mse(fast, "no_writing") == pytest.approx(fast.memoryless.mean, abs=1e-6)
    assert mse(hidden, "no_writing") == mse(hidden, "intact")


def test_adaptation_curve_falls_once_an_item_was_shown(reports):
    curve = reports["fast"].outcomes["intact"].curves[BY_SHOWING]
    assert curve.x[:3] == [0, 1, 2]
    assert curve.mean[0] > 0.3 and max(curve.mean[1:]) < 0.02
    assert all(low <= mean <= high for mean, low, high in zip(*curve[1:], strict=True) if not np.isnan(low))


@pytest.mark.parametrize("rule", ["hebbian", "gradient"])
def test_no_writing_is_a_rate_of_zero(rule):
    torch.manual_seed(0)
    task = make_task(TASK)
    writing = SupervisedAgent(task, NetworkConfig(rule=rule, hidden_size=8))
    without = SupervisedAgent(task, NetworkConfig(rule=rule, hidden_size=8, plasticity=Plasticity(rate=0.0)))
    without.load_state_dict(writing.state_dict())
    report = probe(writing, episodes=20)
    assert mse(report, "no_writing") == pytest.approx(mse(probe(without, episodes=20), "intact"), rel=1e-5)
    assert mse(report, "no_writing") != pytest.approx(mse(report, "intact"), rel=1e-3)


def test_a_step_of_ones_own_choice():
    task = make_task(TASK, noise=0.02)
    model = SupervisedAgent(task, NotebookNetwork(task, "fast"))
    at_start = probe(model, episodes=50, step=0, interventions=("intact", "fast_erased"))
    assert mse(at_start, "fast_erased") == mse(at_start, "intact")
    late = probe(model, episodes=50, step=15, interventions=("intact", "fast_erased"))
    assert mse(at_start, "intact") < mse(late, "fast_erased") < late.memoryless.mean


def test_networks_without_fast_weights_get_the_hidden_interventions():
    report = probe(SupervisedAgent(make_task(TASK), NetworkConfig(rule="none", hidden_size=8)), episodes=20)
    assert list(report.outcomes) == ["intact", "hidden_erased", "hidden_transplant"]


def test_same_seed_same_report():
    model = SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=8))
    assert probe(model, episodes=30) == probe(model, episodes=30)
    assert probe(model, episodes=30, seed=1).oracle != probe(model, episodes=30).oracle


def test_over_seeds_gives_means_and_ranges():
    task = make_task(TASK)
    reports = []
    for seed in range(3):
        torch.manual_seed(seed)
        reports.append(probe(SupervisedAgent(task, NetworkConfig(hidden_size=4)), episodes=20))
    joint = over_seeds(reports)
    means = [mse(report, "transplant", "twin") for report in reports]
    assert joint.outcomes["transplant"].twin == (pytest.approx(np.mean(means)), min(means), max(means))
    scores = [report.outcomes["intact"].normalised_score for report in reports]
    assert len(set(scores)) == 3 and joint.outcomes["intact"].normalised_score == pytest.approx(np.mean(scores))
    curves = [report.outcomes["intact"].curves[BY_STEP].mean for report in reports]
    assert joint.outcomes["intact"].curves[BY_STEP].mean == pytest.approx(np.mean(curves, axis=0))
    assert joint.spread == "range over 3 training seeds" and joint.oracle == reports[0].oracle
    with pytest.raises(ValueError, match="on the same episodes"):
        over_seeds([reports[0], probe(SupervisedAgent(task, NetworkConfig(hidden_size=4)), episodes=21)])
    with pytest.raises(ValueError, match="got none"):
        over_seeds([])


def test_training_mode_is_put_back():
    model = SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4)).train()
    probe(model, episodes=2, interventions=("intact",))
    assert model.training


def test_report_is_json_without_nan():
    report = probe(SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4)), episodes=1)
    text = json.dumps(report.to_json(), allow_nan=False)
    assert json.loads(text)["outcomes"]["intact"]["own"]["low"] is None


def test_figure_names_its_axes_and_every_line(reports):
    figure = adaptation_figure({"notebook": reports["fast"]}, title="title")
    (panel,) = figure.axes
    assert panel.get_xlabel() == BY_SHOWING and panel.get_ylabel() == "mean squared error"
    assert panel.get_ylim()[0] == 0
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"oracle", "memoryless", "intact", "fast weights erased"} <= set(labels)
    assert len(labels) == len(set(labels)) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"interventions": ("lobotomy",)}, "interventions must be of .* got 'lobotomy'"),
        ({"step": 20}, r"step must be a whole number in \[0, 19\], got 20"),
        ({"step": 3.5}, "got 3.5"),
        ({"episodes": 0}, "episodes must be a whole number, 1 or more, got 0"),
        ({"batch_size": 0}, "batch_size must be .* got 0"),
        ({"seed": -1}, "seed must be .* got -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    model = SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4))
    with pytest.raises(ValueError, match=message):
        probe(model, **arguments)


@settings(max_examples=50)
@given(items=st.lists(st.integers(-1, 3), min_size=6, max_size=6))
def test_times_shown_against_counting(items):
    task = make_task(TASK, n_support=4, n_queries=2)
    blank = np.zeros((1, 6, 1), np.float32)
    episode = EpisodeBatch(blank, blank, np.ones((1, 6), bool), item=np.array([items]))
    expected = [sum(items[s] == items[t] for s in range(min(t, 4))) if items[t] >= 0 else -1 for t in range(6)]
    assert times_shown(task, episode)[0].tolist() == expected


def test_estimate_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        level = rng.normal(size=(60, 1))  # what the steps of an episode share
        counted = rng.random((60, 5)) < 0.6
        mean, low, high = estimate(level + rng.normal(size=(60, 5)) + 2, counted)
        assert low < mean < high
        hits += low < 2 < high
    assert 0.91 < hits / 400 < 0.98
    assert all(np.isnan(estimate(np.zeros((2, 2)), np.zeros((2, 2), bool))))


@pytest.mark.parametrize("env_id", [env_id for env_id in registered_ids() if env_id.startswith("PlasticRNN/")])
def test_every_task_can_be_probed_and_has_its_curves(env_id):
    torch.manual_seed(0)
    task = make_task(env_id)
    report = probe(SupervisedAgent(task, NetworkConfig("hebbian", hidden_size=8)), episodes=30)
    assert list(report.outcomes) == list(INTERVENTIONS)
    has_items = "Cue" in env_id
    assert list(report.oracle_curves) == ([BY_STEP, BY_SHOWING] if has_items else [BY_STEP])
    scored = np.flatnonzero(task.sample(held_out_rng(0), 1).scored[0]).tolist()
    assert report.oracle_curves[BY_STEP].x == scored
    if env_id == "PlasticRNN/CueChoice-v0":
        # A trial is one showing, though it takes two steps.
        assert report.oracle_curves[BY_SHOWING].x[:4] == [0, 1, 2, 3]
    assert adaptation_figure({"": report}).axes[0].lines


def test_a_diverged_network_is_not_given_a_score():
    model = SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4))
    with torch.no_grad():
        model.core.readout.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        probe(model, episodes=2)


def test_interventions_given_as_a_string_are_refused():
    with pytest.raises(TypeError, match="must be a sequence of names"):
        probe(SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4)), interventions="intact")


def test_a_hook_that_forgets_to_return_the_state_is_an_error():
    task = make_task(TASK)
    episode = task.sample(np.random.default_rng(0), 2)
    for rule in ("hebbian", "none"):
        with pytest.raises(TypeError, match="hook at step 3 must return the State"):
            SupervisedAgent(task, NetworkConfig(rule, hidden_size=4)).play(episode, hooks={3: lambda state: None})


@given(seed=st.integers(0, 2**70), step=st.integers(0, 10**6), held_out=st.integers(0, 2**70))
def test_held_out_episodes_are_never_training_episodes(seed, step, held_out):
    assert stream_rng(Stream.TRAINING, seed, step).random() != held_out_rng(held_out).random()


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_held_out_episodes_are_not_those_of_seeds_beyond_32_bits(seed):
    assert held_out_rng(seed).random() != stream_rng(Stream.TRAINING, seed + 2**32, 0).random()


@pytest.mark.parametrize("networks", [1, 2, 3, 4])
@pytest.mark.parametrize("interventions", [("intact",), INTERVENTIONS[:4], INTERVENTIONS])
def test_the_legend_fits_into_the_figure(networks, interventions):
    model = SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4))
    report = probe(model, episodes=30, interventions=interventions)
    figure = adaptation_figure({f"network {number}": report for number in range(networks)})
    FigureCanvasAgg(figure).draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.width
