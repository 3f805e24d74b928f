"""The C kernel's one argument, ``Episode`` of episode.h, filled from tensors.

Shape letters: T steps, B sequences, I inputs, H hidden units, R readout units.
"""

from __future__ import annotations

import ctypes
import math
from typing import NamedTuple

from torch import Tensor

from agents.plasticity.kernel.layout import LayerLayout, Layout
from agents.plasticity.rules import Plasticity

RATES = 4
# Going back through an update divides by 1 - decay; rounding errors may grow this much until the next checkpoint.
LARGEST_GROWTH = 16.0

_SIZES = (
    *("T", "B", "I", "H", "R", "width", "lstm", "gradient", "modulated"),
    *("pre_size", "post_size", "act_size", "matrix_size", "tape_steps", "act_steps", "checkpoints"),
)
_POINTERS = (
    *("slow", "alpha", "loss_weight", "xs", "starts", "first_h", "first_c", "first_fast"),
    *("readout", "eta", "last_h", "last_c", "last_fast", "pre", "post", "rates", "act"),
    *("d_readout", "d_eta", "d_last_h", "d_last_c", "d_last_fast"),
    *("d_post", "d_pre", "d_directions", "d_alpha", "d_xs", "d_first_h", "d_first_c", "d_first_fast"),
)


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in LayerLayout._fields]


class Episode(ctypes.Structure):
    """``Episode`` of episode.h; the same fields in the same order."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        ("largest_growth", ctypes.c_double),
        ("layer", _Layer * 3),
        *((name, ctypes.c_double) for name in ("rate", "decay", "max_norm")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    ]


class Problem(NamedTuple):
    """What the kernel must know of a network and a segment besides their numbers."""

    layout: Layout
    lstm: bool
    gradient: bool
    plasticity: Plasticity
    most_starts: int
    """Largest number of episode starts in one sequence."""


def make_episode(problem: Problem, xs: Tensor, **tensors: Tensor) -> Episode:
    """The argument for inputs xs [T, B, I]; ``tensors`` are the C names of those that there are."""
    layout, plasticity = problem.layout, problem.plasticity
    steps, batch_size, _ = xs.shape
    sizes = {
        **{"T": steps, "B": batch_size, "I": layout.inputs, "H": layout.hidden, "R": layout.readout},
        **{"width": layout.width, "lstm": problem.lstm, "gradient": problem.gradient},
        **{"modulated": plasticity.modulated, "pre_size": layout.pre_size, "post_size": layout.post_size},
        **{"act_size": layout.act_size, "matrix_size": layout.matrix_size},
        **{"tape_steps": tensors["pre"].shape[1], "act_steps": tensors["act"].shape[1]},
        "checkpoints": steps // steps_between_checkpoints(plasticity.decay_rate) + problem.most_starts,
    }
    for name, tensor in tensors.items():
        assert tensor.is_contiguous(), name
    return Episode(
        **sizes,
        largest_growth=LARGEST_GROWTH,
        layer=(_Layer * 3)(*(_Layer(*layer) for layer in layout.layers)),
        rate=plasticity.rate,
        decay=plasticity.decay_rate,
        max_norm=plasticity.max_norm,
        xs=xs.data_ptr(),
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
    )


def steps_between_checkpoints(decay: float) -> int:
    """A lower bound, for all rates that the network may choose; 1 - decay may have been rounded down."""
    largest_decay = decay + 1e-6
    if largest_decay >= 1:
        return 1
    return max(1, math.floor(math.log(LARGEST_GROWTH) / -math.log1p(-largest_decay)))
