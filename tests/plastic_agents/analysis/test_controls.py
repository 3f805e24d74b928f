"""Control interventions, and interventions on single layers."""

import re
from dataclasses import replace

import pytest
import torch
from matplotlib.colors import is_color_like
from plastic_agents import (
    CONTROLS,
    INTERVENTIONS,
    Intervention,
    NetworkConfig,
    Plasticity,
    SupervisedAgent,
    held_out_rng,
    layer_interventions,
    probe,
)
from plastic_agents.analysis.colours import PALETTE
from plastic_agents.analysis.controls import state_of_writes
from plastic_agents.cli.main import main
from plastic_agents.models.core import State, map_state

from plastic_envs import make_task
from tests.plastic_agents.memory_cores import Notebook

TASK = make_task("PlasticRNN/CueReward-v0", n_support=4, n_queries=3)
STEP = TASK.query_start


def make_agent(rule="hebbian", **settings):
    torch.manual_seed(0)
    return SupervisedAgent(TASK, NetworkConfig(rule, hidden_size=8, plasticity=Plasticity(**settings)))


def states(agent, episode, intervention=None, donor=None):
    """Return the state of the agent from which each step is made."""
    hooks = {} if intervention is None else intervention.make_hooks(STEP, TASK.episode_length, donor)
    made_from = {}

    def recorded(t):
        def record(state):
            made_from[t] = hooks.get(t, lambda same: same)(state)
            return made_from[t]

        return record

    agent.play(episode, {t: recorded(t) for t in range(TASK.episode_length)})
    return made_from


@pytest.fixture
def episode():
    return TASK.sample(held_out_rng(0), 5)


@pytest.fixture
def twins():
    return TASK.sample_yoked(held_out_rng(0), 5)


def assert_equal(fast, other):
    map_state(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), fast, other)


def test_all_interventions_have_distinct_names_labels_and_colours():
    interventions = [*INTERVENTIONS.values(), *CONTROLS.values()]
    assert all(CONTROLS[name].name == name for name in CONTROLS)
    for field in ("name", "label", "colour"):
        assert len({getattr(intervention, field) for intervention in interventions}) == len(interventions)
    assert all(is_color_like(intervention.colour) for intervention in interventions)


def test_an_unrelated_transplant_takes_the_fast_weights_of_the_next_episode(episode):
    agent = make_agent("rls")
    intact, changed = states(agent, episode), states(agent, episode, CONTROLS["unrelated_transplant"])
    assert_equal(changed[STEP].fast, map_state(lambda tensor: tensor.roll(1, 0), intact[STEP].fast))
    assert_equal(changed[STEP].hidden, intact[STEP].hidden)
    assert_equal(changed[STEP - 1], intact[STEP - 1])
    with pytest.raises(ValueError, match="needs batches of two or more episodes, got one of 1"):
        probe(agent, episodes=1, interventions=["unrelated_transplant"])


def test_noise_has_the_norm_of_the_fast_weights_of_each_episode(episode):
    agent = make_agent("rls", layers=("readout", "hidden_to_hidden"))
    intact, changed = states(agent, episode), states(agent, episode, CONTROLS["noise"])
    for name, before in intact[STEP].fast.items():
        after = changed[STEP].fast[name]
        norms = [fast.weight.flatten(1).norm(dim=1) for fast in (before, after)]
        torch.testing.assert_close(*norms)
        assert norms[0].min() > 0
        assert (
            torch.nn.functional.cosine_similarity(before.weight.flatten(1), after.weight.flatten(1)).abs() < 0.5
        ).all()
        assert_equal(before.rule, after.rule)
    assert_equal(changed[STEP].hidden, intact[STEP].hidden)


def test_noise_in_place_of_zero_is_zero(episode):
    agent = make_agent(rate=0.0)
    assert not states(agent, episode, CONTROLS["noise"])[STEP].fast["readout"].weight.any()


def test_frozen_stops_writing_from_the_step_on(episode):
    agent = make_agent("rls")
    intact, changed = states(agent, episode), states(agent, episode, CONTROLS["frozen"])
    assert_equal(changed[STEP], intact[STEP])
    for t in range(STEP, TASK.episode_length):
        assert_equal(changed[t].fast, intact[STEP].fast)
    assert not torch.equal(intact[STEP + 1].fast["readout"].weight, intact[STEP].fast["readout"].weight)


