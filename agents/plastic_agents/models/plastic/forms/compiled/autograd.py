"""The compiled form as an autograd function: its memory, its threads, and the matrix products around it.

Shape letters: T steps, B sequences, I inputs, R readout units.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.autograd.graph import increment_version

from plastic_agents.models.core import State, map_state
from plastic_agents.models.plastic.forms.compiled.arguments import make_arguments
from plastic_agents.models.plastic.forms.compiled.build import C_TYPES, has_compiler
from plastic_agents.models.plastic.forms.compiled.kernel import Kernel, find_kernel
from plastic_agents.models.plastic.forms.compiled.program import parameter

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork

# The backward pass undoes updates. Undoing an update that is k times as large as the weights before it multiplies their
# rounding error by k.
LARGEST_MAX_NORM = 100.0
# Each group of sequences sums its own gradient of alpha. The number of groups depends on the number of sequences alone,
# so the result does not depend on the number of threads.
MOST_GROUPS = 16
# The least work per thread, in fast weights times steps: waking a thread takes longer than less work.
LEAST_WORK = 2**19


def available(tensor: Tensor) -> bool:
    """Return whether there is a C compiler, and a kernel for tensors of this device and dtype."""
    return tensor.device.type == "cpu" and tensor.dtype in C_TYPES and has_compiler()


def refusal(core: PlasticNetwork, xs: Tensor, state: State | None) -> str | None:
    """Return what the kernel needs to run this network on these tensors, or None if it can run."""
    kernel = find(core, xs, state)
    return kernel if isinstance(kernel, str) else None


def find(core: PlasticNetwork, xs: Tensor, state: State | None) -> Kernel | str:
    """Return the kernel for a network on these tensors, or what is missing.

    The kernel reads and writes memory by address, so torch's transforms (torch.func, tracing, forward-mode derivatives)
    can't follow it.
    """
    if core.settings.max_norm > max(LARGEST_MAX_NORM, core.rule.max_norm):
        return f"max_norm of at most {LARGEST_MAX_NORM:g}, got {core.settings.max_norm:g}"
    if xs.device.type != "cpu" or xs.dtype not in C_TYPES:
        return f"float32 or float64 on the CPU, got {xs.dtype} on {xs.device}"
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # documented
        return "calls outside torch.jit.trace"
    tensors = [xs]
    for module in core.modules():
        # Plain tensors may have taken the place of parameters.
        attributes = vars(module)
        for values in (attributes["_parameters"], attributes["_buffers"], attributes):
            tensors += [value for value in values.values() if isinstance(value, Tensor)]
    map_state(tensors.append, state)
    # A new tensor shows whether a mode such as FakeTensorMode is active.
    if not all(map(_has_address, [*tensors, xs.new_empty(1)])):
        return "ordinary tensors, got a wrapper of torch.func, a tensor subclass or a lazy view"
    in_dual_level = forward_ad._current_level >= 0  # otherwise `unpack_dual` finds no tangent, and takes its time
    if in_dual_level and any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        return "tensors without tangents: it has no forward-mode derivative"
    return find_kernel(core, xs.dtype)


def _has_address(tensor: Tensor) -> bool:
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_neg() or tensor._is_zerotensor():
        return False  # a lazy negative has other numbers in memory, a zero tensor has no memory
    try:
        tensor.data_ptr()
    except RuntimeError:  # a wrapper of torch.func has the type of an ordinary tensor, but no storage
        return False
    return True


def _kernel(core: PlasticNetwork, dtype: torch.dtype) -> Kernel:
    kernel = find_kernel(core, dtype)
    assert isinstance(kernel, Kernel)
    return kernel


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
    return run_kernel(core, _kernel(core, xs.dtype), xs, state, episode_starts)


def run_kernel(
    core: PlasticNetwork, kernel: Kernel, xs: Tensor, state: State | None, episode_starts: Tensor | None
) -> tuple[Tensor, State, Tensor]:
    """Run a kernel; see `unroll_compiled`."""
    weights = _weights(core, kernel, xs.dtype)
    packed = [
        layout.pack(weights[name]) if weights[name] else xs.new_empty(0) for name, layout in kernel.weights.items()
    ]
    initial_carry, initial_fast = _initial(core, kernel)
    if state is None:
        carry, fast = initial_carry.expand(xs.shape[1], -1).contiguous(), None
    else:
        carry, fast = _carry(kernel, state), kernel.layout.pack(kernel.layout.fast_parts(state.fast))
    inputs = (xs.contiguous(), *packed, initial_carry, initial_fast, carry, fast)
    taped = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in inputs)
    start_bytes = None if episode_starts is None else _bytes(episode_starts)
    readout, eta, last_carry, last_fast = _Unroll.apply(kernel, taped, start_bytes, *inputs)  # type: ignore[no-untyped-call]
    return readout, _state(core, kernel, last_carry, kernel.layout.parts(last_fast)), eta


@torch.no_grad()
def step_compiled(
    core: PlasticNetwork, kernel: Kernel, x: Tensor, state: State, episode_starts: Tensor | None, in_place: bool
) -> tuple[Tensor, State, Tensor]:
    """Make one step without a gradient.

    Args:
        core: the network.
        kernel: from `find`.
        x: inputs [B, I].
        state: the state before the step.
        episode_starts: bool [B], true where the network restarts before the step, or None.
        in_place: overwrite the fast weights of ``state`` if they are packed as in `Layout`, which saves a copy.

    Returns:
        Readout [B, R], the state after the step, eta [B].

    Raises:
        ValueError: a parameter of the wrong shape, dtype or device.
    """
    fast = kernel.layout.find_packed(state.fast)
    in_place = in_place and fast is not None
    if fast is None:
        fast = kernel.layout.pack(kernel.layout.fast_parts(state.fast))
    elif not in_place:
        fast = fast.clone()
    elif not fast.is_inference():
        # Autograd does not see the kernel's writes: a backward pass that needs the old values must raise an error.
        increment_version(fast)
    carry = _carry(kernel, state)
    arrays = {
        "xs": x.contiguous().unsqueeze(0),
        "first_carry": carry,
        "last_carry": carry,
        "first_fast": fast,
        "last_fast": fast,
        "readout": x.new_empty(1, len(x), kernel.readout_size),
        "eta": x.new_empty(1, len(x)),
        "tape": x.new_empty(len(x), 2, kernel.code.area_sizes["tape"]),
    }
    if episode_starts is not None:  # the only reader of the initial state
        arrays["episode_starts"] = _bytes(episode_starts).unsqueeze(0)
        arrays["initial_carry"], initial_fast = _initial(core, kernel)
        if initial_fast is not None:
            arrays["initial_fast"] = initial_fast
    with _copied(_weights(core, kernel, x.dtype), kernel) as weights:
        _run("forward", kernel, arrays | weights)
    parts = kernel.layout.fast_parts(state.fast) if in_place else []
    if not parts or parts[0].requires_grad:
        parts = kernel.layout.parts(fast)
    return arrays["readout"][0], _state(core, kernel, carry, parts), arrays["eta"][0]


def _bytes(episode_starts: Tensor) -> Tensor:
    return episode_starts.contiguous().view(torch.uint8)


def _weights(core: PlasticNetwork, kernel: Kernel, dtype: torch.dtype) -> dict[str, list[Tensor]]:
    """Return the parts of ``kernel.weights``: a network's slow weights, coefficients, projections and shared vectors.

    Raises:
        ValueError: a parameter of the wrong dtype or device.
    """
    layers = core.layers
    slow: list[Tensor] = []
    alpha: list[Tensor] = []
    for (layer, key), size in zip(kernel.program.names, kernel.program.sizes, strict=True):
        if key is None:
            module = layers[layer]
            slow += [module.weight, module.bias]
            alpha += [module.alpha_weight, module.alpha_bias]
        else:
            slow.append(torch.zeros(size.rows, size.cols, dtype=dtype))
            alpha.append(torch.ones(size.rows, size.cols, dtype=dtype))
    projections = [
        parameter(core, name).T if name in kernel.program.flipped else parameter(core, name)
        for name in kernel.program.projections
    ]
    shared = [parameter(core, name).reshape(1, -1) for name in kernel.program.shared]
    weights = {"slow": slow, "alpha": alpha, "projections": projections, "shared": shared}
    if any(tensor.dtype != dtype or not tensor.is_cpu for parts in weights.values() for tensor in parts):
        for name, tensor in (*core.named_parameters(), *core.named_buffers()):
            if tensor.dtype != dtype or not tensor.is_cpu:
                raise ValueError(f"{name} must be {dtype} on cpu, got {tensor.dtype} on {tensor.device}")
    return weights


@contextmanager
def _copied(weights: Mapping[str, list[Tensor]], kernel: Kernel) -> Iterator[dict[str, Tensor]]:
    """Lend copies of weights as arrays of the kernel.

    Every step copies all weights, because no check would notice all ways to change a parameter. Memory that was
    allocated for one step would take longer to get than to fill.
    """
    try:
        arrays, parts = kernel.spare_arrays.pop()
    except IndexError:  # the first step, or another thread has the array
        with torch.inference_mode(False):
            like = weights["slow"][0]
            arrays = {name: like.new_zeros(layout.size) for name, layout in kernel.weights.items()}
            parts = {name: layout.parts(arrays[name]) for name, layout in kernel.weights.items()}
    for name, copies in parts.items():
        for copy, weight in zip(copies, weights[name], strict=True):
            copy.copy_(weight)
    yield arrays
    kernel.spare_arrays.append((arrays, parts))


def _initial(core: PlasticNetwork, kernel: Kernel) -> tuple[Tensor, Tensor | None]:
    """Return what a sequence carries at the start of an episode [carry_size], and its matrices."""
    rule_states = {name: core.initial_rule_state(name) for name in core.rule_shapes}
    zeros = core.readout.weight.new_zeros
    carry = torch.cat(
        [
            zeros(core.hidden_size) if isinstance(place, int) else rule_states[place][name]
            for name, place in kernel.program.carry_names
        ]
    )
    if not kernel.has_matrices:
        return carry, None
    parts: list[Tensor] = []
    for (layer, key), size in zip(kernel.program.names, kernel.program.sizes, strict=True):
        parts += [zeros(size.rows - 1, size.cols), zeros(size.cols)] if key is None else [rule_states[layer][key]]
    return carry, kernel.layout.pack(parts)


def _carry(kernel: Kernel, state: State) -> Tensor:
    """Return what the sequences of a state carry besides matrices: [B, carry_size]."""
    hidden = {field: leaf.split(kernel.hidden_size, dim=-1) for field, leaf in state.hidden._asdict().items()}
    leaves = [
        hidden[name][place] if isinstance(place, int) else state.fast[place].rule[name]
        for name, place in kernel.program.carry_names
    ]
    return torch.cat(leaves, dim=-1)


def _state(core: PlasticNetwork, kernel: Kernel, carry: Tensor, parts: list[Tensor]) -> State:
    """Return a state from what its sequences carry and the parts of their matrices."""
    sizes = [kernel.program.inputs[name].length for name in kernel.program.carry_names]
    hiddens: dict[str, list[Tensor]] = {}
    vectors: dict[str, dict[str, Tensor]] = {}
    for (name, place), leaf in zip(kernel.program.carry_names, carry.split(sizes, dim=-1), strict=True):
        if isinstance(place, int):
            hiddens.setdefault(name, []).append(leaf)
        else:
            vectors.setdefault(place, {})[name] = leaf
    hidden = core.cell.Hidden(
        *(leaves[0] if len(leaves) == 1 else torch.cat(leaves, dim=-1) for leaves in hiddens.values())
    )
    return State(hidden, kernel.layout.unpack(parts, vectors))


def _run(direction: str, kernel: Kernel, arrays: dict[str, Tensor]) -> None:
    """Call the library's ``forward`` or ``backward``, a single call that no Python exception can interrupt."""
    xs = arrays["xs"]
    steps, batch_size, n_inputs = xs.shape
    split = split_work(batch_size, steps * kernel.layout.size)
    sizes = kernel.sizes | {
        "T": steps,
        "B": batch_size,
        "I": n_inputs,
        "tape_steps": arrays["tape"].shape[1],
        "groups": split.groups,
    }
    arguments = make_arguments(sizes, arrays | kernel.tables, kernel.program.graph.dtype)
    library = kernel.libraries.kernel
    arguments.passes, arguments.step = kernel.libraries.passes, kernel.libraries.step
    if direction == "backward":
        arguments.snapshots = library.most_snapshots(ctypes.byref(arguments))
    scratch = xs.new_empty(split.workers * library.worker_size(ctypes.byref(arguments)))
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
        kernel: Kernel,
        taped: bool,
        episode_starts: Tensor | None,
        xs: Tensor,
        slow: Tensor,
        alpha: Tensor,
        projections: Tensor,
        shared: Tensor,
        initial_carry: Tensor,
        initial_fast: Tensor | None,
        first_carry: Tensor,
        first_fast: Tensor | None,
    ) -> tuple[Tensor, ...]:
        steps, batch_size, _ = xs.shape
        tape_steps = steps if taped else 2  # without a backward pass, a step and the step before it
        new = xs.new_empty
        arrays = {
            "xs": xs,
            "slow": slow,
            "alpha": alpha,
            "projections": projections,
            "shared": shared,
            "initial_carry": initial_carry.contiguous(),
            "first_carry": first_carry,
            "last_fast": new(batch_size, kernel.layout.size),
            "tape": new(batch_size, tape_steps, kernel.code.area_sizes["tape"]),
        }
        optional = {"episode_starts": episode_starts, "initial_fast": initial_fast, "first_fast": first_fast}
        arrays |= {name: tensor for name, tensor in optional.items() if tensor is not None}
        readout, eta = new(steps, batch_size, kernel.readout_size), new(steps, batch_size)
        last_carry = torch.empty_like(first_carry)
        kernel.libraries.kernel.prefer_large_pages(arrays["last_fast"].data_ptr(), arrays["last_fast"].nbytes)
        _run("forward", kernel, {**arrays, "readout": readout, "eta": eta, "last_carry": last_carry})
        if taped:
            ctx.kernel, ctx.names = kernel, list(arrays)
            ctx.save_for_backward(*arrays.values())
            ctx.set_materialize_grads(False)
        return readout, eta, last_carry, arrays["last_fast"]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        kernel: Kernel = ctx.kernel
        d_readout, d_eta, d_last_carry, d_last_fast = output_gradients
        arrays: dict[str, Tensor] = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        if not all(_has_address(tensor) for tensor in (*arrays.values(), *output_gradients) if tensor is not None):
            raise RuntimeError(
                "form='compiled' needs gradients with memory of their own, got a wrapper of torch.func or a tensor "
                "subclass (is_grads_batched and vectorize=True make such); form='dense' takes them"
            )
        xs = arrays["xs"]
        steps, batch_size, _ = xs.shape
        groups = split_work(batch_size, 0).groups
        new = xs.new_empty

        def or_zeros(gradient: Tensor | None, *shape: int) -> Tensor:
            return xs.new_zeros(shape) if gradient is None else gradient.contiguous()

        arrays |= {
            "d_readout": or_zeros(d_readout, steps, batch_size, kernel.readout_size),
            "d_eta": or_zeros(d_eta, steps, batch_size),
            "d_last_carry": or_zeros(d_last_carry, *arrays["first_carry"].shape),
            "back": new(batch_size, steps, kernel.code.area_sizes["back"]),
            "d_alpha": new(groups, kernel.layout.size),
            "d_shared": new(groups, kernel.sizes["shared_size"]),
            "d_initial_carry": new(groups, kernel.code.carry_size),
            "d_xs": torch.empty_like(xs),
            "d_first_carry": torch.empty_like(arrays["first_carry"]),
        }
        if d_last_fast is not None:
            arrays["d_last_fast"] = d_last_fast.contiguous()
        if "first_fast" in arrays:
            arrays["d_first_fast"] = torch.empty_like(arrays["first_fast"])
        if "initial_fast" in arrays:
            arrays["d_initial_fast"] = new(groups, kernel.layout.size)
        _run("backward", kernel, arrays)
        d_initial_fast = arrays.get("d_initial_fast")
        return (
            None,  # kernel
            None,  # taped
            None,  # episode_starts
            arrays["d_xs"],
            _outer_products(kernel, arrays, 0, kernel.code.pairs, kernel.layout.size),
            arrays["d_alpha"].sum(0),
            _outer_products(
                kernel, arrays, len(kernel.code.pairs), kernel.code.projection_pairs, len(arrays["projections"])
            ),
            arrays["d_shared"].sum(0),
            arrays["d_initial_carry"].sum(0),
            None if d_initial_fast is None else d_initial_fast.sum(0),
            arrays["d_first_carry"],
            arrays.get("d_first_fast"),
        )


def _outer_products(
    kernel: Kernel, arrays: Mapping[str, Tensor], first: int, all_pairs: list[Any], size: int
) -> Tensor:
    """Return the gradient of a set of matrices: sums over steps and sequences of outer products."""
    gradient = arrays["tape"].new_zeros(size)
    matrices = kernel.code.matrices[first : first + len(all_pairs)]
    for matrix, pairs in zip(matrices, all_pairs, strict=True):
        out = gradient[matrix.offset : matrix.offset + matrix.rows * matrix.cols].view(matrix.rows, matrix.cols)
        for rows, cols in pairs:
            left, right = (arrays[slot.area].flatten(0, 1)[:, slot.offset :] for slot in (rows, cols))
            out.addmm_(left[:, : matrix.rows].T, right[:, : matrix.cols])
    return gradient
