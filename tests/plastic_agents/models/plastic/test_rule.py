"""The register of rules, the errors of wrong rules, and the settings of networks with rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.rule import (
    NO_LIMIT,
    RULES,
    MatrixUpdate,
    PlasticityRule,
    Update,
    make_rule,
    register_rule,
)
from plastic_agents.models.plastic.rules import Hebbian, Oja, RecursiveLeastSquares
from plastic_agents.models.plastic.update import LAYER_KINDS, Plasticity, settings_of
from torch import nn

I, H, O = 3, 5, 2


@dataclass(frozen=True)
class Rule(PlasticityRule):
    """A Hebbian rule with a vector and a matrix in its state, and a constant."""

    slope: float = 0.5

    def make_parameters(self, n_in, n_out):
        return nn.ParameterDict({"start": nn.Parameter(torch.full((n_out,), 0.3))})

    def initial_state(self, parameters, n_in, n_out):
        return {"theta": parameters["start"] * self.slope, "trace": torch.full((n_in, n_out), 0.1)}

    def update(self, step):
        trace = MatrixUpdate(step.pre, torch.tanh(step.post), rate=step.eta, keep=1 - step.eta)
        theta = 0.9 * step.state["theta"] + 0.1 * step.post
        return Update(step.pre, step.post, add={"trace": step.signed_eta}, state={"theta": theta, "trace": trace})


def make(rule, cell="rnn", n_layers=1, **settings):
    return PlasticNetwork(I, H, O, cell, rule, Plasticity(**settings), n_layers)


# The register


def test_register_rule(monkeypatch):
    monkeypatch.setattr("plastic_agents.models.plastic.rule.RULES", rules := {"hebbian": Hebbian})

    @register_rule("mine")
    class Mine(Hebbian):
        pass

    assert rules == {"hebbian": Hebbian, "mine": Mine}
    assert make_rule("mine") == ("mine", Mine())
    assert make(Mine()).rule_name == "mine"
    for name in ("mine", "hebbian", "none"):
        with pytest.raises(ValueError, match=f"name of a rule must not be in use, got '{name}'"):
            register_rule(name)(Oja)
    assert rules["mine"] is Mine
    for name, decorated, message in (
        (Oja, Oja, "name of a rule must be a str, as in .*, got <class .*Oja"),
        ("other", nn.Linear, "a rule must be a class derived from PlasticityRule, got <class .*Linear"),
        ("other", Oja(), r"a rule must be a class derived from PlasticityRule, got Oja\(\)"),
    ):
        with pytest.raises(TypeError, match=message):
            register_rule(name)(decorated)


def test_a_rule_that_is_defined_again_replaces_the_old_one(monkeypatch):
    monkeypatch.setattr("plastic_agents.models.plastic.rule.RULES", rules := {})

    def run_cell():
        @register_rule("mine")
        class Mine(Hebbian):
            pass

        return Mine

    first, second = run_cell(), run_cell()
    assert first is not second
    assert rules == {"mine": second}


def test_make_rule():
    for name, rule_class in RULES.items():
        assert make_rule(name) == (name, rule_class())
        assert make_rule(rule_class()) == (name, rule_class())
    assert make_rule(Rule(slope=2.0)) == ("Rule", Rule(slope=2.0))
    with pytest.raises(ValueError, match=r"rule must be one of \('bcm', .*'self_referential'\), or a .*, got 'hebb'"):
        make_rule("hebb")
    for value in (Hebbian, None, 3):
        with pytest.raises(TypeError, match="rule must be the name of a rule or a PlasticityRule, got"):
            make_rule(value)


# Errors of wrong rules, at construction


def with_update(change):
    """Make a rule whose update is that of `Rule`, changed."""

    class Wrong(Rule):
        def update(self, step):
            update = super().update(step)
            return Update(**{**vars(update), **change(step, update)})

    return Wrong()


def wide(tensor):
    return torch.cat([tensor, tensor], dim=-1)


def with_trace(**changes):
    """Return a change of the matrix's update."""
    return lambda step, update: {
        "state": {
            **update.state,
            "trace": MatrixUpdate(
                **{**vars(update.state["trace"]), **{key: value(step) for key, value in changes.items()}}
            ),
        }
    }


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s, u: {"pre": wide(s.pre)}, ValueError, r"pre .* must have shape \[2, 3\], got \[2, 6\]"),
        (lambda s, u: {"pre": s.pre[:1]}, ValueError, r"pre .* must have shape \[2, 3\], got \[1, 3\]"),
        (lambda s, u: {"pre": None}, TypeError, "pre .* must be a tensor, got NoneType"),
        (lambda s, u: {"post": s.pre}, ValueError, r"post .* must have shape \[2, 5\], got \[2, 3\]"),
        (lambda s, u: {"rate": s.eta[:, 0]}, ValueError, r"rate .* must have shape \[2, 1\], got \[2\]"),
        (lambda s, u: {"rate": 0.1}, TypeError, "rate .* must be a tensor, got float"),
        (lambda s, u: {"keep": s.post}, ValueError, r"keep .* must have shape \[2, 1\], got \[2, 5\]"),
        (lambda s, u: {"keep_columns": s.pre}, ValueError, r"keep_columns .* shape \[2, 5\], got \[2, 3\]"),
        (lambda s, u: {"keep_rows": s.post}, ValueError, r"keep_rows .* shape \[2, 3\], got \[2, 5\]"),
        (lambda s, u: {"add": {"trace": s.post}}, ValueError, r"add.trace .* shape \[2, 1\], got \[2, 5\]"),
        (lambda s, u: {"add": {"theta": s.eta}}, ValueError, r"add .* matrices of shape \[3, 5\] .*, got 'theta'"),
        (lambda s, u: {"add": {"other": s.eta}}, ValueError, r"add .* matrices of shape \[3, 5\] .*, got 'other'"),
        (lambda s, u: {"state": {}}, ValueError, r"the state .* have the entries \['theta', 'trace'\], got \[\]"),
        (lambda s, u: {"state": {**u.state, "x": s.eta}}, ValueError, r"entries .*, got \['theta', 'trace', 'x'\]"),
        (
            lambda s, u: {"state": {**u.state, "theta": s.pre}},
            ValueError,
            r"state.theta .* must have shape \[2, 5\], got \[2, 3\]",
        ),
        (lambda s, u: {"state": {**u.state, "theta": 0.0}}, TypeError, "state.theta .* must be a tensor, got float"),
        (
            lambda s, u: {"state": {**u.state, "theta": u.state["trace"]}},
            TypeError,
            "state 'theta' .* must be a tensor, got MatrixUpdate",
        ),
        (
            lambda s, u: {"state": {**u.state, "trace": s.pre}},
            TypeError,
            "state 'trace' .* must be a MatrixUpdate, got Tensor",
        ),
        (with_trace(pre=lambda s: s.post), ValueError, r"state.trace.pre .* must have shape \[2, 3\], got \[2, 5\]"),
        (with_trace(post=lambda s: s.pre), ValueError, r"state.trace.post .* must have shape \[2, 5\], got \[2, 3\]"),
        (with_trace(rate=lambda s: s.pre), ValueError, r"state.trace.rate .* must have shape \[2, 1\], got \[2, 3\]"),
        (with_trace(keep=lambda s: None), TypeError, "state.trace.keep .* must be a tensor, got NoneType"),
        (lambda s, u: {"rate": s.eta / 0}, ValueError, "rate .* must be finite, got .*inf"),
        (lambda s, u: {"keep": s.eta * torch.nan}, ValueError, "keep .* must be finite, got .*nan"),
        (lambda s, u: {"keep_columns": s.post + torch.inf}, ValueError, "keep_columns .* must be finite, got .*inf"),
        (lambda s, u: {"add": {"trace": s.eta / 0}}, ValueError, "add.trace .* must be finite, got .*inf"),
        (with_trace(keep=lambda s: s.eta / 0), ValueError, "state.trace.keep .* must be finite, got .*inf"),
    ],
)
def test_wrong_updates_are_refused(change, error, message):
    with pytest.raises(error, match=message) as caught:
        make(with_update(change), extra=0)
    assert "of rule Wrong in layer input" in str(caught.value)


