"""The compiled form checks all memory before it takes an address, and refuses tensors that it does not support."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plastic_agents.models.core import State, map_state
from plastic_agents.models.plastic.cells import CELLS, RNNCell
from plastic_agents.models.plastic.forms import compiled
from plastic_agents.models.plastic.forms.compiled import arguments, autograd, kernel
from plastic_agents.models.plastic.forms.compiled.arguments import make_arguments
from plastic_agents.models.plastic.forms.compiled.kernel import find_kernel
from plastic_agents.models.plastic.rule import PlasticityRule, Update
from plastic_agents.models.plastic.update import Plasticity
from plastic_agents.models.torch_rnn import TorchRNN
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

from tests.plastic_agents.models.plastic.forms.compiled.test_program import needs_kernel
from tests.plastic_agents.models.plastic.test_forms import FEW_CORES, FORMS, leaves, make_network, random_state

I, H, O, B = 3, 16, 2, 4


def detached(state):
    return map_state(torch.Tensor.detach, state)


def plastic(cell="rnn", rule="gradient", hidden_size=H, **kwargs):
    return make_network(cell, rule, I, hidden_size, O, Plasticity(), **kwargs)


def runs(network, state, x=None):
    """Yield every call that takes a state, as a function; all must refuse a wrong state."""
    x = torch.randn(B, I, dtype=torch.float64) if x is None else x
    yield lambda: network.step(x, state)
    yield lambda: torch.no_grad()(network.step)(x, state)
    yield lambda: network.act(x, state)
    yield from (lambda form=form: network.unroll(x.unsqueeze(0), state, form=form) for form in FORMS)
    yield lambda: network.unroll(x.unsqueeze(0), hooks={0: lambda _: state})


# For each fault: a function from a good state of B sequences to a wrong one, and the message of the error.
WRONG_STATES = {
    "fast weights of fewer sequences": (
        lambda good: good._replace(fast=map_state(lambda value: value[:2], good.fast)),
        r"state.fast.input.weight must have shape \[4, 3, 16\], got \[2, 3, 16\]",
    ),
    "fast weights of one sequence": (
        lambda good: good._replace(fast=map_state(lambda value: value[:1], good.fast)),
        r"state.fast.input.weight must have shape",
    ),
    "fast weights of more sequences": (
        lambda good: good._replace(fast=map_state(lambda value: torch.cat([value, value]), good.fast)),
        r"state.fast.input.weight must have shape",
    ),
    "another batch": (lambda good: map_state(lambda value: value[:2], good), r"state.hidden.h must have shape"),
    "a smaller network's": (lambda good: detached(random_state(plastic(hidden_size=8), B)), r"state.hidden.h .*16"),
    "a larger network's": (lambda good: detached(random_state(plastic(hidden_size=32), B)), r"state.hidden.h .*16"),
    "fast weights of a larger network": (
        lambda good: good._replace(fast=detached(random_state(plastic(hidden_size=32), B)).fast),
        r"state.fast.input.weight must have shape \[4, 3, 16\], got \[4, 3, 32\]",
    ),
    "a smaller network's hidden state": (
        lambda good: good._replace(hidden=detached(random_state(plastic(hidden_size=8), B)).hidden),
        r"state.hidden.h must have shape \[4, 16\], got \[4, 8\]",
    ),
    "single precision": (lambda good: map_state(torch.Tensor.float, good), r"state.hidden.h must be torch.float64"),
    "a hidden state in single precision": (
        lambda good: good._replace(hidden=map_state(torch.Tensor.float, good.hidden)),
        r"state.hidden.h must be torch.float64 .* got torch.float32",
    ),
    "an LSTM's": (lambda good: detached(random_state(plastic("lstm"), B)), r"state.hidden must be RNNHidden"),
    "no fast weights": (lambda good: State(good.hidden, None), r"state.fast must be dict, .* got None"),
    "one bias missing": (
        lambda good: good._replace(fast=good.fast | {"readout": good.fast["readout"]._replace(bias=None)}),
        r"state.fast.readout.bias must be a tensor, got NoneType",
    ),
    "one leaf on another device": (
        lambda good: good._replace(
            fast=good.fast | {"readout": map_state(lambda value: value.to("meta"), good.fast["readout"])}
        ),
        r"state.fast.readout.weight must be torch.float64 on cpu, .* on meta",
    ),
    "sparse": (
        lambda good: good._replace(hidden=map_state(torch.Tensor.to_sparse, good.hidden)),
        r"state.hidden.h must be .*torch.strided, got .*torch.sparse_coo",
    ),
    "a plain tuple": (lambda good: tuple(good), r"must (be|return a) State\b.* got tuple"),
}


@pytest.mark.parametrize("wrong", WRONG_STATES)
def test_a_wrong_state_is_refused_by_name(wrong):
    make, message = WRONG_STATES[wrong]
    network = plastic()
    good = detached(random_state(network, B))
    for run in runs(network, good):
        if wrong != "a plain tuple":
            run()
    for run in runs(network, make(good)):
        with pytest.raises((ValueError, TypeError) if wrong == "a plain tuple" else ValueError, match=message):
            run()


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_networks_without_plasticity_refuse_wrong_states_too(cell):
    network = TorchRNN(I, H, O, cell)
    x = torch.randn(B, I)
    for state in (
        network.initial_state(2),
        TorchRNN(I, 8, O, cell).initial_state(B),
        network.initial_state(B),
    ):
        good = state.hidden.h.shape == (B, H)
        for run in (lambda state=state: network.step(x, state), lambda state=state: network.unroll(x[None], state)):
            if good:
                run()
            else:
                with pytest.raises(ValueError, match=r"state\.hidden\.h must have shape \[4, 16\]"):
                    run()
    with pytest.raises(ValueError, match=r"state\.fast must be None"):
        network.step(x, network.initial_state(B)._replace(fast=plastic().initial_state(B).fast))


def test_inputs_and_starts_are_checked():
    network, xs = plastic(), torch.randn(5, B, I, dtype=torch.float64)
    state = network.initial_state(B)
    with pytest.raises(TypeError, match="inputs must be a tensor, got ndarray"):
        network.unroll(xs.numpy())
    with pytest.raises(TypeError, match="inputs must be a tensor, got ndarray"):
        network.step(xs[0].numpy(), state)
    with pytest.raises(ValueError, match=r"network.s dtype, torch\.float64, got torch\.float32"):
        network.unroll(xs.float())
    with pytest.raises(ValueError, match="network's device, cpu, got meta"):
        network.unroll(xs.to("meta"))
    with pytest.raises(ValueError, match="network's device, meta, got cpu"):
        plastic().to("meta").unroll(xs)
    with pytest.raises(TypeError, match="episode_starts must be a tensor, got list"):
        network.unroll(xs, episode_starts=[[True]])
    for episode_starts in (
        torch.zeros(5, B),
        torch.zeros(5, B + 1, dtype=torch.bool),
        torch.zeros(B, dtype=torch.bool),
    ):
        with pytest.raises(ValueError, match=r"episode_starts must be bool of shape \[5, 4\]"):
            network.unroll(xs, episode_starts=episode_starts)
    with pytest.raises(ValueError, match=r"episode_starts must be bool of shape \[1, 4\]"):
        network.act(xs[0], state, torch.zeros(5, dtype=torch.bool))


def test_a_batch_of_no_sequences():
    network = plastic()
    for episode_starts in (None, torch.zeros(5, 0, dtype=torch.bool)):
        output, state = network.unroll(
            torch.randn(5, 0, I, dtype=torch.float64, requires_grad=True), episode_starts=episode_starts
        )
        assert output.y.shape == (5, 0, O)
        assert state.hidden.h.shape == (0, H)
        output.y.sum().backward()


PARAMETERS = [
    (rule, name)
    for rule in ("gradient", "delta", "rls", "bcm")
    for name, parameter in plastic(rule=rule).named_parameters()
    if parameter.dim() > 0
]


@needs_kernel
@pytest.mark.parametrize(("rule", "name"), PARAMETERS)
def test_a_parameter_of_another_shape_or_dtype_is_refused_unless_it_broadcasts(rule, name):
    owner, _, kind = name.rpartition(".")
    xs = torch.randn(2, B, I, dtype=torch.float64)

    def changed(change):
        network = plastic(rule=rule)
        with torch.no_grad():
            module = network.get_submodule(owner)
            setattr(module, kind, nn.Parameter(change(getattr(module, kind))))
        return network

    with pytest.raises(ValueError, match=f"{name} must be torch.float64|network's dtype"):
        changed(torch.Tensor.float).unroll(xs, form="compiled")
    for change in (
        lambda value: torch.cat([value, value]),
        lambda value: value[..., :-1],
        lambda value: value[:1],
        lambda value: value.unsqueeze(0),
    ):
        network = changed(change)
        if owner in network.layers:
            with pytest.raises(ValueError, match=f"{name} must have shape"):
                network.unroll(xs, form="compiled")
            continue
        try:
            wanted = network.unroll(xs, form="dense")[0].y
        except (ValueError, RuntimeError):
            wanted = None
        if wanted is not None and network.refusal("compiled", xs, None) is None:  # the change broadcasts
            torch.testing.assert_close(network.unroll(xs, form="compiled")[0].y, wanted)
        else:
            with pytest.raises((RuntimeError, ValueError), match=r"step that can be traced|must have the shapes"):
                network.unroll(xs, form="compiled")
    plastic(rule=rule).unroll(xs, form="compiled")


@needs_kernel
@given(st.data())
def test_the_boundary_refuses_every_wrong_array(data):
    """It also refuses arrays that no caller passes today."""
    steps, groups = 2, 4
    found = find_kernel(plastic("lstm", "rls"), torch.float64)
    sizes = found.sizes | {"T": steps, "B": B, "I": I, "tape_steps": steps, "groups": groups}
    shapes = {**arguments._ARRAYS, **arguments._TABLES}
    dtypes = dict.fromkeys(arguments._TABLES, torch.int64) | {"episode_starts": torch.uint8}
    arrays = {
        name: torch.zeros([sizes[size] for size in shape], dtype=dtypes.get(name, torch.float64))
        for name, shape in shapes.items()
    }
    make_arguments(sizes, arrays, torch.float64)
    name = data.draw(st.sampled_from(sorted(arrays)))
    array = arrays[name]
    wrong = [
        array.to(torch.float32),
        array.to("meta"),
        array[..., :-1],
        torch.cat([array, array], dim=-1),
        torch.cat([array, array], dim=-1)[..., ::2],
        array.flatten()[:-1],
        array[:0],
        array.unsqueeze(0),
    ]
    if shapes[name][-1].endswith("_size") and shapes[name][-1] != "carry_size":
        shifted = torch.zeros(array.numel() + 1, dtype=array.dtype)[1:].view(array.shape)
        assert shifted.data_ptr() % 64, "an address between two lines"
        wrong.append(shifted)
    with pytest.raises(ValueError, match=f"^{name} must"):
        make_arguments(sizes, {**arrays, name: data.draw(st.sampled_from(wrong))}, torch.float64)


@needs_kernel
def test_interrupts_leave_memory_whole():
    script = Path(__file__).with_name("interrupted.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(script), "200"], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr


@needs_kernel
def test_a_forked_process_makes_threads_of_its_own():
    script = """
