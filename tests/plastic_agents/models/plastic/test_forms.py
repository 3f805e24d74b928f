"""Every form of the plastic network equals the slow reference, forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plastic_agents.models.core import State, map_state
from plastic_agents.models.plastic.fast_weights import FastWeight, FastWeights
from plastic_agents.models.plastic.forms import compiled
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.reference import reference_unroll
from plastic_agents.models.plastic.update import Plasticity

FORMS = (*(["compiled"] if compiled.available(torch.zeros(())) else []), "dense", "implicit")
CORES = [(cell, rule) for cell in ("rnn", "lstm") for rule in ("hebbian", "gradient")]

sizes = st.integers(1, 5)
networks = st.builds(
    lambda cell, rule, i, h, o, plasticity, seed: make_network(cell, rule, i, h, o, plasticity, seed),
    st.sampled_from(["rnn", "lstm"]),
    st.sampled_from(["hebbian", "gradient"]),
    sizes,
    st.sampled_from([1, 3, 5, 17]),
    sizes,
    st.builds(
        Plasticity,
        modulated=st.booleans(),
        rate=st.sampled_from([0.0, 0.2, 0.7]),
        decay=st.sampled_from([None, 0.0, 0.4, 1.0]),
        extra=st.sampled_from([0, 1, 4]),
        alpha_init=st.sampled_from(["random", "+1", "-1", "absent"]),
        max_norm=st.sampled_from([0.3, 1.0, 100.0]),
    ),
    st.integers(0, 1000),
)


def make_network(cell, rule, i, h, o, plasticity, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    network = PlasticNetwork(i, h, o, cell=cell, rule=rule, plasticity=plasticity).to(dtype)
    with torch.no_grad():  # activities of order one, and a readout loss that is not the same in all units
        network.readout_loss_weight.uniform_(0.5, 2.0) if rule == "gradient" else None
        for layer in network.plastic_layers:
            layer.weight.mul_(2.0)
    return network


def random_state(network, batch_size, scale=0.3):
    state = map_state(lambda value: scale * torch.randn_like(value), network.initial_state(batch_size))
    return map_state(lambda value: value.requires_grad_(), state)


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
            state = map_state(
                lambda value, t=t: value * (~episode_starts[t]).to(value).reshape(-1, *[1] * (value.dim() - 1)), state
            )
        output, state = network.step(x, state)
        ys.append(output.y)
        etas.append(output.eta)
    return torch.stack(ys), torch.stack(etas), state


def assert_same(found, wanted, tolerance=1e-10):
    for index, (a, b) in enumerate(zip(found, wanted, strict=True)):
        assert a.shape == b.shape
        error = (a - b).abs().max() if a.numel() else torch.zeros(())
        assert error <= tolerance * (1 + b.abs().max()), f"result {index}: error {float(error):.1e}"


@settings(max_examples=150)
@given(network=networks, t=st.integers(1, 7), b=st.integers(1, 5), with_state=st.booleans(), with_starts=st.booleans())
def test_all_forms_equal_the_reference(network, t, b, with_state, with_starts):
    xs = torch.randn(t, b, network.input_size, dtype=torch.float64, requires_grad=True)
    state = random_state(network, b) if with_state else None
    episode_starts = torch.rand(t, b) < 0.3 if with_starts else None
    wanted = results(run_reference, network, xs, state, episode_starts=episode_starts)
    assert_same(results(run_steps, network, xs, state, episode_starts=episode_starts), wanted)
    for form in FORMS:
        assert_same(results(run_form, network, xs, state, episode_starts=episode_starts, form=form), wanted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("cell", "rule"), CORES)
@pytest.mark.parametrize(("t", "h"), [(63, 33), (20, 128)])
def test_a_long_segment_of_usual_size(cell, rule, form, t, h):
    network = make_network(cell, rule, 7, h, 2, Plasticity())
    xs = torch.randn(t, 3, 7, dtype=torch.float64, requires_grad=True)
    wanted = results(run_form, network, xs, None, form="dense")
    assert_same(results(run_form, network, xs, None, form=form), wanted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("cell", "rule"), CORES)
def test_float32_stays_near_float64(cell, rule, form):
    network = make_network(cell, rule, 5, 40, 2, Plasticity())
    xs = torch.randn(20, 6, 5, dtype=torch.float64, requires_grad=True)
    wanted = results(run_form, network, xs, None, form="dense")
    found = results(run_form, network.float(), xs.detach().float().requires_grad_(), None, form=form)
    assert_same([value.double() for value in found], wanted, tolerance=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("cell", "rule"), CORES)
def test_state_carried_over_a_border_is_the_same_segment(cell, rule, form):
    network = make_network(cell, rule, 3, 6, 2, Plasticity())
    episode_starts = torch.rand(9, 4, generator=torch.Generator().manual_seed(1)) < 0.2

    def in_two(network, xs, state, episode_starts):
        first, between = network.unroll(xs[:4], state, episode_starts[:4], form=form)
        second, final = network.unroll(xs[4:], between, episode_starts[4:], form=form)
        return torch.cat([first.y, second.y]), torch.cat([first.eta, second.eta]), final

    xs = torch.randn(9, 4, 3, dtype=torch.float64, requires_grad=True)
    assert_same(
        results(in_two, network, xs, None, episode_starts=episode_starts),
        results(run_reference, network, xs, None, episode_starts=episode_starts),
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("cell", "rule"), CORES)
def test_an_update_of_norm_zero_is_finite(cell, rule, form):
    """With all weights and inputs at zero nothing is written, and the norm under the limit is exactly 0."""
    network = make_network(cell, rule, 3, 4, 1, Plasticity())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    xs = torch.zeros(4, 2, 3, dtype=torch.float64, requires_grad=True)
    found = results(run_form, network, xs, None, form=form)
    if cell == "rnn":  # an LSTM's gates are not zero
        assert all(not fast.any() for fast in found[3:11])
    assert all(value.isfinite().all() for value in found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("cell", "rule"), CORES)
def test_gradcheck(cell, rule, form):
    network = make_network(cell, rule, 2, 3, 1, Plasticity(extra=1))
    xs = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    state = random_state(network, 2)
    kinds = tuple(state.hidden)
    episode_starts = torch.tensor([[False, False], [False, True], [False, False], [False, False]])
    parameters = list(network.parameters())

    def outputs(xs, *values):
        hidden, fast = values[: len(kinds)], values[len(kinds) : len(kinds) + 8]
        layers = FastWeights(*(FastWeight(*fast[i : i + 2]) for i in range(0, 8, 2)))
        y, eta, final = run_form(network, xs, State(type(state.hidden)(*hidden), layers), episode_starts, form)
        return y, eta, *leaves(final)

    inputs = (xs, *leaves(state), *parameters)
    assert torch.autograd.gradcheck(outputs, inputs, nondet_tol=0.0, fast_mode=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("cell", "rule"), CORES)
def test_non_contiguous_input_and_modes_without_gradient(cell, rule, form):
    network = make_network(cell, rule, 3, 5, 2, Plasticity())
    batch_major = torch.randn(4, 6, 6, dtype=torch.float64)[..., ::2]
    xs = batch_major.transpose(0, 1)
    assert not xs.is_contiguous()
    wanted, _ = network.unroll(xs.contiguous(), form="dense")
    episode_starts = torch.zeros(4, 6, dtype=torch.bool).T
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            output, final = network.unroll(xs, episode_starts=episode_starts, form=form)
            torch.testing.assert_close(output.y, wanted.y, rtol=0, atol=1e-12)
            again, _ = network.unroll(xs, final, form=form)
            assert again.y.requires_grad == (mode is torch.enable_grad)


@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_that_only_some_want(form):
    """Frozen slow weights, learned coefficients; the loss reads one step and no rate."""
    network = make_network("rnn", "gradient", 3, 5, 2, Plasticity())
    for layer in network.plastic_layers:
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
