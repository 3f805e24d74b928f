"""The kernel as a function that autograd knows: its memory, its threads, and the large products around it.

Shape letters: T steps, B sequences, I inputs, H hidden units, R readout units.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.autograd.graph import increment_version

from plastic_agents.models.core import State, map_state
from plastic_agents.models.plastic.cells import Cell, LSTMCell, RNNCell
from plastic_agents.models.plastic.fast_weights import FastWeights
from plastic_agents.models.plastic.forms.compiled.arguments import RATES, Problem, make_arguments
from plastic_agents.models.plastic.forms.compiled.build import C_TYPES, load
from plastic_agents.models.plastic.forms.compiled.layout import Layout, make_layout

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork

# The cells and rules that the C code has equations for, with its flags for them: lstm and gradient.
CELLS: dict[type[Cell], bool] = {RNNCell: False, LSTMCell: True}
RULES = {"hebbian": False, "gradient": True}
# The backward pass undoes updates. Undoing one that is this many times as large as the weights before it loses as many
# times the rounding error of those.
LARGEST_MAX_NORM = 100.0
# Sequences are dealt out in groups, each with its own sum of alpha's gradient. Their number follows from the number of
# sequences alone, so the result does not depend on the number of threads.
MOST_GROUPS = 16
# A thread that is woken has to save more time than waking it takes: numbers of fast weights, times steps.
LEAST_WORK = 2**19


def available(tensor: Tensor) -> bool:
    """Return whether the kernel runs on tensors of this device and dtype; builds it at the first call."""
    return tensor.device.type == "cpu" and tensor.dtype in C_TYPES and load(tensor.dtype) is not None


def refusal(core: PlasticNetwork, xs: Tensor, state: State | None) -> str | None:
    """Return why the kernel can't run this network on these tensors, or None if it can.

    The kernel has equations of its own, so it takes only what they were written for; and it reads and writes memory
    by address, so torch's transforms can't follow it.
    """
    if core.cell not in CELLS or core.rule not in RULES:
        return (
            f"cells {', '.join(cell.__name__ for cell in CELLS)} and rules {', '.join(RULES)}, "
            f"got {core.cell.__name__} with {core.rule!r}"
        )
    if core.plasticity.max_norm > LARGEST_MAX_NORM:
        return f"max_norm of at most {LARGEST_MAX_NORM:g}, got {core.plasticity.max_norm:g}"
    if not available(xs):
        return f"a C compiler and float32 or float64 on the CPU, got {xs.dtype} on {xs.device}"
    if torch.jit.is_tracing():
        return "calls outside torch.jit.trace"
    tensors = [xs, *_parameters(core).values()]
    map_state(tensors.append, state)
    # Under a mode that makes other tensors than ordinary ones, such as FakeTensorMode, so is a new tensor.
    if not all(map(_has_address, [*tensors, xs.new_empty(1)])):
        return "tensors that are what their memory holds, got one of torch.func, of a subclass, or a lazy view"
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        return "tensors without tangents: it has no forward-mode derivative"
    return None


def _has_address(tensor: Tensor) -> bool:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_neg() or tensor._is_zerotensor():
        return False  # the last two hold other numbers in memory than they stand for, or none
    try:
        tensor.data_ptr()
    except RuntimeError:  # torch.func's wrappers have no storage, but the type of ordinary tensors
        return False
    return True


def unroll_compiled(
    core: PlasticNetwork, xs: Tensor, state: State | None, episode_starts: Tensor | None
) -> tuple[Tensor, State, Tensor]:
    """Run the kernel form over xs [T, B, I], for what `refusal` has nothing against.

    ``state`` None begins episodes. The gradient is exact, but has no gradient of its own.

    Returns:
        Readouts [T, B, R], final state, etas [T, B].

    Raises:
        ValueError: a parameter of the wrong shape, dtype or device.
    """
    parameters = _parameters(core)
    layout = _layout(core, parameters, xs.dtype)
    problem = Problem(layout, CELLS[core.cell], RULES[core.rule], core.plasticity)
    slow, alpha = _pack_weights(parameters, layout)
    if state is None:
        hidden, fast = (xs.new_zeros(xs.shape[1], layout.hidden),) * len(core.cell.Hidden._fields), None
    else:
        assert state.fast is not None
        hidden, fast = tuple(value.contiguous() for value in state.hidden), layout.pack(state.fast)
    inputs = (
        xs.contiguous(),
        *(slow, alpha, parameters["readout_loss_weight"].contiguous()),
        *(hidden[0], hidden[1] if problem.lstm else None, fast),
    )
    taped = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in inputs)
    start_bytes = None if episode_starts is None else _bytes(episode_starts)
    readout, eta, last_h, last_c, last_fast = _Unroll.apply(problem, taped, start_bytes, *inputs)
    last_hidden = core.cell.Hidden(last_h, last_c) if problem.lstm else core.cell.Hidden(last_h)
    return readout, State(last_hidden, layout.unpack(last_fast)), eta


@torch.no_grad()
def step_compiled(
    core: PlasticNetwork, x: Tensor, state: State, episode_starts: Tensor | None, in_place: bool
) -> tuple[Tensor, State, Tensor]:
    """Take one step for acting, for what `refusal` has nothing against.

    Where ``starts`` [B] is true an episode begins. ``in_place`` overwrites the state's fast weights where `Layout` laid
    them out, which saves copying them.

    Returns:
        Readout [B, R], the state after the step, eta [B].

    Raises:
        ValueError: a parameter of the wrong shape, dtype or device.
    """
    assert state.fast is not None
    parameters = _parameters(core)
    layout = _layout(core, parameters, x.dtype)
    problem = Problem(layout, CELLS[core.cell], RULES[core.rule], core.plasticity)
    slow, alpha = _pack_weights(parameters, layout)
    fast = layout.find_packed(state.fast)
    in_place = in_place and fast is not None
    if fast is None:
        fast = layout.pack(state.fast)
    elif not in_place:
        fast = fast.clone()
    elif not fast.is_inference():
        # The kernel writes behind autograd's back: without this a backward pass that needs the old values would go on.
        increment_version(fast)
    # Copies, for h and c may be one tensor of zeros; the fast weights are what is large.
    hidden = [value.clone(memory_format=torch.contiguous_format) for value in state.hidden]
    batch_size, new = len(x), x.new_empty
    arrays = {
        "xs": x.contiguous().unsqueeze(0),
        "slow": slow,
        "alpha": alpha,
        "loss_weight": parameters["readout_loss_weight"].contiguous(),
        "first_fast": fast,
        "last_fast": fast,
        "first_h": hidden[0],
        "last_h": hidden[0],
        "readout": new(1, batch_size, layout.readout),
        "eta": new(1, batch_size),
        "pre": new(batch_size, 2, layout.pre_size),
        "post": new(batch_size, 2, layout.post_size),
        "rates": new(batch_size, 2, RATES),
        "act": new(batch_size, 1, layout.act_size),
    }
    if problem.lstm:
        arrays |= {"first_c": hidden[1], "last_c": hidden[1]}
    if episode_starts is not None:
        arrays["starts"] = _bytes(episode_starts).unsqueeze(0)
    _run("forward", problem, arrays)
    unpacked = map_state(Tensor.detach, state.fast) if in_place else layout.unpack(fast)
    return arrays["readout"][0], State(core.cell.Hidden(*hidden), unpacked), arrays["eta"][0]


def _bytes(flags: Tensor) -> Tensor:
    return flags.contiguous().view(torch.uint8)


def _layout(core: PlasticNetwork, parameters: Mapping[str, Tensor], dtype: torch.dtype) -> Layout:
    """Return the layout of the network's matrices, after a check that its parameters fit the layout.

    Raises:
        ValueError: a parameter of the wrong shape, dtype or device.
    """
    inputs, to_hidden, _, readout = core.plastic_layers
    layout = make_layout(inputs.in_features, inputs.out_features, to_hidden.out_features, readout.out_features, dtype)
    for name, tensor in parameters.items():
        if tensor.shape != layout.shapes[name] or tensor.dtype != dtype or tensor.device.type != "cpu":
            raise ValueError(
                f"{name} must be {dtype} of shape {list(layout.shapes[name])} on cpu, got {tensor.dtype} of shape "
                f"{list(tensor.shape)} on {tensor.device}"
            )
    return layout


def _parameters(core: PlasticNetwork) -> dict[str, Tensor]:
    """Return the parameters and buffers that the kernel reads, by name."""
    parameters = {"readout_loss_weight": core.readout_loss_weight}
    for name, layer in zip(FastWeights._fields, core.plastic_layers, strict=True):
        for kind in ("weight", "bias", "alpha_weight", "alpha_bias"):
            parameters[f"{name}.{kind}"] = getattr(layer, kind)
    return parameters


def _pack_weights(parameters: Mapping[str, Tensor], layout: Layout) -> tuple[Tensor, Tensor]:
    """Return the slow weights and the plasticity coefficients, each packed as [matrix_size]."""
    names = FastWeights._fields
    slow = layout.pack([(parameters[f"{name}.weight"], parameters[f"{name}.bias"]) for name in names])
    return slow, layout.pack([(parameters[f"{name}.alpha_weight"], parameters[f"{name}.alpha_bias"]) for name in names])


def _run(direction: str, problem: Problem, arrays: dict[str, Tensor]) -> None:
    """Call the library's ``forward`` or ``backward``: one call, which no Python exception can leave half-way."""
    xs = arrays["xs"]
    library = load(xs.dtype)
    assert library is not None
    shares = share_out(xs.shape[1], len(xs) * problem.layout.matrix_size)
    arguments = make_arguments(problem, arrays, shares.groups)
    if direction == "backward":
        arguments.snapshots = library.most_snapshots(ctypes.byref(arguments))
        scratch = xs.new_empty(shares.workers * library.scratch_size(ctypes.byref(arguments)))
        arguments.scratch = scratch.data_ptr()
    getattr(library, direction)(ctypes.byref(arguments), shares.workers)