@pytest.mark.parametrize("rule", ["hebbian", "gradient"])
def test_permuted_coefficients_are_the_same_values_in_another_order(rule):
    agent, changed = make_agent(rule), make_agent(rule)
    with torch.no_grad():
        CONTROLS["alpha_permuted"].change_core(changed.core)
    for name, parameter in agent.core.named_parameters():
        other = changed.core.get_parameter(name)
        if "alpha" in name:
            assert not torch.equal(parameter, other)
            torch.testing.assert_close(parameter.flatten().sort().values, other.flatten().sort().values, rtol=0, atol=0)
        else:
            assert torch.equal(parameter, other)


def test_a_probe_with_permuted_coefficients_leaves_the_agent_as_it_is():
    agent = make_agent()
    before = {name: parameter.clone() for name, parameter in agent.named_parameters()}
    report = probe(agent, episodes=20, interventions=["alpha_permuted", "intact"])
    assert report["intact"].metric != report["alpha_permuted"].metric
    assert report["intact"].metric == probe(agent, episodes=20, interventions=["intact"])["intact"].metric
    for name, parameter in agent.named_parameters():
        assert torch.equal(parameter, before[name])


@pytest.mark.parametrize("rule", ["hebbian", "gradient", "gated_delta", "rls"])
def test_writes_at_the_same_rates_give_the_same_fast_weights(rule, twins):
    agent = make_agent(rule).double()
    for own in twins:
        composed = state_of_writes(agent, rates_of=own, writes_of=own, step=STEP)
        torch.testing.assert_close(composed, agent.state_before(own, STEP), rtol=1e-6, atol=1e-7)


