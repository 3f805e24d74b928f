"""The kernel as a function that autograd knows: its memory, its threads, and the large products around it.

Shape letters: T steps, B sequences, I inputs, H hidden units, R readout units.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agents.plasticity.kernel.build import C_TYPES, load
from agents.plasticity.kernel.episode import RATES, Episode, Problem, make_episode
from agents.plasticity.kernel.layout import Layout
from agents.plasticity.state import State
from agents.plasticity.unroll import PlasticCore

# Sequences are dealt out in this many groups, each with its own sum of alpha's gradient: the result does not depend
# on the number of threads.
GROUPS = 16


def available(tensor: Tensor) -> bool:
    """Whether the kernel runs on tensors like this one; builds it at the first call."""
    return tensor.device.type == "cpu" and tensor.dtype in C_TYPES and load(tensor.dtype) is not None


def unroll_kernel(
    core: PlasticCore, xs: Tensor, state: State | None, starts: Tensor | None
) -> tuple[Tensor, State, Tensor]:
    """The kernel form over xs [T, B, I]: readouts [T, B, R], final state, etas [T, B].

    ``state`` None begins episodes. The gradient is exact, but has no gradient of its own.

    Raises:
        RuntimeError: the kernel is not available for tensors like ``xs``.
    """
    _check_available(xs)
    layout = _layout(core, xs.dtype)
    problem = _problem(core, layout, 0 if starts is None else int(starts.sum(0).max()))
    slow, alpha = _pack_weights(core, layout)
    if state is None or state.fast is None:
        hidden, fast = (xs.new_zeros(xs.shape[1], layout.hidden),) * len(core.cell.Hidden._fields), None
    else:
        hidden, fast = tuple(value.contiguous() for value in state.hidden), layout.pack(state.fast)
    inputs = (
        xs.contiguous(),
        *(slow, alpha, core.readout_loss_weight),
        *(hidden[0], hidden[1] if problem.lstm else None, fast),
    )
    taped = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in inputs)
    first = None if starts is None else _bytes(starts)
    readout, eta, last_h, last_c, last_fast = _Unroll.apply(problem, taped, first, *inputs)
    last_hidden = core.cell.Hidden(last_h, last_c) if problem.lstm else core.cell.Hidden(last_h)
    return readout, State(last_hidden, layout.unpack(last_fast)), eta


@torch.no_grad()
def step_kernel(
    core: PlasticCore, x: Tensor, state: State, starts: Tensor | None, in_place: bool
) -> tuple[Tensor, State, Tensor]:
    """One step for acting: readout [B, R], state, eta [B].

    Where ``starts`` [B] is true an episode begins. ``in_place`` overwrites the state's fast weights where `Layout` laid
    them out, which saves copying them.

    Raises:
        RuntimeError: the kernel is not available for tensors like ``x``.
    """
    _check_available(x)
    assert state.fast is not None
    layout = _layout(core, x.dtype)
    problem = _problem(core, layout, 0)
    slow, alpha = _pack_weights(core, layout)
    fast = layout.find_packed(state.fast)
    if fast is None:
        fast = layout.pack(state.fast)
    elif not in_place:
        fast = fast.clone()
    # Copies, for h and c may be one tensor of zeros; the fast weights are what is large.
    hidden = [value.clone(memory_format=torch.contiguous_format) for value in state.hidden]
    batch_size, new = len(x), x.new_empty
    xs = x.contiguous().unsqueeze(0)  # held here: the episode has addresses only
    tensors = {
        **{"slow": slow, "alpha": alpha, "loss_weight": core.readout_loss_weight},
        **{"first_fast": fast, "last_fast": fast, "first_h": hidden[0], "last_h": hidden[0]},
        **({"first_c": hidden[1], "last_c": hidden[1]} if problem.lstm else {}),
        **{"readout": new(1, batch_size, layout.readout), "eta": new(1, batch_size)},
        **{"pre": new(batch_size, 2, layout.pre_size), "post": new(batch_size, 2, layout.post_size)},
        **{"rates": new(batch_size, 2, RATES), "act": new(batch_size, 1, layout.act_size)},
        **({} if starts is None else {"starts": _bytes(starts)}),
    }
    _run_forward(make_episode(problem, xs, **tensors), x.dtype, batch_size)
    return tensors["readout"][0], State(core.cell.Hidden(*hidden), layout.unpack(fast)), tensors["eta"][0]


def _bytes(flags: Tensor) -> Tensor:
    return flags.contiguous().view(torch.uint8)


def _check_available(tensor: Tensor) -> None:
    if not available(tensor):
        raise RuntimeError(
            f"form='kernel' needs a C compiler and float32 or float64 on the CPU, got {tensor.dtype} on "
            f"{tensor.device}; form='auto' takes what there is"
        )


def _layout(core: PlasticCore, dtype: torch.dtype) -> Layout:
    inputs, to_hidden, _, readout = core.plastic_layers
    return Layout(inputs.in_features, inputs.out_features, to_hidden.out_features, readout.out_features, dtype)


def _problem(core: PlasticCore, layout: Layout, most_starts: int) -> Problem:
    return Problem(layout, core.cell.gates == 4, core.rule == "gradient", core.plasticity, most_starts)


def _pack_weights(core: PlasticCore, layout: Layout) -> tuple[Tensor, Tensor]:
    slow = layout.pack([(layer.weight, layer.bias) for layer in core.plastic_layers])
    return slow, layout.pack([(layer.alpha_weight, layer.alpha_bias) for layer in core.plastic_layers])


def _run_forward(episode: Episode, dtype: torch.dtype, batch_size: int) -> None:
    library = load(dtype)
    assert library is not None
    _share(lambda _, __, first, last: library.forward(ctypes.byref(episode), first, last), batch_size)


class _Unroll(torch.autograd.Function):
    """xs [T, B, I] and packed weights to readout [T, B, R], eta [T, B] and the last hidden and fast state."""

    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        taped: bool,
        starts: Tensor | None,
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
        tensors = {
            **{"slow": slow, "alpha": alpha, "loss_weight": loss_weight, "first_h": first_h},
            "readout": new(steps, batch_size, layout.readout),
            "last_h": torch.empty_like(first_h),
            "last_fast": new(batch_size, layout.matrix_size),
            "pre": new(batch_size, tape_steps, layout.pre_size),
            "post": new(batch_size, tape_steps, layout.post_size),
            "rates": new(batch_size, tape_steps, RATES),
            "act": new(batch_size, steps if taped and problem.lstm else 1, layout.act_size),
        }
        for name, tensor in (("starts", starts), ("first_c", first_c), ("first_fast", first_fast)):
            if tensor is not None:
                tensors[name] = tensor
        eta = new(steps, batch_size)
        last_c = torch.empty_like(first_h)
        episode = make_episode(problem, xs, eta=eta, last_c=last_c, **tensors)
        library = load(xs.dtype)
        assert library is not None
        library.prefer_large_pages(tensors["last_fast"].data_ptr(), tensors["last_fast"].nbytes)
        _run_forward(episode, xs.dtype, batch_size)
        if taped:
            ctx.problem, ctx.names = problem, ["xs", *tensors]
            ctx.save_for_backward(xs, *tensors.values())
            ctx.set_materialize_grads(False)
        return tensors["readout"], eta, tensors["last_h"], last_c if problem.lstm else None, tensors["last_fast"]

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
        saved: dict[str, Tensor] = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        xs, readout, first_h = saved.pop("xs"), saved["readout"], saved["first_h"]
        steps, batch_size, _ = xs.shape
        new = xs.new_empty

        def arriving(gradient: Tensor | None, *shape: int) -> Tensor:
            return xs.new_zeros(shape) if gradient is None else gradient.contiguous()

        tensors = {
            "d_readout": arriving(d_readout, *readout.shape),
            "d_eta": arriving(d_eta, steps, batch_size),
            "d_last_h": arriving(d_last_h, *first_h.shape),
            "d_last_c": arriving(d_last_c, *first_h.shape),
            "d_post": new(batch_size, steps, layout.post_size),
            "d_pre": new(batch_size, steps, layout.pre_size),
            "d_directions": new(batch_size, steps, layout.readout),
            "d_alpha": new(min(GROUPS, batch_size), layout.matrix_size),
            "d_xs": torch.empty_like(xs),
            "d_first_h": torch.empty_like(first_h),
        }
        if d_last_fast is not None:
            tensors["d_last_fast"] = d_last_fast.contiguous()
        d_first_fast = torch.empty_like(saved["first_fast"]) if "first_fast" in saved else None
        d_first_c = torch.empty_like(first_h) if problem.lstm else None
        for name, tensor in (("d_first_fast", d_first_fast), ("d_first_c", d_first_c)):
            if tensor is not None:
                tensors[name] = tensor
        episode = make_episode(problem, xs, **saved, **tensors)
        library = load(xs.dtype)
        assert library is not None
        scratch = list(new(_workers(batch_size), library.scratch_size(ctypes.byref(episode))))

        def work(worker: int, group: int, first: int, last: int) -> None:
            library.backward(ctypes.byref(episode), group, first, last, scratch[worker].data_ptr())

        _share(work, batch_size)
        d_loss_weight = None
        if problem.gradient:
            through = (readout.transpose(0, 1) * tensors["d_directions"]).sum((0, 1))
            d_loss_weight = 4 / layout.readout * saved["loss_weight"] * through
        d_slow = _slow_gradient(problem, saved["pre"], saved["post"], tensors["d_pre"], tensors["d_post"])
        d_state = tensors["d_first_h"], d_first_c, d_first_fast
        return None, None, None, tensors["d_xs"], d_slow, tensors["d_alpha"].sum(0), d_loss_weight, *d_state


def _slow_gradient(problem: Problem, pre: Tensor, post: Tensor, d_pre: Tensor, d_post: Tensor) -> Tensor:
    """The sum over steps and sequences of pre (x) d_post + d_pre (x) post: [matrix_size]."""
    gradient = pre.new_empty(problem.layout.matrix_size)
    pre, post, d_pre, d_post = (tape.flatten(0, 1) for tape in (pre, post, d_pre, d_post))
    hidden = problem.layout.hidden
    for index, layer in enumerate(problem.layout.layers):
        out = gradient[layer.matrix : layer.matrix + layer.rows * layer.cols].view(layer.rows, layer.cols)
        columns = slice(layer.post, layer.post + layer.cols)
        torch.mm(pre[:, layer.pre : layer.pre + layer.rows].T, d_post[:, columns], out=out)
        if problem.gradient and index > 0:  # the inner gradient comes back through the cell and the readout
            out[:hidden].addmm_(d_pre[:, layer.pre : layer.pre + hidden].T, post[:, columns])
    return gradient


def _share(work: Callable[[int, int, int, int], None], batch_size: int) -> None:
    """Call ``work(worker, group, first, last)`` for all groups of sequences, over as many threads as torch uses.

    Plain threads, not torch's: its pool can't be reached from here, and a second OpenMP runtime beside it would fight
    with it for the processors. The compiled code runs without Python's lock.
    """
    groups = min(GROUPS, batch_size)
    numbers = itertools.count()

    def worker(index: int) -> None:
        while (group := next(numbers)) < groups:
            work(index, group, batch_size * group // groups, batch_size * (group + 1) // groups)

    threads = [threading.Thread(target=worker, args=(index,)) for index in range(1, _workers(batch_size))]
    for thread in threads:
        thread.start()
    worker(0)
    for thread in threads:
        thread.join()


def _workers(batch_size: int) -> int:
    """How many threads share the sequences."""
    return min(torch.get_num_threads(), GROUPS, batch_size)