import os, torch
from plastic_agents.models.plastic.forms.compiled import autograd
from plastic_agents.models.plastic.network import PlasticNetwork
autograd.LEAST_WORK = 1
os.sched_getaffinity = lambda process: range(4)
torch.set_num_threads(4)
network, xs = PlasticNetwork(3, 16, 1), torch.randn(9, 64, 3)
with torch.no_grad():
    wanted = network.unroll(xs)[0].y
    for _ in range(20):
        if (child := os.fork()) == 0:
            os._exit(0 if torch.equal(network.unroll(xs)[0].y, wanted) else 1)
        assert os.waitpid(child, 0)[1] == 0
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@needs_kernel
def test_several_python_threads_may_run_it_at_the_same_time(monkeypatch):
    monkeypatch.setattr(autograd, "LEAST_WORK", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(4), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    network, xs = plastic(), torch.randn(9, 32, I, dtype=torch.float64)

    def run(_):
        with torch.no_grad():
            return network.unroll(xs)[0].y

    wanted = run(None)
    monkeypatch.setattr(kernel, "_KERNELS", {})  # all of them trace the step
    with ThreadPoolExecutor(4) as executor:
        assert all(torch.equal(found, wanted) for found in executor.map(run, range(40)))


@needs_kernel
def test_a_step_in_place_is_noticed_by_a_backward_pass_that_needs_the_old_values():
    network, xs = plastic(), torch.randn(5, B, I, dtype=torch.float64)
    output, state = network.unroll(xs)
    network.act(xs[0], detached(state))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.y.sum().backward()
    with torch.inference_mode():  # tensors that no backward pass will need have no version
        _, state = network.unroll(xs)
        network.act(xs[0], state)


def assert_runs(network):
    """Unroll and act as in the dense form."""
    xs = torch.randn(5, B, I, dtype=torch.float64)
    wanted, _ = network.unroll(xs, form="dense")
    torch.testing.assert_close(network.unroll(xs)[0].y, wanted.y)
    state = network.initial_state(B)
    with torch.no_grad():
        torch.testing.assert_close(network.unroll(xs)[0].y, wanted.y)
        for x, y in zip(xs, wanted.y, strict=True):
            output, state = network.act(x, state)
            torch.testing.assert_close(output.y, y)
    return xs


class CubeCell(RNNCell):
    @staticmethod
    def forward(q_x, q_h, hidden):
        q = q_x + q_h
        h = torch.tanh(q * q * q)
        return type(hidden)(h), h


class SineCell(RNNCell):
    @staticmethod
    def forward(q_x, q_h, hidden):
        h = torch.sin(q_x + q_h)
        return type(hidden)(h), h


@pytest.mark.parametrize("rule", ["hebbian", "gradient"])
def test_a_new_cell_is_compiled(monkeypatch, rule):
    monkeypatch.setitem(CELLS, "cube", CubeCell)
    network = plastic("cube", rule)
    xs = assert_runs(network)
    if compiled.available(xs):
        assert network.refusal("compiled", xs, None) is None


@needs_kernel
@pytest.mark.parametrize("rule", ["hebbian", "gradient"])
def test_a_cell_that_cannot_be_traced_takes_another_form(monkeypatch, rule):
    monkeypatch.setitem(CELLS, "sine", SineCell)
    network = plastic("sine", rule)
    xs = assert_runs(network)
    with pytest.raises(RuntimeError, match=r"needs a step that can be traced: .* has no operation 'sin' .*test_safety"):
        network.unroll(xs, form="compiled")


class ChecksItsInput(PlasticityRule):
    def update(self, step):
        if not isinstance(step.pre, torch.Tensor):
            raise TypeError(f"pre must be a tensor, got {type(step.pre)}")
        return Update(step.pre, step.post)


class HasAList(PlasticityRule):
    def __init__(self):
        object.__setattr__(self, "factors", [0.5, 0.25])

    def update(self, step):
        return Update(step.pre, sum(self.factors) * step.post)


@needs_kernel
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (ChecksItsInput(), "a step that can be traced, got TypeError: pre must be a tensor"),
        (HasAList(), "a rule whose constants are hashable"),
    ],
)
def test_a_rule_that_cannot_be_compiled_takes_another_form(rule, message):
    network = plastic(rule=rule)
    xs = assert_runs(network)
    with pytest.raises(RuntimeError, match=message):
        network.unroll(xs, form="compiled")


