"""The kernel form: each sequence goes through its whole episode in compiled code, its fast weights in cache.

The equations are in forward.c, backward.c and episode.h, written by hand in both directions; here they are given their
memory, spread over threads and made known to autograd. Built at first use by the system's C compiler; where there is
none, `available` says so and the forms in `agents.plasticity.unroll` do the work.

Shape letters: T steps, B sequences, I inputs, H hidden units, R readout units.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agents.plasticity.kernel.build import C_TYPES, load
from agents.plasticity.kernel.layout import Layout
from agents.plasticity.rules import Plasticity
from agents.plasticity.state import State
from agents.plasticity.unroll import PlasticCore

# Sequences are dealt out in this many groups, each with its own sum of alpha's gradient: the result does not depend
# on the number of threads.
GROUPS = 16
# Steps whose fast weights the backward pass holds at once.
SEGMENT = 8
RATES = 4

_LAYER_FIELDS = ("rows", "cols", "pre", "post", "matrix")
_POINTERS = (
    *("slow", "alpha", "loss_weight", "xs", "starts", "first_h", "first_c", "first_fast"),
    *("readout", "eta", "last_h", "last_c", "last_fast", "pre", "post", "act", "rates"),
    *("d_readout", "d_eta", "d_last_h", "d_last_c", "d_last_fast"),
    *("d_post", "d_pre", "d_directions", "d_alpha", "d_xs", "d_first_h", "d_first_c", "d_first_fast"),
)
_SIZES = (
    *("T", "B", "I", "H", "R", "width", "lstm", "gradient", "modulated"),
    *("pre_size", "post_size", "act_size", "matrix_size", "tape_steps", "segment"),
)


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in _LAYER_FIELDS]


class _Episode(ctypes.Structure):
    """``Episode`` of episode.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        ("layer", _Layer * 3),
        *((name, ctypes.c_double) for name in ("rate", "decay", "max_norm")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


class Problem(NamedTuple):
    """What the kernel must know of a network besides its numbers."""

    layout: Layout
    lstm: bool
    gradient: bool
    plasticity: Plasticity


def available(tensor: Tensor) -> bool:
    """Whether the kernel runs on tensors like this one; builds it at the first call."""
    return tensor.device.type == "cpu" and tensor.dtype in C_TYPES and load(tensor.dtype) is not None


def _episode(problem: Problem, xs: Tensor, tape_steps: int, **tensors: Tensor | None) -> _Episode:
    layout, plasticity = problem.layout, problem.plasticity
    steps, batch_size, _ = xs.shape
    sizes = {
        **{"T": steps, "B": batch_size, "I": layout.inputs, "H": layout.hidden, "R": layout.readout},
        **{"width": layout.width, "lstm": problem.lstm, "gradient": problem.gradient},
        **{"modulated": plasticity.modulated, "pre_size": layout.pre_size, "post_size": layout.post_size},
        **{"act_size": layout.act_size, "matrix_size": layout.matrix_size, "tape_steps": tape_steps},
        "segment": min(SEGMENT, steps),
    }
    episode = _Episode(
        **sizes,
        layer=(_Layer * 3)(*(_Layer(*layer) for layer in layout.layers)),
        rate=plasticity.rate,
        decay=plasticity.decay_rate,
        max_norm=plasticity.max_norm,
    )
    _point(episode, xs=xs, **tensors)
    return episode


def _point(episode: _Episode, **tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None:
            assert tensor.is_contiguous(), name
            setattr(episode, name, tensor.data_ptr())


def _run(work: Callable[[int, int, int, int], None], batch_size: int) -> None:
    """Call ``work(worker, group, first, last)`` for all groups of sequences, over as many threads as torch uses.

    Plain threads, not torch's: its pool can't be reached from here, and a second OpenMP runtime beside it would fight
    with it for the processors. The compiled code runs without Python's lock.
    """
    groups = min(GROUPS, batch_size)
    numbers = itertools.count()

    def worker(index: int) -> None:
        while (group := next(numbers)) < groups:
            work(index, group, batch_size * group // groups, batch_size * (group + 1) // groups)

    threads = [threading.Thread(target=worker, args=(index,)) for index in range(1, workers(batch_size))]
    for thread in threads:
        thread.start()
    worker(0)
    for thread in threads:
        thread.join()


def workers(batch_size: int) -> int:
    """How many threads share the sequences."""
    return min(torch.get_num_threads(), GROUPS, batch_size)


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
        tape_steps = steps if taped else 2
        new = xs.new_empty
        inputs = {
            **{"xs": xs, "slow": slow, "alpha": alpha, "loss_weight": loss_weight, "starts": starts},
            **{"first_h": first_h, "first_c": first_c, "first_fast": first_fast},
        }
        outputs = {
            "readout": new(steps, batch_size, layout.readout),
            "eta": new(steps, batch_size),
            "last_h": torch.empty_like(first_h),
            "last_c": None if first_c is None else torch.empty_like(first_c),
            "last_fast": new(batch_size, layout.matrix_size),
        }
        tape = {
            "pre": new(batch_size, tape_steps, layout.pre_size),
            "post": new(batch_size, tape_steps, layout.post_size),
            "act": new(batch_size, tape_steps, layout.act_size),
            "rates": new(batch_size, tape_steps, RATES),
        }
        episode = _episode(problem, tape_steps=tape_steps, **inputs, **outputs, **tape)
        library = load(xs.dtype)
        assert library is not None
        _run(lambda _, __, first, last: library.forward(ctypes.byref(episode), first, last), batch_size)
        if taped:
            ctx.problem, ctx.names = problem, [*inputs, *tape, "readout"]
            ctx.save_for_backward(*inputs.values(), *tape.values(), outputs["readout"])
            ctx.set_materialize_grads(False)
        return tuple(outputs.values())

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
        saved: dict[str, Tensor | None] = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        xs, readout, first_h = saved["xs"], saved.pop("readout"), saved["first_h"]
        assert xs is not None and readout is not None and first_h is not None
        steps, batch_size, _ = xs.shape
        new = xs.new_empty

        def arriving(gradient: Tensor | None, like: Tensor) -> Tensor:
            return torch.zeros_like(like) if gradient is None else gradient.contiguous()

        lstm = saved["first_c"] is not None
        gradients = {
            "d_readout": arriving(d_readout, readout),
            "d_eta": arriving(d_eta, xs[..., 0]).contiguous(),
            "d_last_h": arriving(d_last_h, first_h),
            "d_last_c": arriving(d_last_c, first_h) if lstm else None,
            "d_last_fast": None if d_last_fast is None else d_last_fast.contiguous(),
        }
        d_first_fast = new(batch_size, layout.matrix_size) if ctx.needs_input_grad[9] else None
        results = {
            "d_post": new(batch_size, steps, layout.post_size),
            "d_pre": new(batch_size, steps, layout.pre_size),
            "d_directions": new(batch_size, steps, layout.readout),
            "d_alpha": xs.new_zeros(min(GROUPS, batch_size), layout.matrix_size),
            "d_xs": torch.empty_like(xs),
            "d_first_h": torch.empty_like(first_h),
            "d_first_c": torch.empty_like(first_h) if lstm else None,
        }
        episode = _episode(problem, tape_steps=steps, **saved, **gradients, **results)
        _point(episode, d_first_fast=d_first_fast)
        library = load(xs.dtype)
        assert library is not None
        scratch = new(workers(batch_size), library.scratch_size(ctypes.byref(episode)))

        def work(worker: int, group: int, first: int, last: int) -> None:
            library.backward(
                ctypes.byref(episode), first, last, scratch[worker].data_ptr(), results["d_alpha"][group].data_ptr()
            )

        _run(work, batch_size)
        d_loss_weight = None
        if problem.gradient:
            d_loss_weight = (4 / layout.readout) * saved["loss_weight"]
            d_loss_weight = d_loss_weight * (readout.transpose(0, 1) * results["d_directions"]).sum((0, 1))
        return (
            *(None, None, None, results["d_xs"]),
            _slow_gradient(problem, saved["pre"], saved["post"], results["d_pre"], results["d_post"]),
            *(results["d_alpha"].sum(0), d_loss_weight),
            *(results["d_first_h"], results["d_first_c"], d_first_fast),
        )


def unroll_kernel(
    core: PlasticCore, xs: Tensor, state: State | None, starts: Tensor | None
) -> tuple[Tensor, State, Tensor]:
    """The kernel form over xs [T, B, I]: readouts [T, B, R], final state, etas [T, B].

    ``state`` None begins episodes. The gradient is exact, but has no gradient of its own.
    """
    layers = core.plastic_layers
    hidden_size, readout_size = layers[3].weight.shape
    layout = Layout(xs.shape[-1], hidden_size, layers[1].out_features, readout_size, xs.dtype)
    problem = Problem(layout, core.cell.gates == 4, core.rule == "gradient", core.plasticity)
    slow = layout.pack([(layer.weight, layer.bias) for layer in layers])
    alpha = layout.pack([(layer.alpha_weight, layer.alpha_bias) for layer in layers])
    zeros = xs.new_zeros(xs.shape[1], hidden_size)
    if state is None or state.fast is None:
        hidden, fast = (zeros,) * len(core.cell.Hidden._fields), None
    else:
        hidden, fast = tuple(value.contiguous() for value in state.hidden), layout.pack(state.fast)
    c = hidden[1] if problem.lstm else None
    inputs = (xs.contiguous(), slow, alpha, core.readout_loss_weight, hidden[0], c, fast)
    taped = torch.is_grad_enabled() and any(value is not None and value.requires_grad for value in inputs)
    bytes_of_starts = None if starts is None else starts.contiguous().view(torch.uint8)
    readout, eta, *last_hidden, last_fast = _Unroll.apply(problem, taped, bytes_of_starts, *inputs)
    last = State(core.cell.Hidden(*last_hidden[: len(hidden)]), layout.unpack(last_fast))
    return readout, last, eta


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
