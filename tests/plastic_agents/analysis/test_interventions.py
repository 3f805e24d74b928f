"""Interventions: the built-in ones, and those of a user."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.colors import is_color_like
from plastic_agents import (
    INTERVENTIONS,
    Intervention,
    NetworkConfig,
    SupervisedAgent,
    adaptation_figure,
    comparison_table,
    over_seeds,
    probe,
    report_table,
    write_report,
)
from plastic_agents.models.core import State, map_state

from plastic_envs import make_task
from tests.plastic_agents.memory_cores import Notebook

TASK = "PlasticRNN/CueReward-v0"


def frozen_hooks(step, n_steps, donor):
    """Stop writing at a step: put the fast weights of that step back before each later step."""
    assert donor is None
    stored = {}

    def freeze(state):
        return state._replace(fast=stored.setdefault("fast", state.fast))

    return dict.fromkeys(range(step, n_steps), freeze)


def shuffled_transplant_hooks(step, n_steps, donor):
    """Take the fast weights of an unrelated episode: the twin of the next episode in the batch."""
    return {step: lambda state: state._replace(fast=map_state(lambda tensor: tensor.roll(1, 0), donor.fast))}


FROZEN = Intervention("frozen", "writing stopped", "#332288", frozen_hooks, needs_fast_weights=True)
UNRELATED = Intervention(
    "unrelated_transplant",
    "an unrelated episode's fast weights",
    "saddlebrown",
    shuffled_transplant_hooks,
    needs_fast_weights=True,
    needs_donor=True,
)


@pytest.fixture(scope="module")
def report():
    """A report on interventions of every kind, with a network that keeps its memory in the fast part."""
    task = make_task(TASK, noise=0.02)
    agent = SupervisedAgent(task, Notebook(task, "fast"))
    return probe(agent, episodes=100, interventions=["intact", FROZEN, UNRELATED, "fast_erased"], batch_size=30)


def test_built_in_interventions_have_distinct_labels_and_colours():
    assert list(INTERVENTIONS) == [
        "intact",
        "no_writing",
        "fast_erased",
        "hidden_erased",
        "fast_transplant",
        "hidden_transplant",
    ]
    assert all(intervention.name == name for name, intervention in INTERVENTIONS.items())
    assert len({intervention.label for intervention in INTERVENTIONS.values()}) == len(INTERVENTIONS)
    assert len({intervention.colour for intervention in INTERVENTIONS.values()}) == len(INTERVENTIONS)
    assert all(is_color_like(intervention.colour) for intervention in INTERVENTIONS.values())


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_built_in_interventions_change_the_part_of_the_state_that_they_name(name):
    initial = State(hidden=torch.zeros(2, 3), fast=[torch.full((2, 3, 3), 4.0)])
    state = State(hidden=torch.ones(2, 3), fast=[torch.ones(2, 3, 3)])
    donor = State(hidden=torch.full((2, 3), 5.0), fast=[torch.full((2, 3, 3), 7.0)])
    intervention = INTERVENTIONS[name]
    hooks = intervention.make_hooks(2, 4, donor if intervention.needs_donor else None)
    expected_steps = {"intact": [], "no_writing": [0, 1, 2, 3], "fast_erased": [0, 2]}
    assert list(hooks) == expected_steps.get(name, [2])
    expected = {
        "intact": (1, 1),
        "no_writing": (1, 4),
        "fast_erased": (1, 4),
        "hidden_erased": (0, 1),
        "fast_transplant": (1, 7),
        "hidden_transplant": (5, 1),
    }
    assert hooks.get(0, lambda state: state)(initial) == initial
    changed = hooks[2](state) if hooks else state
    assert (changed.hidden.unique().item(), changed.fast[0].unique().item()) == expected[name]
    assert intervention.needs_donor == name.endswith("transplant")
    assert intervention.needs_fast_weights == (name in ("no_writing", "fast_erased", "fast_transplant"))


@pytest.mark.parametrize("name", ["no_writing", "fast_erased"])
@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("rule", ["hebbian", "rls"])
def test_erasing_restores_the_fast_weights_and_the_rule_state_of_the_start(rule, step, name):
    core = NetworkConfig(rule, "gru", hidden_size=4).make_core(3, 2)
    before, after = {}, {}

    def recorded(t, hook):
        def record(state):
            before[t], after[t] = state, hook(state)
            return after[t]

        return record

    hooks = INTERVENTIONS[name].make_hooks(step, 5, None)
    core.unroll(torch.randn(5, 2, 3), hooks={t: recorded(t, hook) for t, hook in hooks.items()})
    assert step in after
    for t, state in after.items():
        assert state.hidden is before[t].hidden
        map_state(partial(torch.testing.assert_close, rtol=0, atol=0), state.fast, core.initial_state(2).fast)
        if rule == "rls" and t > 0:
            assert not torch.equal(before[t].fast["readout"].rule["inverse"], state.fast["readout"].rule["inverse"])
            assert state.fast["readout"].rule["inverse"].any()


def test_probe_plays_interventions_of_a_user(report):
    assert list(report) == ["intact", "frozen", "unrelated_transplant", "fast_erased"]
    # The notebook does not write at queries.
    assert report["frozen"].error == report["intact"].error
    # Cues of an unrelated episode do not help, neither with the episode's rewards nor with the twin's.
    assert report["unrelated_transplant"].error.mean > 0.5
    assert report["unrelated_transplant"].twin_error.mean > 0.5
    assert report["unrelated_transplant"].error != report["fast_erased"].error


def test_tables_show_the_label_of_an_intervention_of_a_user(report):
    labels = list(report_table(report).columns[0].cells)
    assert labels[:4] == ["intact", "writing stopped", "an unrelated episode's fast weights", "fast weights erased"]
    labels = list(comparison_table({"notebook": report}).columns[0].cells)
    assert "writing stopped" in labels


def test_figure_shows_label_and_colour_of_an_intervention_of_a_user(report):
    figure = adaptation_figure({"notebook": report})
    colours = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert colours["writing stopped"] == "#332288"
    assert colours["an unrelated episode's fast weights"] == "saddlebrown"
    assert "writing stopped" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_report_files_have_interventions_of_a_user(report, tmp_path):
    write_report(tmp_path, {"notebook": over_seeds([report, report])})
    result = json.loads((tmp_path / "report.json").read_text())["notebook"]["results"]["unrelated_transplant"]
    assert (result["label"], result["colour"]) == (UNRELATED.label, UNRELATED.colour)
    assert result["metric"]["mean"] == pytest.approx(report["unrelated_transplant"].error.mean)


def test_interventions_of_a_user_that_need_fast_weights_are_left_out_without_them():
    agent = SupervisedAgent(make_task(TASK), NetworkConfig(rule="none", hidden_size=8))
    hidden_halved = Intervention(
        "hidden_halved",
        "hidden state halved",
        "black",
        lambda step, n_steps, donor: {
            step: lambda state: state._replace(hidden=map_state(lambda h: h / 2, state.hidden))
        },
    )
    report = probe(agent, episodes=4, interventions=(FROZEN, hidden_halved, "fast_transplant"))
    assert list(report) == ["hidden_halved"]


def test_an_intervention_may_have_the_name_of_a_baseline():
    agent = SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4))
    same = [Intervention(name, name, "black", lambda *_: {}) for name in ("oracle", "memoryless")]
    report = probe(agent, episodes=10, interventions=["intact", *same])
    assert report["oracle"].error == report["memoryless"].error == report["intact"].error
    assert report.oracle != report["oracle"].error


@pytest.mark.parametrize(
    ("field", "value", "error", "message"),
    [
        ("name", "", ValueError, "name must not be empty"),
        ("name", 3, TypeError, "name must be a str, got 3"),
        ("label", None, TypeError, "label must be a str, got None"),
        ("colour", (0, 0, 1), TypeError, "colour must be a str"),
        ("make_hooks", {}, TypeError, "make_hooks must be a function, got {}"),
        ("needs_donor", "no", TypeError, "needs_donor must be True or False, got 'no'"),
        ("needs_fast_weights", 1, TypeError, "needs_fast_weights must be True or False, got 1"),
    ],
)
def test_fields_of_an_intervention_are_checked(field, value, error, message):
    fields = {"name": "x", "label": "x", "colour": "black", "make_hooks": frozen_hooks, field: value}
    with pytest.raises(error, match=message):
        Intervention(**fields)


def test_numpy_bools_are_accepted():
    intervention = Intervention("x", "x", "black", frozen_hooks, needs_donor=np.True_)
    assert intervention.needs_donor is True