@dataclass(frozen=True)
class Scaled(PlasticityRule):
    factor: float

    def update(self, step):
        return Update(step.pre, self.factor * step.post)


def test_rules_with_other_constants_have_other_kernels():
    for factor in (0.9, 0.5):
        assert_runs(plastic(rule=Scaled(factor)))


@needs_kernel
def test_updates_too_large_to_be_undone_take_another_form():
    """One update is a million times as large as those before; their gradient must stay exact."""
    network = make_network("rnn", "hebbian", I, H, O, Plasticity(max_norm=1e9))
    xs = torch.randn(8, B, I, dtype=torch.float64)
    xs[6] *= 1e6

    def gradient(form):
        return torch.autograd.grad(network.unroll(xs, form=form)[0].y[:6].sum(), network.input.weight)[0]

    torch.testing.assert_close(gradient("auto"), gradient("dense"), rtol=1e-10, atol=1e-12)
    with pytest.raises(RuntimeError, match="max_norm of at most 100"):
        network.unroll(xs, form="compiled")


def unrolled(network, form="auto"):
    return lambda xs: network.unroll(xs, form=form)[0].y


@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_torch_func_takes_a_form_that_it_can_follow(cell, rule):
    network, xs = plastic(cell, rule), torch.randn(4, B, I, dtype=torch.float64)
    run, dense = unrolled(network), unrolled(network, "dense")
    wanted = torch.autograd.functional.jacobian(lambda xs: dense(xs).sum((1, 2)), xs)
    torch.testing.assert_close(torch.func.jacrev(lambda xs: run(xs).sum((1, 2)))(xs), wanted)
    torch.testing.assert_close(torch.func.grad(lambda xs: run(xs).sum())(xs), wanted.sum(0))
    tangent = torch.randn_like(xs)
    torch.testing.assert_close(
        torch.func.jvp(lambda xs: run(xs).sum((1, 2)), (xs,), (tangent,))[1],
        torch.einsum("otbi,tbi->o", wanted, tangent),
    )
    many = torch.stack([xs, 2 * xs])
    torch.testing.assert_close(torch.vmap(run)(many), torch.stack([dense(xs), dense(2 * xs)]))
    with torch.no_grad():
        step = lambda x: network.step(x, network.initial_state(B))[0].y  # noqa: E731
        torch.testing.assert_close(torch.vmap(step)(xs), torch.stack([step(x) for x in xs]))


