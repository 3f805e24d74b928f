"""The compiled form beyond exactness: threads, snapshots of the backward pass, steps in place."""

from __future__ import annotations

import os
import platform

import pytest
import torch
from plastic_agents.models.core import map_state
from plastic_agents.models.plastic.forms import compiled
from plastic_agents.models.plastic.forms.compiled import autograd
from plastic_agents.models.plastic.forms.compiled.kernel import find_kernel
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.update import Plasticity

from tests.plastic_agents.models.plastic.forms.compiled.test_program import needs_kernel
from tests.plastic_agents.models.plastic.test_forms import (
    FEW_CORES,
    assert_same,
    leaves,
    make_network,
    random_state,
    results,
    run_form,
)


@pytest.fixture
def threads():
    """Set torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_kernel
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
@pytest.mark.parametrize("batch_size", [1, 3, 16, 37, 70])
def test_every_batch_size_alone_equals_its_sequences_alone(cell, rule, batch_size):
    """Groups and lanes of all fillings; alpha's gradient is the sum over the sequences."""
    network = make_network(cell, rule, 3, 9, 2, Plasticity())
    xs = torch.randn(4, batch_size, 3, dtype=torch.float64, requires_grad=True)
    wanted = results(run_form, network, xs, None, form="dense")
    assert_same(results(run_form, network, xs, None, form="compiled"), wanted)