class Shares(NamedTuple):
    """How the sequences are shared out: threads at work, and groups of sequences that one thread takes at a time."""

    workers: int
    groups: int


def share_out(batch_size: int, work: int) -> Shares:
    """Share out ``batch_size`` sequences of ``work`` fast weights times steps each."""
    groups = min(MOST_GROUPS, batch_size)
    most = min(torch.get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1 << 30)
    return Shares(max(1, min(most, groups, batch_size * work // LEAST_WORK)), groups)


class _Unroll(torch.autograd.Function):
    """xs [T, B, I] and packed weights to readout [T, B, R], eta [T, B] and the last hidden and fast state."""

    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        taped: bool,
        episode_starts: Tensor | None,
        xs: Tensor,
        slow: Tensor,
        alpha: Tensor,
        loss_weight: Tensor,
        first_h: Tensor,
        first_c: Tensor | None,
        first_fast: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        layout = problem.layout
        steps, batch_size, _ = xs.shape
        tape_steps = steps if taped else 2  # without a backward pass, a step and the one before it
        new = xs.new_empty
        arrays = {
            "xs": xs,
            "slow": slow,
            "alpha": alpha,
            "loss_weight": loss_weight,
            "first_h": first_h,
            "readout": new(steps, batch_size, layout.readout),
            "last_h": torch.empty_like(first_h),
            "last_fast": new(batch_size, layout.matrix_size),
            "pre": new(batch_size, tape_steps, layout.pre_size),
            "post": new(batch_size, tape_steps, layout.post_size),
            "rates": new(batch_size, tape_steps, RATES),
            "act": new(batch_size, steps if taped and problem.lstm else 1, layout.act_size),
        }
        for name, tensor in (("starts", episode_starts), ("first_c", first_c), ("first_fast", first_fast)):
            if tensor is not None:
                arrays[name] = tensor
        eta, last_c = new(steps, batch_size), torch.empty_like(first_h)
        library = load(xs.dtype)
        assert library is not None
        library.prefer_large_pages(arrays["last_fast"].data_ptr(), arrays["last_fast"].nbytes)
        _run("forward", problem, {**arrays, "eta": eta, "last_c": last_c})
        if taped:
            ctx.problem, ctx.names = problem, list(arrays)
            ctx.save_for_backward(*arrays.values())
            ctx.set_materialize_grads(False)
        return arrays["readout"], eta, arrays["last_h"], last_c if problem.lstm else None, arrays["last_fast"]

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        d_readout: Tensor | None,
        d_eta: Tensor | None,
        d_last_h: Tensor | None,
        d_last_c: Tensor | None,
        d_last_fast: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        problem: Problem = ctx.problem
        layout = problem.layout
        arrays: dict[str, Tensor] = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        arriving = (d_readout, d_eta, d_last_h, d_last_c, d_last_fast)
        if not all(_has_address(tensor) for tensor in (*arrays.values(), *arriving) if tensor is not None):
            raise RuntimeError(
                "form='compiled' needs gradients with memory of their own, got one that torch.func or a tensor subclass "
                "wraps (is_grads_batched and vectorize=True do so); form='dense' takes them"
            )
        xs, first_h = arrays["xs"], arrays["first_h"]
        steps, batch_size, _ = xs.shape
        new = xs.new_empty

        def given(gradient: Tensor | None, *shape: int) -> Tensor:
            return xs.new_zeros(shape) if gradient is None else gradient.contiguous()

        arrays |= {
            "d_readout": given(d_readout, steps, batch_size, layout.readout),
            "d_eta": given(d_eta, steps, batch_size),
            "d_last_h": given(d_last_h, *first_h.shape),
            "d_last_c": given(d_last_c, *first_h.shape),
            "d_post": new(batch_size, steps, layout.post_size),
            "d_pre": new(batch_size, steps, layout.pre_size),
            "d_directions": new(batch_size, steps, layout.readout),
            "d_alpha": new(share_out(batch_size, 0).groups, layout.matrix_size),
            "d_xs": torch.empty_like(xs),
            "d_first_h": torch.empty_like(first_h),
        }
        if d_last_fast is not None:
            arrays["d_last_fast"] = d_last_fast.contiguous()
        if "first_fast" in arrays:
            arrays["d_first_fast"] = torch.empty_like(arrays["first_fast"])
        if problem.lstm:
            arrays["d_first_c"] = torch.empty_like(first_h)
        _run("backward", problem, arrays)
        d_loss_weight = None
        if problem.gradient:
            through = (arrays["readout"].transpose(0, 1) * arrays["d_directions"]).sum((0, 1))
            d_loss_weight = 4 / layout.readout * arrays["loss_weight"] * through
        return (
            *(None, None, None, arrays["d_xs"], _slow_gradient(problem, arrays), arrays["d_alpha"].sum(0)),
            *(d_loss_weight, arrays["d_first_h"], arrays.get("d_first_c"), arrays.get("d_first_fast")),
        )


def _slow_gradient(problem: Problem, arrays: dict[str, Tensor]) -> Tensor:
    """The sum over steps and sequences of pre (x) d_post + d_pre (x) post: [matrix_size]."""
    pre, post, d_pre, d_post = (arrays[name].flatten(0, 1) for name in ("pre", "post", "d_pre", "d_post"))
    gradient = pre.new_empty(problem.layout.matrix_size)
    hidden = problem.layout.hidden
    for index, layer in enumerate(problem.layout.layers):
        out = gradient[layer.matrix : layer.matrix + layer.rows * layer.cols].view(layer.rows, layer.cols)
        columns = slice(layer.post, layer.post + layer.cols)
        torch.mm(pre[:, layer.pre : layer.pre + layer.rows].T, d_post[:, columns], out=out)
        if problem.gradient and index > 0:  # the inner gradient comes back through the cell and the readout
            out[:hidden].addmm_(d_pre[:, layer.pre : layer.pre + hidden].T, post[:, columns])
    return gradient