def rule_of(update, state=None):
    class Wrong(PlasticityRule):
        def initial_state(self, parameters, n_in, n_out):
            return {} if state is None else state(n_in, n_out)

    Wrong.update = lambda self, step: update(step)
    Wrong.__abstractmethods__ = frozenset()
    return Wrong()


def test_a_rule_that_returns_no_update():
    for value in (None, (1, 2)):
        with pytest.raises(TypeError, match=r"the update of rule Wrong in layer input must be an Update, got"):
            make(rule_of(lambda step: value))  # noqa: B023  # called at once


def test_a_rule_that_reads_what_it_does_not_have():
    with pytest.raises(ValueError, match="uses_loss_gradient of rule Wrong must be true, because it reads"):
        make(rule_of(lambda step: Update(step.pre, step.loss_gradient)))
    message = r"read_state of rule Wrong in layer input must name one of its matrices, \[\], got 'trace'"
    with pytest.raises(ValueError, match=message):
        make(rule_of(lambda step: Update(step.pre, step.read_state("trace", step.pre))))
    matrix = {"state": lambda n_in, n_out: {"trace": torch.zeros(n_in, n_out)}}
    message = r"step.state of rule Wrong in layer input must be read for vectors only, got the matrix 'trace'"
    with pytest.raises(ValueError, match=message):
        make(rule_of(lambda step: Update(step.pre, step.post, add=step.state["trace"]), **matrix))
    with pytest.raises(KeyError, match="'mean'"):
        make(rule_of(lambda step: Update(step.pre, step.state["mean"]), **matrix))

    class ReadsTheWrongMatrix(Rule):
        name = "other"

        def update(self, step):
            step.read_state(self.name, step.pre)
            return super().update(step)

    class ReadsAVector(ReadsTheWrongMatrix):
        name = "theta"

    for rule in (ReadsTheWrongMatrix(), ReadsAVector()):
        message = rf"read_state of rule Reads\w+ in layer input .* matrices, \['trace'\], got '{rule.name}'"
        with pytest.raises(ValueError, match=message):
            make(rule)