@pytest.mark.parametrize("dual", ["xs", "parameter", "state"])
def test_forward_mode_gives_tangents_also_without_a_gradient(dual):
    network, xs = plastic(), torch.randn(4, B, I, dtype=torch.float64)
    state = detached(random_state(network, B))
    with torch.no_grad(), forward_ad.dual_level():
        if dual == "xs":
            xs = forward_ad.make_dual(xs, torch.ones_like(xs))
        elif dual == "state":
            state = map_state(lambda value: forward_ad.make_dual(value, torch.ones_like(value)), state)
        else:
            weight = network.input.weight
            del network.input.weight
            network.input.weight = forward_ad.make_dual(weight.detach(), torch.ones_like(weight))
        found = [
            forward_ad.unpack_dual(y).tangent for y in (network.step(xs[0], state)[0].y, network.unroll(xs, state)[0].y)
        ]
        wanted = forward_ad.unpack_dual(network.unroll(xs, state, form="dense")[0].y).tangent
    torch.testing.assert_close(found, [wanted[0], wanted])


@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_plain_tensors_may_stand_for_parameters(cell, rule):
    """As in `torch.func.functional_call`."""

    class Unroll(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = plastic(cell, rule)

        def forward(self, xs, form):
            return self.network.unroll(xs, form=form)[0].y

    module, xs = Unroll(), torch.randn(4, B, I, dtype=torch.float64)
    values = {name: (0.9 * value.detach()).requires_grad_() for name, value in module.named_parameters()}
    found = []
    for form in ("auto", "dense"):
        y = torch.func.functional_call(module, values, (xs, form))
        gradients = torch.autograd.grad(y.sum(), list(values.values()), allow_unused=True, materialize_grads=True)
        found.append([y, *gradients])
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning")
def test_a_traced_step_computes_what_the_step_does():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = plastic(rule="hebbian")

        def forward(self, x):
            return self.network.step(x, self.network.initial_state(B))[0].y

    step, x = Step(), torch.randn(B, I, dtype=torch.float64)
    with torch.no_grad():
        traced = torch.jit.trace(step, (x,))
        torch.testing.assert_close(traced(2 * x), step(2 * x))


@needs_kernel
def test_batched_gradients_are_refused_with_the_way_out():
    network, xs = plastic(), torch.randn(4, B, I, dtype=torch.float64, requires_grad=True)
    for form, fails in (("auto", True), ("dense", False)):
        y = unrolled(network, form)(xs).sum((0, 1))
        run = lambda y=y: torch.autograd.grad(y, xs, torch.eye(O, dtype=xs.dtype), is_grads_batched=True)  # noqa: E731
        if fails:
            with pytest.raises(RuntimeError, match="form='dense' takes them"):
                run()
        else:
            run()


@needs_kernel
@pytest.mark.parametrize(
    ("unpack", "message"),
    [
        (torch.Tensor.float, "must be torch.float64"),
        (lambda value: value.to("meta"), "gradients with memory|on the CPU, got"),
        (lambda value: value[:1], "of shape"),
        (lambda value: value.t().contiguous().t() if value.dim() == 2 else value, "must be contiguous"),
    ],
)
def test_hooks_that_change_saved_tensors_are_noticed(unpack, message):
    network, xs = plastic(), torch.randn(4, B, I, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda value: value, unpack):
        y = unrolled(network)(xs)
    with pytest.raises((ValueError, RuntimeError), match=message):
        y.sum().backward()
    with torch.autograd.graph.save_on_cpu():
        y = unrolled(network)(xs)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), xs), torch.autograd.grad(unrolled(network)(xs).sum(), xs))


