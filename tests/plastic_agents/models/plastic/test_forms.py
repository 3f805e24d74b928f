"""Every form of the plastic network equals the slow reference, forward and backward."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plastic_agents.models.core import map_state
from plastic_agents.models.plastic.cells import CELLS
from plastic_agents.models.plastic.forms import compiled
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.reference import reference_unroll
from plastic_agents.models.plastic.rule import RULES
from plastic_agents.models.plastic.update import LAYER_KINDS, Plasticity
from torch import Tensor

COMPILED = ["compiled"] if compiled.available(torch.zeros(())) else []
FORMS = (*COMPILED, "dense", "implicit")
# The authors' rules with both of their cells, each other rule with one cell, and each other cell with one rule.
CORES = [(cell, rule) for rule in ("hebbian", "gradient") for cell in ("rnn", "lstm")]
CORES += [("lstm" if rule in ("bcm", "delta", "oja") else "rnn", rule) for rule in RULES if ("rnn", rule) not in CORES]
CORES += [(cell, "gradient") for cell in CELLS if cell not in ("rnn", "lstm")]
# The authors' cells and rules, and one rule of each other kind: with a second read and projections, with factors of
# columns, with a matrix in its state that does not start at zero, and with a vector in its state.
FEW_CORES = [(cell, rule) for rule in ("hebbian", "gradient") for cell in ("rnn", "lstm")]
FEW_CORES += [("rnn", "delta"), ("lstm", "oja"), ("rnn", "rls"), ("lstm", "bcm")]


# With rate 0.7 and updates of norm 100 or more, gradients grow to 1e6 in a few steps and amplify rounding errors in
# every form: such networks are ill-conditioned, and no tolerance fits them.
rates_and_norms = st.sampled_from(
    [(rate, norm) for rate in (0.0, 0.2, 0.7) for norm in (0.3, 1.0, 100.0, math.inf) if rate * norm < 70]
)
decays = st.sampled_from([None, 0.0, 0.4, 1.0])
SIZES = range(1, 6)
HIDDEN_SIZES = (1, 3, 5, 17)
LAYERS = (LAYER_KINDS, LAYER_KINDS, ("readout",), ("input", "hidden_to_hidden"))


@st.composite
def networks(draw):
    rate, max_norm = draw(rates_and_norms)
    plasticity = Plasticity(
        modulated=draw(st.booleans()),
        rate=rate,
        decay=draw(decays),
        extra=draw(st.sampled_from([0, 1, 4])),
        alpha_init=draw(st.sampled_from(["random", "+1", "-1", "absent"])),
        max_norm=max_norm,
        layers=draw(st.sampled_from(LAYERS)),
    )
    cell, rule = draw(st.sampled_from(sorted(CELLS))), draw(st.sampled_from(sorted(RULES)))
    i, h, o = draw(st.sampled_from(SIZES)), draw(st.sampled_from(HIDDEN_SIZES)), draw(st.sampled_from(SIZES))
    seed, n_layers = draw(st.integers(0, 1000)), draw(st.integers(1, 2))
    return make_network(cell, rule, i, h, o, plasticity, seed, n_layers=n_layers)


def random_structure(rule, seed):
    """Return what the code of a network with this rule depends on: the arguments of `make_network` but the rates."""
    choice = random.Random(f"{rule} {seed}").choice
    kinds = {
        "modulated": choice([True, False]),
        "extra": choice([0, 1, 4]),
        "alpha_init": choice(["random", "+1", "-1", "absent"]),
        "layers": choice(LAYERS),
        "max_norm": choice([0.3, 1.0]),
    }
    return choice(sorted(CELLS)), rule, choice(SIZES), choice(HIDDEN_SIZES), choice(SIZES), kinds, choice([1, 2])


# Few, because each has to be compiled.
STRUCTURES = [random_structure(rule, seed) for rule in sorted(RULES) for seed in range(1 + (rule == "gradient"))]


def forms_of(network, xs, state=None):
    """Return the forms that can run a network."""
    return [form for form in FORMS if network.refusal(form, xs, state) is None]


def make_network(cell, rule, i, h, o, plasticity, seed=0, dtype=torch.float64, n_layers=1):
    torch.manual_seed(seed)
    network = PlasticNetwork(i, h, o, cell, rule, plasticity, n_layers).to(dtype)
    with torch.no_grad():  # activities of order one, and a readout loss that is not the same in all units
        network.readout_loss_weight.uniform_(0.5, 2.0) if rule == "gradient" else None
        for layer in network.layers.values():
            layer.weight.mul_(2.0)
    return network


def random_state(network, batch_size, scale=0.3):
    """Return a random state; of rls, whose matrix must be positive definite, a state after some steps."""
    if network.rule_name == "rls":
        xs = torch.randn(2, batch_size, network.input_size, dtype=torch.float64)
        state = map_state(Tensor.detach, network.unroll(xs, form="dense")[1])
    else:
        state = map_state(lambda value: scale * torch.randn_like(value), network.initial_state(batch_size))
    return map_state(lambda value: value.detach().clone().requires_grad_(), state)


def leaves(state):
    found = []
    map_state(lambda value: found.append(value) or value, state)
    return found


def probe_loss(tensors, seed=7):
    """A loss in which every element of every tensor counts differently."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor) for tensor in tensors]
    return sum((tensor * weight).sum() for tensor, weight in zip(tensors, weights, strict=True))


