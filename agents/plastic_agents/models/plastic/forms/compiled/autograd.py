"""The compiled form as an autograd function: its memory, its threads, and the matrix products around it.

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

# The cells and rules whose equations the C code has, with the C flags lstm and gradient.
CELLS: dict[type[Cell], bool] = {RNNCell: False, LSTMCell: True}
RULES = {"hebbian": False, "gradient": True}
# The backward pass undoes updates. Undoing an update that is k times as large as the weights before it multiplies their
# rounding error by k.
LARGEST_MAX_NORM = 100.0
# Each group of sequences sums its own gradient of alpha. The number of groups depends on the number of sequences alone,
# so the result does not depend on the number of threads.
MOST_GROUPS = 16
# The least work per thread, in fast weights times steps: waking a thread takes longer than less work.
LEAST_WORK = 2**19


def available(tensor: Tensor) -> bool:
    """Return whether the kernel runs on tensors of this device and dtype; build it at the first call."""
    return tensor.device.type == "cpu" and tensor.dtype in C_TYPES and load(tensor.dtype) is not None


def refusal(core: PlasticNetwork, xs: Tensor, state: State | None) -> str | None:
    """Return what the kernel needs to run this network on these tensors, or None if it can run.

    The C code has the equations of certain cells and rules only. It reads and writes memory by address, so torch's
    transforms (torch.func, tracing, forward-mode derivatives) can't follow it.
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
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # documented
        return "calls outside torch.jit.trace"
    tensors = [xs, *_parameters(core).values()]
    map_state(tensors.append, state)
    # A new tensor shows whether a mode such as FakeTensorMode is active.
    if not all(map(_has_address, [*tensors, xs.new_empty(1)])):
        return "ordinary tensors, got a wrapper of torch.func, a tensor subclass or a lazy view"
    if any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        return "tensors without tangents: it has no forward-mode derivative"
    return None


def _has_address(tensor: Tensor) -> bool:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_neg() or tensor._is_zerotensor():
        return False  # a lazy negative has other numbers in memory, a zero tensor has no memory
    try:
        tensor.data_ptr()
    except RuntimeError:  # a wrapper of torch.func has the type of an ordinary tensor, but no storage
        return False
    return True


def unroll_compiled(
    core: PlasticNetwork, xs: Tensor, state: State | None, episode_starts: Tensor | None
) -> tuple[Tensor, State, Tensor]:
    """Run the compiled form over xs [T, B, I]; call it only if `refusal` returns None.

    ``state`` None starts episodes. The gradient is exact. It has no second derivative.

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
        slow,
        alpha,
        parameters["readout_loss_weight"].contiguous(),
        hidden[0],
        hidden[1] if problem.lstm else None,
        fast,
    )
    taped = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in inputs)
    start_bytes = None if episode_starts is None else _bytes(episode_starts)
    unrolled = _Unroll.apply(problem, taped, start_bytes, *inputs)  # type: ignore[no-untyped-call]
    readout, eta, last_h, last_c, last_fast = unrolled
    last_hidden = core.cell.Hidden(last_h, last_c) if problem.lstm else core.cell.Hidden(last_h)
    return readout, State(last_hidden, layout.unpack(last_fast)), eta


@torch.no_grad()
def step_compiled(
    core: PlasticNetwork, x: Tensor, state: State, episode_starts: Tensor | None, in_place: bool
) -> tuple[Tensor, State, Tensor]:
    """Make one step without a gradient; call it only if `refusal` returns None.

    Args:
        core: the network.
        x: inputs [B, I].
        state: the state before the step.
        episode_starts: bool [B], true where the network restarts before the step, or None.
        in_place: overwrite the fast weights of ``state`` if they are packed as in `Layout`, which saves a copy.

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
        # Autograd does not see the kernel's writes: a backward pass that needs the old values must raise an error.
        increment_version(fast)
    # The hidden state is copied: h and c may be the same tensor of zeros, and a copy is cheap.
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
        arrays["episode_starts"] = _bytes(episode_starts).unsqueeze(0)
    _run("forward", problem, arrays)
    unpacked = map_state(Tensor.detach, state.fast) if in_place else layout.unpack(fast)
    return arrays["readout"][0], State(core.cell.Hidden(*hidden), unpacked), arrays["eta"][0]


