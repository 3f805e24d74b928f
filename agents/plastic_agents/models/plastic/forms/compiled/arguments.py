"""``KernelArguments``, the argument of the C kernel's functions, filled from tensors.

`make_arguments` checks the shape, dtype and layout of every tensor before it takes the tensor's address, because the C
code can't. Shape letters: T steps, B sequences, I inputs, H hidden units, R readout units.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from plastic_agents.models.plastic.forms.compiled.layout import LINE_BYTES, LayerLayout, Layout
from plastic_agents.models.plastic.update import Plasticity

RATES = 4
# The backward pass undoes updates by dividing by 1 - decay. Rounding errors may grow by this factor between snapshots.
LARGEST_GROWTH = 16.0

_SIZES = (
    "T",
    "B",
    "I",
    "H",
    "R",
    "width",
    "lstm",
    "gradient",
    "modulated",
    "pre_size",
    "post_size",
    "act_size",
    "matrix_size",
    "tape_steps",
    "act_steps",
    "snapshots",
    "groups",
)
_NUMBERS = ("largest_growth", "rate", "decay", "max_norm")
_PRE = ("B", "tape_steps", "pre_size")
_POST = ("B", "tape_steps", "post_size")
_ACT = ("B", "act_steps", "act_size")
_HIDDEN = ("B", "H")
_MATRIX = ("matrix_size",)
_MATRICES = ("B", "matrix_size")
# Shapes of the arrays. An array whose last dimension is a "..._size" starts at a cache line.
_ARRAYS: dict[str, tuple[str, ...]] = {
    "slow": _MATRIX,
    "alpha": _MATRIX,
    "loss_weight": ("R",),
    "xs": ("T", "B", "I"),
    "first_h": _HIDDEN,
    "first_c": _HIDDEN,
    "first_fast": _MATRICES,
    "readout": ("T", "B", "R"),
    "eta": ("T", "B"),
    "last_h": _HIDDEN,
    "last_c": _HIDDEN,
    "last_fast": _MATRICES,
    "pre": _PRE,
    "post": _POST,
    "rates": ("B", "tape_steps", "RATES"),
    "act": _ACT,
    "d_readout": ("T", "B", "R"),
    "d_eta": ("T", "B"),
    "d_last_h": _HIDDEN,
    "d_last_c": _HIDDEN,
    "d_last_fast": _MATRICES,
    "d_post": _POST,
    "d_pre": _PRE,
    "d_directions": ("B", "T", "R"),
    "d_alpha": ("groups", "matrix_size"),
    "d_xs": ("T", "B", "I"),
    "d_first_h": _HIDDEN,
    "d_first_c": _HIDDEN,
    "d_first_fast": _MATRICES,
    "episode_starts": ("T", "B"),
}


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in LayerLayout._fields]


class KernelArguments(ctypes.Structure):
    """``KernelArguments`` of arguments.h, with the same fields in the same order."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        *((name, ctypes.c_double) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in (*_ARRAYS, "scratch")),
        ("layer", _Layer * 3),
    ]


def check_library(library: ctypes.CDLL, real_bytes: int) -> None:
    """Check that a library has the ``KernelArguments`` above and numbers of ``real_bytes`` bytes.

    Raises:
        OSError: it has others, or does not describe them.
    """
    try:
        fields = ctypes.c_char_p.in_dll(library, "argument_fields").value
        sizes = list((ctypes.c_int64 * 4).in_dll(library, "argument_sizes"))
    except ValueError as error:
        raise OSError(f"the compiled library does not describe its arguments: {error}") from error
    expected_fields = " ".join(field[0] for field in KernelArguments._fields_).encode()
    if fields != expected_fields or sizes != [
        ctypes.sizeof(KernelArguments),
        ctypes.sizeof(_Layer),
        real_bytes,
        LINE_BYTES,
    ]:
        raise OSError("the compiled library's arguments must be laid out as in arguments.py, got a different layout")


class Problem(NamedTuple):
    """Sizes and settings of a network, as the kernel needs them."""

    layout: Layout
    lstm: bool
    gradient: bool
    plasticity: Plasticity


def make_arguments(problem: Problem, arrays: Mapping[str, Tensor], groups: int) -> KernelArguments:
    """Return the kernel's argument.

    It holds addresses only: the caller must keep the tensors alive while the kernel runs.

    Args:
        problem: sizes and settings of the network.
        arrays: the tensors that the kernel reads and writes, by their names in C.
        groups: number of groups of sequences.

    Raises:
        ValueError: a tensor that is not on the CPU, or whose shape, dtype, layout or alignment is wrong.
    """
    layout, plasticity = problem.layout, problem.plasticity
    steps, batch_size = arrays["xs"].shape[:2]
    sizes = {
        "T": steps,
        "B": batch_size,
        "I": layout.inputs,
        "H": layout.hidden,
        "R": layout.readout,
        "width": layout.width,
        "lstm": int(problem.lstm),
        "gradient": int(problem.gradient),
        "modulated": int(plasticity.modulated),
        "pre_size": layout.pre_size,
        "post_size": layout.post_size,
        "act_size": layout.act_size,
        "matrix_size": layout.matrix_size,
        "tape_steps": arrays["pre"].shape[1],
        "act_steps": arrays["act"].shape[1],
        "snapshots": 0,
        "groups": groups,
    }
    dimensions = {**sizes, "RATES": RATES}
    for name, tensor in arrays.items():
        dtype = torch.uint8 if name == "episode_starts" else layout.dtype
        _check_array(name, tensor, tuple(dimensions[size] for size in _ARRAYS[name]), dtype)
    return KernelArguments(
        **sizes,
        largest_growth=LARGEST_GROWTH,
        rate=plasticity.rate,
        decay=plasticity.decay_rate,
        max_norm=plasticity.max_norm,
        **{name: tensor.data_ptr() for name, tensor in arrays.items()},
        layer=(_Layer * 3)(*(_Layer(*layer) for layer in layout.layers)),
    )


def _check_array(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tensor.shape != shape or tensor.dtype != dtype or tensor.device.type != "cpu":
        raise ValueError(
            f"{name} must be {dtype} of shape {list(shape)} on the CPU, got {tensor.dtype} of shape "
            f"{list(tensor.shape)} on {tensor.device}"
        )
    if tensor.is_neg() or (tensor.numel() and tensor.data_ptr() == 0):
        raise ValueError(f"{name} must be in memory as it is, got a lazy negative or a zero tensor without memory")
    if tensor.layout != torch.strided or not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got {tensor.layout} with strides {list(tensor.stride())}")
    if _ARRAYS[name][-1].endswith("_size") and tensor.data_ptr() % LINE_BYTES:
        raise ValueError(f"{name} must begin at a multiple of {LINE_BYTES} bytes, got address {tensor.data_ptr()}")