def test_a_wrong_initial_state():
    def hebbian(step):
        return Update(step.pre, step.post)

    for shape in ((), (2, 3, 4)):
        with pytest.raises(
            ValueError, match=r"state 'x' of rule Wrong in layer input must have shape \[n\] or \[n, m\]"
        ):
            make(rule_of(hebbian, lambda n_in, n_out: {"x": torch.zeros(shape)}))  # noqa: B023  # called at once
    with pytest.raises(TypeError, match="state 'x' of rule Wrong in layer input must be a tensor, got float"):
        make(rule_of(hebbian, lambda n_in, n_out: {"x": 0.0}))


def test_errors_of_a_later_layer_name_it():
    class OnlyInTheReadout(Rule):
        def update(self, step):
            update = super().update(step)
            return Update(step.pre, step.pre, state=update.state) if step.post.shape[-1] == 4 else update

    with pytest.raises(ValueError, match=r"post of rule OnlyInTheReadout in layer readout must have shape \[2, 4\]"):
        make(OnlyInTheReadout(), extra=1, n_layers=2)


# Settings


def test_defaults_come_from_the_rule():
    settings = settings_of(Plasticity(), RecursiveLeastSquares())
    assert settings == (True, 1.0, 0.0, 4, "absent", NO_LIMIT, ("readout",))
    settings = settings_of(Plasticity(), Hebbian())
    assert settings == (True, 0.2, 0.2, 4, "random", 1.0, LAYER_KINDS)
    assert settings_of(Plasticity(), Oja()).decay == 0.0


def test_settings_override_the_rule():
    plasticity = Plasticity(False, 0.3, 0.0, 1, "-1", 2.0, ("readout", "input"))
    assert settings_of(plasticity, RecursiveLeastSquares()) == (False, 0.3, 0.0, 1, "-1", 2.0, ("input", "readout"))
    assert settings_of(Plasticity(max_norm=NO_LIMIT), Hebbian()).max_norm == NO_LIMIT


def test_a_decay_of_none_is_the_rate():
    assert settings_of(Plasticity(rate=0.7), Hebbian()).decay == 0.7
    assert settings_of(Plasticity(rate=0.7, decay=0.1), Hebbian()).decay == 0.1
    assert settings_of(Plasticity(rate=0.7), Oja()).decay == 0.0  # the rule has its own

    class Decays(Hebbian):
        decay: ClassVar[float | None] = 0.4

    assert settings_of(Plasticity(rate=0.7), Decays()).decay == 0.4


@pytest.mark.parametrize("layers", [(), "readout", ("output",), ("readout", "readout")])
def test_wrong_layers_are_refused(layers):
    with pytest.raises(ValueError, match="layers must hold one or more of"):
        Plasticity(layers=layers)


def test_layers_are_in_the_order_of_the_network():
    assert Plasticity(layers=("readout", "hidden_to_hidden", "input")).layers == (
        "input",
        "hidden_to_hidden",
        "readout",
    )
    assert Plasticity(layers=["readout"]).layers == ("readout",)