def test_writes_at_other_rates_are_sums_of_changes_in_proportion_to_the_rates(twins):
    episode, twin = twins
    agent = make_agent(decay=0.0).double()
    eta, twin_eta = (agent.play(each)[1].eta for each in twins)
    of_twin = states(agent, twin)
    composed = state_of_writes(agent, rates_of=episode, writes_of=twin, step=STEP)
    for name, fast in composed.fast.items():
        changes = [of_twin[t + 1].fast[name].weight - of_twin[t].fast[name].weight for t in range(STEP)]
        factors = [(eta[t] / twin_eta[t])[:, None, None] for t in range(STEP)]
        expected = sum(factor * change for factor, change in zip(factors, changes, strict=True))
        torch.testing.assert_close(fast.weight, expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(eta, twin_eta, rtol=1e-4)
    assert_equal(composed.hidden, of_twin[STEP].hidden)


def test_exchanged_rates_and_writes_are_donors_of_a_transplant(twins):
    episode, twin = twins
    agent = make_agent()
    for name, rates_of, writes_of in (("twin_directions", episode, twin), ("twin_rates", twin, episode)):
        donor = CONTROLS[name].make_donor(agent, episode, twin, STEP)
        assert_equal(donor.fast, state_of_writes(agent, rates_of, writes_of, STEP).fast)
        changed = states(agent, episode, CONTROLS[name], donor)
        assert_equal(changed[STEP].fast, donor.fast)
        assert_equal(changed[STEP].hidden, states(agent, episode)[STEP].hidden)


def test_the_state_of_the_rule_is_erased_or_exchanged_without_the_fast_weights(twins):
    agent = make_agent("rls")
    intact, donors = (states(agent, episode) for episode in twins)
    expected = {"rule_state_erased": intact[0], "rule_state_transplant": donors[STEP]}
    for name, other in expected.items():
        changed = states(agent, twins[0], CONTROLS[name], donors[STEP])[STEP].fast["readout"]
        assert torch.equal(changed.weight, intact[STEP].fast["readout"].weight), name
        assert torch.equal(changed.rule["inverse"], other.fast["readout"].rule["inverse"]), name
        assert not torch.equal(changed.rule["inverse"], intact[STEP].fast["readout"].rule["inverse"]), name
    at_start = CONTROLS["rule_state_erased"].make_hooks(0, TASK.episode_length, None)[0](intact[0])
    assert torch.equal(at_start.fast["readout"].rule["inverse"], intact[0].fast["readout"].rule["inverse"])


RULE_STATE = {"rule_state_erased", "rule_state_transplant"}


@pytest.mark.parametrize(
    ("network", "left_out"),
    [
        (NetworkConfig("hebbian", hidden_size=8), RULE_STATE),
        (NetworkConfig("delta", hidden_size=8), RULE_STATE | {"alpha_permuted"}),
        (NetworkConfig("rls", hidden_size=8), {"alpha_permuted"}),
        (
            NetworkConfig("hebbian", hidden_size=8, plasticity=Plasticity(modulated=False)),
            RULE_STATE | {"twin_directions", "twin_rates"},
        ),
        (NetworkConfig("none", hidden_size=8), set(CONTROLS)),
    ],
)
def test_controls_that_do_not_apply_are_left_out(network, left_out):
    report = probe(SupervisedAgent(TASK, network), episodes=4, interventions=list(CONTROLS))
    assert list(report) == [name for name in CONTROLS if name not in left_out]


def test_controls_work_with_a_core_of_a_user():
    report = probe(SupervisedAgent(TASK, Notebook(TASK, "fast")), episodes=60, interventions=["intact", *CONTROLS])
    assert list(report) == ["intact", "unrelated_transplant", "noise", "frozen"]
    assert report["frozen"].error == report["intact"].error  # the notebook does not write at queries
    assert report["unrelated_transplant"].error.mean > report["intact"].error.mean + 0.2
    assert report["noise"].error.mean > report["intact"].error.mean + 0.2


def test_layer_interventions_change_one_layer(twins):
    episode, twin = twins
    agent = make_agent("gradient")
    interventions = layer_interventions(agent.core)
    layers = list(agent.core.initial_state(1).fast)
    assert [each.name for each in interventions] == [
        f"{layer}_{what}" for layer in layers for what in ("erased", "transplant")
    ]
    assert [each.colour for each in interventions] == [colour for colour in PALETTE[: len(layers)] for _ in range(2)]
    intact, donor = states(agent, episode), agent.state_before(twin, STEP)
    start = agent.core.initial_state(5)
    for intervention in interventions:
        name, _, what = intervention.name.rpartition("_")
        changed = states(agent, episode, intervention, donor)
        source = start if what == "erased" else donor
        assert_equal(changed[STEP].fast[name], source.fast[name])
        for other in set(layers) - {name}:
            assert_equal(changed[STEP].fast[other], intact[STEP].fast[other])
        assert_equal(changed[STEP - 1], intact[STEP - 1])


@pytest.mark.parametrize("core", [NetworkConfig("none").make_core(4, 1), Notebook(TASK, "fast")])
def test_layer_interventions_need_fast_weights_by_layer(core):
    with pytest.raises(TypeError, match=f"fast weights by the names of layers, got {type(core).__name__}"):
        layer_interventions(core)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"change_core": 3}, TypeError, "change_core must be a function or None, got 3"),
        ({"applies_to": "all"}, TypeError, "applies_to must be a function or None, got 'all'"),
        ({"make_donor": lambda *_: State(None)}, ValueError, "make_donor goes with needs_donor=True"),
    ],
)
def test_further_fields_of_an_intervention_are_checked(fields, error, message):
    with pytest.raises(error, match=re.escape(message)):
        replace(INTERVENTIONS["intact"], **fields)


def test_a_core_can_be_changed_by_an_intervention_of_a_user():
    def silence(core):
        core.readout.weight.zero_()
        core.readout.bias.zero_()

    silent = Intervention("silent", "silent", "black", lambda *_: {}, change_core=silence)
    agent = make_agent(layers=("hidden_to_hidden",))
    report = probe(agent, episodes=20, interventions=[silent])
    assert report["silent"].error == report.memoryless


def test_the_command_plays_controls_and_layers(tmp_path, capsys):
    words = ["--training.steps", "1", "--training.evaluation-episodes", "4", "--network.hidden-size", "8"]
    main(["train", "cue-reward-hebbian", "--out", str(tmp_path), *words])
    capsys.readouterr()
    main(["probe", str(tmp_path), "--episodes", "10", "--controls", "--by-layer"])
    printed = capsys.readouterr().out
    for label in ("noise of the same norm", "twin's writes, own rates", "hidden to hidden erased", "twin's readout"):
        assert label in printed