def results(run, network, xs, state, **arguments):
    """Everything a caller can see: outputs, rates, final state, and the gradients of all that led to them."""
    y, eta, final = run(network, xs, state, **arguments)
    seen = [y, eta, *leaves(final)]
    wanted = [parameter for parameter in network.parameters()] + [xs] + ([] if state is None else leaves(state))
    gradients = torch.autograd.grad(probe_loss(seen), wanted, allow_unused=True)
    return [value.detach() for value in seen] + [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(wanted, gradients, strict=True)
    ]


def run_reference(network, xs, state, episode_starts=None):
    output, final = reference_unroll(network, xs, state, episode_starts)
    return output.y, output.eta, final


def run_form(network, xs, state, episode_starts=None, form="auto"):
    output, final = network.unroll(xs, state, episode_starts, form=form)
    return output.y, output.eta, final


def run_steps(network, xs, state, episode_starts=None):
    state = network.initial_state(xs.shape[1]) if state is None else state
    ys, etas = [], []
    for t, x in enumerate(xs):
        if episode_starts is not None:
            state = network.restarted(state, episode_starts[t])
        output, state = network.step(x, state)
        ys.append(output.y)
        etas.append(output.eta)
    return torch.stack(ys), torch.stack(etas), state


def assert_same(found, wanted, tolerance=1e-10):
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.shape == b.shape
        error = (a - b).abs().max() if a.numel() else torch.zeros(())
        assert error <= tolerance * (1 + b.abs().max()), f"result {index}: error {float(error):.1e}"


def check_forms(network, forms, t, b, with_state, with_starts):
    xs = torch.randn(t, b, network.input_size, dtype=torch.float64, requires_grad=True)
    state = random_state(network, b) if with_state else None
    episode_starts = torch.rand(t, b) < 0.3 if with_starts else None
    wanted = results(run_reference, network, xs, state, episode_starts=episode_starts)
    assert_same(results(run_steps, network, xs, state, episode_starts=episode_starts), wanted)
    for form in forms:
        if network.refusal(form, xs, state) is None:
            assert_same(results(run_form, network, xs, state, episode_starts=episode_starts, form=form), wanted)
        else:
            with pytest.raises(RuntimeError, match="form='auto' takes another form"):
                network.unroll(xs, state, form=form)


segments = {"t": st.integers(1, 7), "b": st.integers(1, 5), "with_state": st.booleans(), "with_starts": st.booleans()}


@settings(max_examples=100, deadline=None)
@given(network=networks(), **segments)
def test_the_forms_in_pytorch_equal_the_reference(network, t, b, with_state, with_starts):
    check_forms(network, ("dense", "implicit"), t, b, with_state, with_starts)


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure[1])
@settings(max_examples=6, deadline=None)
@given(rate=st.sampled_from([0.0, 0.2, 0.7]), decay=decays, seed=st.integers(0, 1000), **segments)
def test_the_compiled_form_equals_the_reference(structure, rate, decay, seed, t, b, with_state, with_starts):
    *arguments, kinds, n_layers = structure
    network = make_network(*arguments, Plasticity(rate=rate, decay=decay, **kinds), seed, n_layers=n_layers)
    check_forms(network, COMPILED, t, b, with_state, with_starts)


def test_few_networks_are_refused():
    """A form that refused a network by mistake would be a slower network, and no error."""
    refused = {form: set() for form in FORMS}
    xs = torch.zeros(1, 1, 3, dtype=torch.float64)
    for cell, rule in CORES:
        network = make_network(cell, rule, 3, 9, 2, Plasticity())
        for form in set(FORMS) - set(forms_of(network, xs)):
            refused[form].add(rule)
    assert refused.pop("compiled", set()) == set()
    assert refused == {"dense": set(), "implicit": {"retroactive", "rls"}}  # their state has matrices


@pytest.mark.parametrize(
    ("cell", "rule", "t", "h"), [*((*core, 63, 33) for core in CORES), *((*core, 20, 128) for core in FEW_CORES)]
)
def test_a_long_segment_of_usual_size(cell, rule, t, h):
    network = make_network(cell, rule, 3, h, 2, Plasticity())
    xs = torch.randn(t, 3, 3, dtype=torch.float64, requires_grad=True)
    wanted = results(run_form, network, xs, None, form="dense")
    for form in forms_of(network, xs):
        assert_same(results(run_form, network, xs, None, form=form), wanted)