def test_fake_tensors_stay_fake():
    network = plastic()
    xs, state = torch.randn(4, B, I, dtype=torch.float64), network.initial_state(B)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert network.unroll(xs)[0].y.shape == (4, B, O)
        with torch.no_grad():
            assert network.step(torch.randn(B, I, dtype=torch.float64), state)[0].y.shape == (B, O)
    assert plastic().to("meta").unroll(xs.to("meta"))[0].y.device.type == "meta"


def test_every_leaf_is_checked():
    """Each case has one leaf of a wrong width."""
    for cell, rule in FEW_CORES:
        network = plastic(cell, rule)
        count = len(leaves(network.initial_state(B)))
        for wrong in range(count):
            number = iter(range(count))
            state = map_state(
                lambda value, number=number, wrong=wrong: value[..., :-1] if next(number) == wrong else value,
                network.initial_state(B),
            )
            with pytest.raises(ValueError, match=r"state\.[a-z_.]+ must have shape"):
                network.act(torch.randn(B, I, dtype=torch.float64), state)


@pytest.mark.parametrize(
    "lazy",
    [
        lambda xs: torch._efficientzerotensor(xs.shape, dtype=xs.dtype),
        lambda xs: torch.complex(xs, xs).conj().imag,
        lambda xs: torch._neg_view(xs),
    ],
)
def test_lazy_tensors_take_another_form(lazy):
    network, xs = plastic(), torch.randn(1, 1, I, dtype=torch.float64)
    x = lazy(xs)
    torch.testing.assert_close(unrolled(network)(x), unrolled(network, "dense")(x))
    with torch.no_grad():
        state = network.initial_state(1)
        torch.testing.assert_close(network.step(x[0], state)[0].y, unrolled(network, "dense")(x)[0])
    with pytest.raises(RuntimeError, match="ordinary tensors"):
        network.unroll(x, form="compiled")