@needs_kernel
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_the_number_of_threads_changes_no_bit(cell, rule, threads, monkeypatch):
    monkeypatch.setattr(autograd, "LEAST_WORK", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    network = make_network(cell, rule, 3, 16, 2, Plasticity(), dtype=torch.float32)
    xs = torch.randn(6, 21, 3, requires_grad=True)
    found = []
    for count in (1, 2, 5):
        threads(count)
        y, eta, final = run_form(network, xs, None, form="compiled")
        gradients = torch.autograd.grad(y.square().sum() + eta.sum(), [xs, *network.parameters()], allow_unused=True)
        found.append([y, eta, *leaves(final), *(gradient for gradient in gradients if gradient is not None)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@needs_kernel
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
@pytest.mark.parametrize(("carried", "hidden_size"), [(False, 9), (True, 16)])
def test_nothing_unwritten_is_read(cell, rule, carried, hidden_size, monkeypatch):
    """The memory that the kernel gets holds NaN at first; columns have more padding than rows if there are 9."""
    network = make_network(cell, rule, 3, hidden_size, 2, Plasticity(decay=0.9))
    xs = torch.randn(7, 5, 3, dtype=torch.float64, requires_grad=True)
    state = random_state(network, 5) if carried else None
    episode_starts = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) < 0.2
    wanted = results(run_form, network, xs, state, episode_starts=episode_starts, form="dense")
    find_kernel(network, torch.float64)  # the tables of sizes are no memory for it
    # All its memory comes from `new_empty` and `empty_like`.
    new_empty, empty_like = torch.Tensor.new_empty, torch.empty_like
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size: new_empty(self, *size).fill_(torch.nan))
    monkeypatch.setattr(torch, "empty_like", lambda tensor: empty_like(tensor).fill_(torch.nan))
    assert_same(results(run_form, network, xs, state, episode_starts=episode_starts, form="compiled"), wanted)


@needs_kernel
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_zeros_that_no_relu_made_have_gradients(cell, rule):
    """The backward pass skips rows with a zero from a relu, whose derivative is zero; these zeros come from no relu."""
    network = make_network(cell, rule, 3, 9, 2, Plasticity())
    xs = torch.randn(6, 4, 3, dtype=torch.float64)
    xs[torch.rand(6, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.5] = 0
    xs.requires_grad_()
    state = map_state(lambda value: torch.zeros_like(value).requires_grad_(), random_state(network, 4))
    with torch.no_grad():
        state.fast["readout"].weight.normal_()
    episode_starts = torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.2
    wanted = results(run_form, network, xs, state, episode_starts=episode_starts, form="dense")
    assert_same(results(run_form, network, xs, state, episode_starts=episode_starts, form="compiled"), wanted)


@needs_kernel
@pytest.mark.parametrize("decay", [0.2, 0.6, 0.999, 1.0])
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_going_back_through_many_updates_stays_exact(cell, rule, decay):
    """The backward pass undoes updates; strong decay would magnify its errors without snapshots."""
    network = make_network(cell, rule, 3, 9, 2, Plasticity(decay=decay, rate=0.3))
    with torch.no_grad():
        network.readout.bias[-1] += 3.0  # the network chooses nearly the strongest decay
    # RLS divides the matrix in its state by 1 - decay, so that rounding errors soon grow large in any form.
    steps = 10 if rule == "rls" else 90
    xs = torch.randn(steps, 2, 3, dtype=torch.float64, requires_grad=True)
    episode_starts = torch.rand(steps, 2, generator=torch.Generator().manual_seed(0)) < 0.05
    for carried in (None, episode_starts):
        wanted = results(run_form, network, xs, None, episode_starts=carried, form="dense")
        assert_same(results(run_form, network, xs, None, episode_starts=carried, form="compiled"), wanted)


@needs_kernel
def test_snapshots_take_memory_only_if_updates_cannot_be_undone(monkeypatch):
    """The rates that the network chose set their number, not the largest decay that it might choose."""
    network = make_network("rnn", "hebbian", 3, 9, 2, Plasticity(decay=1.0))
    sizes = {}
    new_empty = torch.Tensor.new_empty

    def recorded(self, *size):
        sizes[bias] = max(sizes.get(bias, 0), new_empty(self, *size).numel())
        return new_empty(self, *size)

    monkeypatch.setattr(torch.Tensor, "new_empty", recorded)
    for bias in (-30.0, 30.0):
        with torch.no_grad():
            network.readout.bias[-1] = bias
        run_form(network, torch.randn(300, 1, 3, dtype=torch.float64), None, form="compiled")[0].sum().backward()
    assert sizes[30.0] > 5 * sizes[-30.0]


@needs_kernel
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_without_a_gradient_memory_does_not_grow_with_the_steps(cell, rule, monkeypatch):
    network = make_network(cell, rule, 3, 9, 2, Plasticity())
    sizes = []
    new_empty = torch.Tensor.new_empty

    def recorded(self, *size):
        sizes.append(new_empty(self, *size).numel())
        return new_empty(self, *size)

    monkeypatch.setattr(torch.Tensor, "new_empty", recorded)
    outputs = 40 * (network.readout.out_features + 1)
    with torch.no_grad():
        run_form(network, torch.randn(2, 1, 3, dtype=torch.float64), None, form="compiled")
        shortest = sum(sizes)
        sizes.clear()
        run_form(network, torch.randn(40, 1, 3, dtype=torch.float64), None, form="compiled")
    assert sum(sizes) < shortest + outputs


@needs_kernel
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86 can flush denormals here")
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_denormals_become_zero_in_the_kernel_only(cell, rule):
    """Weights that no update reaches decay to denormals, which are a hundred times slower."""
    network = make_network(cell, rule, 3, 9, 2, Plasticity(), dtype=torch.float32)
    denormal = 1e-39
    state = map_state(lambda value: torch.full_like(value, denormal), network.initial_state(2))
    xs = torch.zeros(40, 2, 3, requires_grad=True)
    output, final = network.unroll(xs, state, form="compiled")
    output.y.sum().backward()
    with torch.no_grad():
        _, acted = network.act(xs[0], state)
    for leaf in (*leaves(final.fast), *leaves(acted.fast)):
        assert not ((leaf != 0) & (leaf.abs() < torch.finfo(torch.float32).tiny)).any()
    assert (torch.full((3,), denormal) * 0.5 > 0).all()


@needs_kernel
def test_a_gradient_of_the_gradient_is_refused():
    network = make_network("rnn", "gradient", 3, 9, 2, Plasticity())
    xs = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    output, _ = network.unroll(xs, form="compiled")
    (d_xs,) = torch.autograd.grad(output.y.square().sum(), xs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_xs.sum().backward()


@needs_kernel
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_a_nan_stays_in_its_sequence_and_is_not_hidden(cell, rule):
    network = make_network(cell, rule, 3, 9, 2, Plasticity())
    xs = torch.randn(5, 3, 3, dtype=torch.float64)
    xs[2, 1, 0] = torch.nan
    output, _ = network.unroll(xs, form="compiled")
    assert output.y[2:, 1].isnan().all()
    assert output.y[:2].isfinite().all()
    assert output.y[:, [0, 2]].isfinite().all()
    output.y.sum().backward()
    assert network.hidden_to_hidden.weight.grad.isnan().any()


@needs_kernel
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_packing_is_undone_by_unpacking(cell, rule):
    network = make_network(cell, rule, 3, 9, 2, Plasticity())
    layout = find_kernel(network, torch.float64).layout
    state = random_state(network, 2)
    packed = layout.pack(layout.fast_parts(state.fast))
    assert packed.shape == (2, layout.size)
    vectors = {
        name: {key: v for key, v in (fast.rule or {}).items() if v.dim() == 2} for name, fast in state.fast.items()
    }
    for wanted, found in zip(leaves(state.fast), leaves(layout.unpack(layout.parts(packed), vectors)), strict=True):
        assert torch.equal(wanted, found)
    assert layout.find_packed(layout.unpack(layout.parts(packed), vectors)).data_ptr() == packed.data_ptr()
    assert layout.find_packed(state.fast) is None


@needs_kernel
def test_other_kinds_of_tensor_take_another_form():
    network = PlasticNetwork(3, 4, 1).bfloat16()
    xs = torch.randn(3, 2, 3).bfloat16()
    assert not compiled.available(xs)
    assert network.unroll(xs)[0].y.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="bfloat16"):
        network.unroll(xs, form="compiled")


def test_threads_are_woken_only_for_enough_work(threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    threads(8)
    assert [autograd.split_work(batch_size, 10**9) for batch_size in (1, 3, 64)] == [(1, 1), (3, 3), (8, 16)]
    acting = 16 * 128 + 2 * 128 * 128 + 128 * 16  # fast weights of the usual network, for one step
    assert autograd.split_work(1, acting).workers == autograd.split_work(16, acting).workers == 1
    assert autograd.split_work(64, acting).workers > 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(2), raising=False)
    assert autograd.split_work(64, 10**9).workers == 2, "more threads than cores gain nothing"


@needs_kernel
def test_the_state_it_returns_can_be_changed_when_no_gradient_is_wanted():
    network = PlasticNetwork(3, 4, 1)
    with torch.no_grad():
        _, state = network.unroll(torch.randn(3, 2, 3))
        erased = map_state(lambda value: value.zero_(), state.fast)
        network.step(torch.randn(2, 3), state._replace(fast=erased))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
@pytest.mark.parametrize("form", ["auto", "dense", "implicit"])
def test_on_a_gpu_all_forms_equal_the_cpu(cell, rule, form):
    network = make_network(cell, rule, 3, 9, 2, Plasticity())
    xs = torch.randn(12, 5, 3, dtype=torch.float64, requires_grad=True)
    episode_starts = torch.rand(12, 5) < 0.2
    if network.refusal(form, xs, None) is not None:
        pytest.skip(f"form {form} does not support the rule")
    wanted = results(run_form, network, xs, None, episode_starts=episode_starts, form="dense")
    on_gpu = xs.detach().cuda().requires_grad_()
    found = results(run_form, network.cuda(), on_gpu, None, episode_starts=episode_starts.cuda(), form=form)
    assert_same([value.cpu() for value in found], wanted)


@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
@pytest.mark.parametrize("hidden_size", [9, 16])  # columns with and without padding; only the latter can step in place
def test_steps_for_acting_equal_those_with_a_gradient(cell, rule, hidden_size):
    network = make_network(cell, rule, 3, hidden_size, 2, Plasticity())
    state, acting, in_place = (network.initial_state(6) for _ in range(3))
    # Slices of episodes, as agents take them: steps copy them, and must keep the copies alive.
    for x in torch.randn(6, 5, 3, dtype=torch.float64).unbind(1):
        wanted, state = network.step(x, state)
        before = [tensor.clone() for tensor in leaves(acting)]
        with torch.no_grad():
            found, after = network.step(x, acting)
        assert_same(leaves(acting), before)
        assert_same([*found, *leaves(after)], [*wanted, *leaves(state)])
        acting = after
        found, in_place = network.act(x, in_place)
        assert_same([*found, *leaves(in_place)], [*wanted, *leaves(state)])


@needs_kernel
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_an_episode_start_in_place_forgets_the_episode_before(cell, rule):
    """A NaN is forgotten too: a product with zero would keep it."""
    network = make_network(cell, rule, 3, 16, 2, Plasticity())
    xs = torch.randn(3, 6, 3, dtype=torch.float64)
    xs[0, 1] = float("nan")
    episode_starts = torch.tensor([False, True, False, False, True, False])
    _, in_place = network.act(xs[0], network.initial_state(6))
    state = map_state(torch.clone, in_place)
    for x, starts in ((xs[1], episode_starts), (xs[2], torch.zeros(6, dtype=torch.bool))):
        wanted, state = network.step(x, network.restarted(state, starts))
        found, in_place = network.act(x, in_place, starts)
        assert torch.isfinite(found.y).all()
        assert_same([*found, *leaves(in_place)], [*wanted, *leaves(state)])


@needs_kernel
def test_steps_in_place_keep_the_memory_and_do_not_write_to_other_states():
    network = make_network("rnn", "gradient", 3, 16, 2, Plasticity())
    x = torch.randn(6, 3, dtype=torch.float64)
    foreign = random_state(network, 6)
    before = [tensor.clone() for tensor in leaves(foreign)]
    _, state = network.act(x, foreign)
    assert_same(leaves(foreign), before)
    where = state.fast["readout"].weight.data_ptr()
    _, state = network.act(x, state)
    assert state.fast["readout"].weight.data_ptr() == where
    _, half = network.act(x[:3], map_state(lambda tensor: tensor[:3], state))
    assert half.fast["readout"].weight.data_ptr() != where


def _optimise(network):
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(network.parameters(), 0.1).step()


def _replace(network):
    network.readout.weight = torch.nn.Parameter(network.readout.weight.detach() + 0.1)


def _write_by_numpy(network):
    network.readout.weight.detach().numpy()[:] += 0.1


@needs_kernel
@pytest.mark.parametrize(
    "change",
    [
        _optimise,
        _replace,
        _write_by_numpy,
        lambda network: network.readout.weight.data.add_(0.1),
        lambda network: network.hidden_to_hidden.alpha_weight.data.mul_(0.5),
        lambda network: network.load_state_dict({k: 0.5 * v for k, v in network.state_dict().items()}),
        lambda network: setattr(network, "settings", network.settings._replace(rate=0.5)),
    ],
)
def test_a_step_for_acting_has_the_weights_of_now(change):
    network = make_network("rnn", "gradient", 3, 16, 2, Plasticity())
    xs = torch.randn(3, 4, 3, dtype=torch.float64)
    acting, state = network.initial_state(4), network.initial_state(4)
    for i, x in enumerate(xs):
        if i == 1:
            change(network)
        wanted, state = network.step(x, state)  # with a gradient, so in the dense form
        found, acting = network.act(x, acting)
        assert_same([*found, *leaves(acting)], [*wanted, *leaves(state)])


@needs_kernel
def test_networks_of_one_structure_act_with_their_own_weights():
    networks = [make_network("rnn", "gradient", 3, 16, 2, Plasticity()) for _ in range(2)]
    networks[1].readout.weight.data.mul_(2)
    x = torch.randn(4, 3, dtype=torch.float64)
    with torch.inference_mode():  # the kernel's memory must not become inference tensors
        networks[0].act(x, networks[0].initial_state(4))
    for network in networks:
        with torch.no_grad():
            found, _ = network.act(x, network.initial_state(4))
        assert_same([*found], [*network.step(x, network.initial_state(4))[0]])