@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_float32_stays_near_float64(cell, rule):
    network = make_network(cell, rule, 3, 40, 2, Plasticity())
    xs = torch.randn(20, 6, 3, dtype=torch.float64, requires_grad=True)
    wanted = results(run_form, network, xs, None, form="dense")
    network, xs = network.float(), xs.detach().float().requires_grad_()
    for form in forms_of(network, xs):
        found = results(run_form, network, xs, None, form=form)
        assert_same([value.double() for value in found], wanted, tolerance=1e-4)


@pytest.mark.parametrize(("cell", "rule"), CORES)
def test_state_carried_over_a_border_is_the_same_segment(cell, rule):
    network = make_network(cell, rule, 3, 9, 2, Plasticity())
    episode_starts = torch.rand(9, 4, generator=torch.Generator().manual_seed(1)) < 0.2

    def in_two(network, xs, state, episode_starts, form):
        first, between = network.unroll(xs[:4], state, episode_starts[:4], form=form)
        second, final = network.unroll(xs[4:], between, episode_starts[4:], form=form)
        return torch.cat([first.y, second.y]), torch.cat([first.eta, second.eta]), final

    xs = torch.randn(9, 4, 3, dtype=torch.float64, requires_grad=True)
    wanted = results(run_reference, network, xs, None, episode_starts=episode_starts)
    for form in forms_of(network, xs):
        assert_same(results(in_two, network, xs, None, episode_starts=episode_starts, form=form), wanted)


@pytest.mark.parametrize(("cell", "rule"), CORES)
def test_an_update_of_norm_zero_is_finite(cell, rule):
    """With all weights and inputs at zero nothing is written, and the norm under the limit is exactly 0."""
    network = make_network(cell, rule, 3, 9, 2, Plasticity())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    xs = torch.zeros(4, 2, 3, dtype=torch.float64, requires_grad=True)
    for form in forms_of(network, xs):
        found = results(run_form, network, xs, None, form=form)
        assert all(value.isfinite().all() for value in found)
        if cell in ("rnn", "tanh_rnn"):  # gates are not zero
            _, final = network.unroll(xs, form=form)
            assert not any(fast.weight.any() or fast.bias.any() for fast in final.fast.values())


@pytest.mark.parametrize(
    ("cell", "rule"), [*FEW_CORES, *((cell, rule) for cell, rule in CORES if cell not in ("rnn", "lstm"))]
)
def test_gradcheck(cell, rule):
    """`check_rule` compares the dense form of all rules with finite differences."""
    network = make_network(cell, rule, 3, 9, 2, Plasticity())
    xs = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    state = random_state(network, 2)
    episode_starts = torch.tensor([[False, False], [False, True], [False, False], [False, False]])
    parameters = list(network.parameters())
    for form in forms_of(network, xs) if cell not in ("rnn", "lstm") else COMPILED:

        def outputs(xs, *values, form=form):
            values = iter(values)
            before = map_state(lambda _: next(values), state)
            y, eta, final = run_form(network, xs, before, episode_starts, form)
            return y, eta, *leaves(final)

        inputs = (xs, *leaves(state), *parameters)
        assert torch.autograd.gradcheck(outputs, inputs, nondet_tol=0.0, fast_mode=True)


@pytest.mark.parametrize(("cell", "rule"), CORES)
def test_non_contiguous_input_and_modes_without_gradient(cell, rule):
    network = make_network(cell, rule, 3, 9, 2, Plasticity())
    batch_major = torch.randn(4, 6, 6, dtype=torch.float64)[..., ::2]
    xs = batch_major.transpose(0, 1)
    assert not xs.is_contiguous()
    wanted, _ = network.unroll(xs.contiguous(), form="dense")
    episode_starts = torch.zeros(4, 6, dtype=torch.bool).T
    for form in forms_of(network, xs):
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode():
                output, final = network.unroll(xs, episode_starts=episode_starts, form=form)
                torch.testing.assert_close(output.y, wanted.y, rtol=0, atol=1e-12)
                again, _ = network.unroll(xs, final, form=form)
                assert again.y.requires_grad == (mode is torch.enable_grad)


@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_that_only_some_want(form):
    """Frozen slow weights, learned coefficients; the loss reads one step and no rate."""
    network = make_network("rnn", "gradient", 3, 9, 2, Plasticity())
    for layer in network.layers.values():
        layer.weight.requires_grad_(False)
        layer.bias.requires_grad_(False)
    xs = torch.randn(5, 2, 3, dtype=torch.float64)
    found = []
    for which in (form, "dense"):
        network.zero_grad()
        network.unroll(xs, form=which)[0].y[-1].sum().backward()
        assert network.input.weight.grad is None
        found.append([parameter.grad for parameter in network.parameters() if parameter.requires_grad])
    assert_same(*found)