@needs_kernel
def test_a_gradient_without_memory_is_refused():
    network, xs = plastic(), torch.randn(4, B, I, dtype=torch.float64)
    output, _ = network.unroll(xs)
    with pytest.raises(RuntimeError, match="needs gradients with memory"):
        output.eta.backward(torch._efficientzerotensor(output.eta.shape, dtype=xs.dtype))


@needs_kernel
@pytest.mark.parametrize("hidden_size", [9, 16])
def test_the_state_of_a_step_in_place_has_no_graph(hidden_size):
    network, xs = plastic("lstm", hidden_size=hidden_size), torch.randn(4, B, I, dtype=torch.float64)
    _, state = network.unroll(xs)
    _, state = network.act(xs[0], state)
    assert not any(leaf.requires_grad for leaf in leaves(state))
    network.unroll(xs, state)[0].y.sum().backward()


@needs_kernel
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_states_need_not_be_contiguous(cell, rule):
    network, xs = plastic(cell, rule), torch.randn(4, B, I, dtype=torch.float64)
    state = detached(random_state(network, B))
    strided = map_state(lambda value: torch.stack([value, value], dim=-1)[..., 0], state)
    assert not any(leaf.is_contiguous() for leaf in leaves(strided))
    wanted, _ = network.unroll(xs, state, form="dense")
    torch.testing.assert_close(network.unroll(xs, strided, form="compiled")[0].y, wanted.y)
    acting = strided
    for x, y in zip(xs, wanted.y, strict=True):
        output, acting = network.act(x, acting)
        torch.testing.assert_close(output.y, y)
    assert all(torch.equal(a, b) for a, b in zip(leaves(strided), leaves(state), strict=True))


@needs_kernel
def test_parameters_need_not_be_contiguous():
    network, xs = plastic(), torch.randn(4, B, I, dtype=torch.float64)
    weight = network.readout_loss_weight.detach()
    network.readout_loss_weight = nn.Parameter(torch.stack([weight, weight], dim=-1)[:, 0])
    network.input.weight = nn.Parameter(network.input.weight.detach().T.contiguous().T)
    torch.testing.assert_close(unrolled(network, "compiled")(xs), unrolled(network, "dense")(xs))
    with torch.no_grad():
        network.step(xs[0], network.initial_state(B))


@needs_kernel
@pytest.mark.parametrize(("cell", "rule"), FEW_CORES)
def test_a_nan_in_one_episode_does_not_reach_the_one_before(cell, rule):
    network, xs = plastic(cell, rule), torch.randn(9, 2, I, dtype=torch.float64)
    xs[7] = float("nan")
    xs.requires_grad_()
    episode_starts = torch.zeros(9, 2, dtype=torch.bool)
    episode_starts[5] = True
    for form in ("dense", "compiled"):
        output, _ = network.unroll(xs, episode_starts=episode_starts, form=form)
        (gradient,) = torch.autograd.grad(output.y.sum(), xs)
        assert gradient[:5].isfinite().all(), form
