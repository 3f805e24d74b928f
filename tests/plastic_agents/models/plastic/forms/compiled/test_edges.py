"""The compiled form equals the dense one at the edges of what a kernel knows of its network, or is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from plastic_agents.models.plastic.forms.compiled import kernel
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.rule import PlasticityRule, Update
from plastic_agents.models.plastic.update import LAYER_KINDS, Plasticity
from torch import nn

from tests.plastic_agents.models.plastic.forms.compiled.test_program import needs_kernel
from tests.plastic_agents.models.plastic.test_forms import assert_same, results, run_form

pytestmark = needs_kernel  # each test compares the kernel with another form
I, H, O = 3, 7, 2
EVERYWHERE = Plasticity(layers=LAYER_KINDS, extra=1)


def network(rule, plasticity=EVERYWHERE, hidden_size=H, cell="rnn"):
    torch.manual_seed(0)
    return PlasticNetwork(I, hidden_size, O, cell, rule, plasticity).double()


def assert_forms_agree(core, starts=None, steps=6, batch_size=4):
    assert core.refusal("compiled", torch.zeros(steps, batch_size, I, dtype=torch.float64), None) is None
    torch.manual_seed(1)
    xs = torch.randn(steps, batch_size, I, dtype=torch.float64, requires_grad=True)
    found, wanted = (
        results(run_form, core, xs, None, episode_starts=starts, form=form) for form in ("compiled", "dense")
    )
    assert all(torch.isfinite(value).all() for value in wanted)
    assert_same(found, wanted)


class Signed(PlasticityRule):
    """Hebbian, with a factor that is a buffer."""

    factor = 1.0

    def make_parameters(self, n_in, n_out):
        module = nn.Module()
        module.register_buffer("sign", torch.tensor(1.0))
        return module

    def update(self, step):
        return Update(step.pre, self.factor * step.parameters.sign * step.post)


def test_a_buffer_of_a_rule_may_change():
    first, second = network(Signed()), network(Signed())
    assert_forms_agree(first)
    for parameters in second.rule_parameters.values():
        parameters.sign.fill_(-1.0)
    assert_forms_agree(second)
    first.load_state_dict(second.state_dict())
    assert_forms_agree(first)


def test_a_buffer_of_another_type_takes_another_form():
    class Counted(Signed):
        def make_parameters(self, n_in, n_out):
            module = nn.Module()
            module.register_buffer("sign", torch.tensor(1))
            return module

    with pytest.warns(RuntimeWarning, match=r"the buffer rule_parameters\.\w+\.sign must be torch\.float64"):
        assert network(Counted()).refusal("compiled", torch.zeros(2, 2, I, dtype=torch.float64), None) is not None


def test_a_constant_of_a_class_may_change(monkeypatch):
    core = network(Signed())
    assert_forms_agree(core)
    monkeypatch.setattr(Signed, "factor", -1.0)
    assert_forms_agree(core)


def test_networks_that_share_a_parameter_have_a_kernel_of_their_own():
    plasticity = Plasticity(extra=1, layers=("input_to_hidden", "hidden_to_hidden"))
    tied, untied = (network("bcm", plasticity) for _ in range(2))
    tied.rule_parameters["hidden_to_hidden"]["tau"] = tied.rule_parameters["input_to_hidden"]["tau"]
    with torch.no_grad():
        untied.rule_parameters["hidden_to_hidden"]["tau"].fill_(2.0)
    for core in (tied, untied, tied):
        assert_forms_agree(core)


class StartsAtZero(PlasticityRule):
    """A state that is the output of a relu, except at the start of an episode, where it is learned."""

    layers = ("input_to_hidden",)

    def make_parameters(self, n_in, n_out):
        return nn.ParameterDict({"start": nn.Parameter(torch.zeros(n_in))})

    def initial_state(self, parameters, n_in, n_out):
        return {"v": parameters["start"]}

    def update(self, step):
        return Update(step.state["v"], step.post, state={"v": torch.relu(step.pre - 0.05)})


def test_an_initial_value_has_a_gradient_at_every_start():
    starts = torch.zeros(6, 4, dtype=torch.bool)
    starts[3] = starts[5, 1] = True
    assert_forms_agree(network(StartsAtZero(), Plasticity(extra=1)), starts)


class Delays(PlasticityRule):
    """Writes the input of two steps ago."""

    names = ("a", "b")

    def initial_state(self, parameters, n_in, n_out):
        return {name: torch.zeros(n_in) for name in self.names}

    def update(self, step):
        after = {"a": step.state["b"], "b": 0.9 * step.pre}
        return Update(step.state["a"], step.post, state={name: after[name] for name in self.names})


class DelaysInAnotherOrder(Delays):
    names = ("b", "a")


@pytest.mark.parametrize("rule", [Delays, DelaysInAnotherOrder])
def test_vectors_of_a_state_may_pass_on_their_values(rule):
    starts = torch.zeros(6, 4, dtype=torch.bool)
    starts[3] = True
    assert_forms_agree(network(rule()), starts)


def test_a_rule_may_give_its_state_in_another_order():
    class Reversed(Delays):
        def update(self, step):
            update = super().update(step)
            return replace(update, state=dict(reversed(update.state.items())))

    assert network(Reversed()).refusal("compiled", torch.zeros(2, 2, I, dtype=torch.float64), None) is None


@pytest.mark.filterwarnings("ignore:networks with rule")
def test_vectors_that_change_places_take_another_form():
    class Swaps(Delays):
        def update(self, step):
            return Update(step.pre, step.post, state={"a": step.state["b"], "b": step.state["a"]})

    core = network(Swaps())
    assert "must not change places" in core.refusal("compiled", torch.zeros(2, 2, I, dtype=torch.float64), None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rounding_to_another_type_takes_another_form(dtype):
    class Rounds(PlasticityRule):
        def update(self, step):
            return Update(step.pre.to(dtype).to(step.pre.dtype), step.post)

    with pytest.warns(RuntimeWarning, match=r"values can only be converted to the network's dtype torch\.float64"):
        assert network(Rounds()).refusal("compiled", torch.zeros(2, 2, I, dtype=torch.float64), None) is not None


class Descends(PlasticityRule):
    """Reads the gradient of the inner loss and has extra outputs."""

    uses_loss_gradient = True

    def extra_outputs(self, n_in, n_out):
        return n_in

    def update(self, step):
        return Update(step.pre, torch.cat([step.loss_gradient, 0.5 * step.extra], -1))


@pytest.mark.parametrize("hidden_size", [5, 40])
def test_the_inner_gradient_of_layers_with_extra_outputs(hidden_size):
    assert_forms_agree(network(Descends(), hidden_size=hidden_size))


def test_a_trace_that_keeps_nothing_has_finite_gradients():
    core = network("retroactive").float()
    with torch.no_grad():
        for parameters in core.rule_parameters.values():
            parameters["trace_rate"].fill_(30.0)
    xs = torch.randn(5, 3, I, requires_grad=True)
    found, wanted = (results(run_form, core, xs, None, form=form) for form in ("compiled", "dense"))
    assert all(torch.isfinite(value).all() for value in wanted)
    assert_same(found, wanted, tolerance=1e-4)


class Unrolls(nn.Module):
    def __init__(self, core):
        super().__init__()
        self.core = core

    def forward(self, xs):
        return self.core.unroll(xs)[0].y


@pytest.mark.parametrize("rule", ["gradient", "rls"])
@pytest.mark.parametrize("mode", ["inference", "autocast", "no grad", "functional call"])
def test_the_first_call_may_be_in_any_mode(mode, rule, monkeypatch, recwarn):
    monkeypatch.setattr(kernel, "_KERNELS", {})
    # Otherwise an earlier comparison with the dense form counts.
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False if path.suffix == ".verified" else path.is_file())
    core = network(rule).float()
    xs = torch.randn(4, 3, I)
    wanted = copy.deepcopy(core).unroll(xs, form="dense")[0].y
    if mode == "functional call":
        unrolls = Unrolls(core)
        scaled = {name: 1 * parameter for name, parameter in unrolls.named_parameters()}
        y = torch.func.functional_call(unrolls, scaled, (xs,))
    else:
        modes = {
            "inference": torch.inference_mode(),
            "autocast": torch.autocast("cpu"),
            "no grad": torch.no_grad(),
        }
        with modes[mode]:
            y = core.unroll(xs)[0].y
            core.act(xs[0], core.initial_state(3))
    assert not [warning for warning in recwarn if "run in PyTorch alone" in str(warning.message)]
    assert all(isinstance(made, kernel.Kernel) for made in kernel._KERNELS.values())
    torch.testing.assert_close(y.clone(), wanted, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("form", ["compiled", "dense", "implicit"])
def test_a_start_forgets_a_nan_in_the_first_fast_weights(form):
    core = network("hebbian")
    state = core.initial_state(3)
    state.fast["readout"].weight[1] = float("nan")
    starts = torch.zeros(2, 3, dtype=torch.bool)
    starts[0, 1] = True
    output, final = core.unroll(torch.randn(2, 3, I, dtype=torch.float64), state, starts, form=form)
    assert torch.isfinite(output.y).all()
    assert torch.isfinite(final.fast["readout"].weight).all()


def test_the_fields_of_a_state_have_memory_of_their_own():
    state = network("hebbian", cell="lstm").initial_state(2)
    state.hidden.h[0] = 1.0
    assert (state.hidden.c == 0).all()