# Networks


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize("rule", ["hebbian", "gradient", "bcm", "self_referential"])
def test_only_the_plastic_layers_have_fast_weights(rule, cell):
    network = make(rule, cell, n_layers=2, layers=("hidden_to_hidden",), alpha_init="random")
    plastic = {"hidden_to_hidden", "hidden_to_hidden_2"}
    assert set(network.initial_state(1).fast) == set(network.rule_parameters) == plastic
    for name, layer in network.layers.items():
        assert hasattr(layer, "alpha_weight") == layer.plastic == (name in plastic)
        extra = network.rule.extra_outputs(layer.in_features, network.output_sizes[name]) if layer.plastic else 0
        assert layer.out_features == network.output_sizes[name] + extra

    xs = torch.randn(6, 3, I)
    output, final = network.unroll(xs)
    assert set(final.fast) == plastic
    output.y.square().mean().backward()
    assert all(getattr(network, name).alpha_weight.grad.any() for name in plastic)
    assert all(layer.weight.grad.any() for layer in network.layers.values())


def test_a_network_with_one_plastic_layer_trains():
    network = make("hebbian", "tanh_rnn", layers=("hidden_to_hidden",))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    xs, targets = torch.randn(8, 4, I), 0.5 * torch.randn(4, O)
    losses = []
    for _ in range(60):
        loss = (network.unroll(xs)[0].y[-1] - targets).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_two_recurrent_layers():
    network = make(Rule(), "lstm", n_layers=2)
    state = network.initial_state(3)
    names = ["input", "input_to_hidden", "hidden_to_hidden", "input_to_hidden_2", "hidden_to_hidden_2", "readout"]
    assert list(state.fast) == list(network.layers) == names
    assert state.hidden.h.shape == state.hidden.c.shape == (3, 2 * H)
    sizes = {"input": (I, H), "readout": (H, O + 5)}
    for name, fast in state.fast.items():
        n_in, n_out = sizes.get(name, (H, 4 * H))
        assert fast.weight.shape == fast.rule["trace"].shape == (3, n_in, n_out)
        assert fast.bias.shape == fast.rule["theta"].shape == (3, n_out)
    parts = network.split_hidden(state.hidden)
    assert [part.h.shape for part in parts] == [(3, H), (3, H)]
    with pytest.raises(ValueError, match="n_layers must be"):
        make(Rule(), n_layers=0)


def test_extra_outputs_are_for_the_rule_alone():
    shapes = {}

    class Extra(PlasticityRule):
        def extra_outputs(self, n_in, n_out):
            return 2 * n_in

        def make_parameters(self, n_in, n_out):
            shapes[n_in, n_out] = None
            return nn.Module()

        def update(self, step):
            shapes[step.pre.shape[-1], step.read(step.pre).shape[-1]] = (step.post.shape[-1], step.extra.shape[-1])
            assert torch.equal(step.read(step.pre)[:, step.post.shape[-1] :], step.extra)
            return Update(step.pre, torch.cat([step.post, step.extra], dim=-1))

    network = make(Extra(), extra=1)
    assert shapes == {(I, H + 2 * I): (H, 2 * I), (H, 3 * H): (H, 2 * H), (H, O + 2 + 2 * H): (O + 2, 2 * H)}
    output, final = network.unroll(torch.randn(4, 2, I))
    assert output.y.shape == (4, 2, O)
    assert final.fast["readout"].weight.shape == (2, H, O + 2 + 2 * H)


@pytest.mark.parametrize("form", ["auto", "dense"])
def test_an_initial_state_of_the_rule_restarts_inside_a_segment(form):
    network = make(Rule(slope=2.0))
    state = network.initial_state(2)
    assert all(torch.equal(fast.rule["theta"], torch.full_like(fast.bias, 0.6)) for fast in state.fast.values())
    xs = torch.randn(7, 2, I)
    episode_starts = torch.zeros(7, 2, dtype=torch.bool)
    episode_starts[4, 1] = True
    output, final = network.unroll(xs, episode_starts=episode_starts, form=form)
    restarted, restarted_final = network.unroll(xs[4:], form=form)
    unbroken, unbroken_final = network.unroll(xs, form=form)
    torch.testing.assert_close(output.y[4:, 1], restarted.y[:, 1])
    torch.testing.assert_close(output.y[:, 0], unbroken.y[:, 0])
    for name, fast in final.fast.items():
        for key, value in fast.rule.items():
            torch.testing.assert_close(value[1], restarted_final.fast[name].rule[key][1])
            torch.testing.assert_close(value[0], unbroken_final.fast[name].rule[key][0])


def test_a_rule_object_with_a_constant():
    xs = torch.randn(5, 2, I)
    outputs = []
    for rule in (Rule(), Rule(slope=0.5), Rule(slope=3.0)):
        torch.manual_seed(1)
        network = make(rule)
        assert network.rule == rule
        assert network.rule_name == "Rule"
        outputs.append(network.unroll(xs)[1].fast["input"].rule["theta"])
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    with pytest.raises(AttributeError, match="cannot assign to field 'slope'"):
        network.rule.slope = 1.0