def _bytes(episode_starts: Tensor) -> Tensor:
    return episode_starts.contiguous().view(torch.uint8)


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
    """Call the library's ``forward`` or ``backward``, a single call that no Python exception can interrupt."""
    xs = arrays["xs"]
    library = load(xs.dtype)
    assert library is not None
    split = split_work(xs.shape[1], len(xs) * problem.layout.matrix_size)
    arguments = make_arguments(problem, arrays, split.groups)
    if direction == "backward":
        arguments.snapshots = library.most_snapshots(ctypes.byref(arguments))
        scratch = xs.new_empty(split.workers * library.scratch_size(ctypes.byref(arguments)))
        arguments.scratch = scratch.data_ptr()
    getattr(library, direction)(ctypes.byref(arguments), split.workers)


class WorkSplit(NamedTuple):
    """Number of threads, and of groups of sequences; a thread takes one group at a time."""

    workers: int
    groups: int


def split_work(batch_size: int, work: int) -> WorkSplit:
    """Return how to split ``batch_size`` sequences of ``work`` fast weights times steps each."""
    groups = min(MOST_GROUPS, batch_size)
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1 << 30
    most_workers = min(torch.get_num_threads(), n_cores, groups)
    return WorkSplit(max(1, min(most_workers, batch_size * work // LEAST_WORK)), groups)


class _Unroll(torch.autograd.Function):
    """The kernel from xs [T, B, I] and packed weights to readout [T, B, R], eta [T, B] and the final state."""

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
        tape_steps = steps if taped else 2  # without a backward pass, a step and the step before it
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
        optional = {"episode_starts": episode_starts, "first_c": first_c, "first_fast": first_fast}
        arrays |= {name: tensor for name, tensor in optional.items() if tensor is not None}
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
        output_gradients = (d_readout, d_eta, d_last_h, d_last_c, d_last_fast)
        if not all(_has_address(tensor) for tensor in (*arrays.values(), *output_gradients) if tensor is not None):
            raise RuntimeError(
                "form='compiled' needs gradients with memory of their own, got a wrapper of torch.func or a tensor "
                "subclass (is_grads_batched and vectorize=True make such); form='dense' takes them"
            )
        xs, first_h = arrays["xs"], arrays["first_h"]
        steps, batch_size, _ = xs.shape
        new = xs.new_empty

        def or_zeros(gradient: Tensor | None, *shape: int) -> Tensor:
            return xs.new_zeros(shape) if gradient is None else gradient.contiguous()

        arrays |= {
            "d_readout": or_zeros(d_readout, steps, batch_size, layout.readout),
            "d_eta": or_zeros(d_eta, steps, batch_size),
            "d_last_h": or_zeros(d_last_h, *first_h.shape),
            "d_last_c": or_zeros(d_last_c, *first_h.shape),
            "d_post": new(batch_size, steps, layout.post_size),
            "d_pre": new(batch_size, steps, layout.pre_size),
            "d_directions": new(batch_size, steps, layout.readout),
            "d_alpha": new(split_work(batch_size, 0).groups, layout.matrix_size),
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
            d_squared_weight = (arrays["readout"].transpose(0, 1) * arrays["d_directions"]).sum((0, 1))
            d_loss_weight = 4 / layout.readout * arrays["loss_weight"] * d_squared_weight
        return (
            None,  # problem
            None,  # taped
            None,  # episode_starts
            arrays["d_xs"],
            _slow_gradient(problem, arrays),
            arrays["d_alpha"].sum(0),
            d_loss_weight,
            arrays["d_first_h"],
            arrays.get("d_first_c"),
            arrays.get("d_first_fast"),
        )


def _slow_gradient(problem: Problem, arrays: dict[str, Tensor]) -> Tensor:
    """Return the sum over steps and sequences of pre (x) d_post + d_pre (x) post: [matrix_size]."""
    pre, post, d_pre, d_post = (arrays[name].flatten(0, 1) for name in ("pre", "post", "d_pre", "d_post"))
    gradient = pre.new_empty(problem.layout.matrix_size)
    hidden = problem.layout.hidden
    for index, layer in enumerate(problem.layout.layers):
        out = gradient[layer.matrix : layer.matrix + layer.rows * layer.cols].view(layer.rows, layer.cols)
        columns = slice(layer.post, layer.post + layer.cols)
        torch.mm(pre[:, layer.pre : layer.pre + layer.rows].T, d_post[:, columns], out=out)
        if problem.gradient and index > 0:  # the inner gradient passes through the cell and the readout
            out[:hidden].addmm_(d_pre[:, layer.pre : layer.pre + hidden].T, post[:, columns])
    return gradient
