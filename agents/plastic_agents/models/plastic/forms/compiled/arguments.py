"""``Arguments``, the argument of the C kernel's functions, filled from tensors.

`make_arguments` checks the shape, dtype and layout of every tensor before it takes the tensor's address, because the C
code can't. Shape letters: T steps, B sequences.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from plastic_agents.models.plastic.forms.compiled.program import LINE_BYTES

# The backward pass undoes updates by dividing by keep. Rounding errors may grow by this factor between snapshots.
LARGEST_GROWTH = 16.0

_SIZES = (
    *("T", "B", "tape_steps", "tape_size", "back_size", "scratch_size"),
    *("carry_size", "matrix_size", "shared_size", "snapshots", "groups"),
)
_TABLES = {"lengths": ("n_lengths",), "offsets": ("n_offsets",), "matrix_table": ("n_matrices", "MATRIX_FIELDS")}
_CARRY, _MATRICES = ("B", "carry_size"), ("B", "matrix_size")
# Shapes of the arrays. An array whose last dimension is a "..._size" starts at a cache line.
_ARRAYS: dict[str, tuple[str, ...]] = {
    "slow": ("matrix_size",),
    "alpha": ("matrix_size",),
    "projections": ("projections_size",),
    "shared": ("shared_size",),
    "xs": ("T", "B", "I"),
    "initial_carry": ("carry_size",),
    "initial_fast": ("matrix_size",),
    "first_carry": _CARRY,
    "first_fast": _MATRICES,
    "d_readout": ("T", "B", "R"),
    "d_eta": ("T", "B"),
    "d_last_carry": _CARRY,
    "d_last_fast": _MATRICES,
    "readout": ("T", "B", "R"),
    "eta": ("T", "B"),
    "last_carry": _CARRY,
    "last_fast": _MATRICES,
    "tape": ("B", "tape_steps", "tape_size"),
    "back": ("B", "T", "back_size"),
    "d_alpha": ("groups", "matrix_size"),
    "d_shared": ("groups", "shared_size"),
    "d_initial_carry": ("groups", "carry_size"),
    "d_initial_fast": ("groups", "matrix_size"),
    "d_xs": ("T", "B", "I"),
    "d_first_carry": _CARRY,
    "d_first_fast": _MATRICES,
    "episode_starts": ("T", "B"),
}
_ALIGNED = {"matrix_size", "tape_size", "back_size", "shared_size", "projections_size"}


class Arguments(ctypes.Structure):
    """``Arguments`` of kernel.h, with the same fields in the same order."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        ("largest_growth", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in (*_TABLES, *_ARRAYS, "passes", "step", "scratch")),
    ]


def check_library(library: ctypes.CDLL, real_bytes: int) -> None:
    """Check that a library has the ``Arguments`` above and numbers of ``real_bytes`` bytes.

    Raises:
        OSError: it has others, or does not describe them.
    """
    try:
        fields = ctypes.c_char_p.in_dll(library, "argument_fields").value
        sizes = list((ctypes.c_int64 * 3).in_dll(library, "argument_sizes"))
    except ValueError as error:
        raise OSError(f"the compiled library does not describe its arguments: {error}") from error
    expected_fields = " ".join(field[0] for field in Arguments._fields_).encode()
    if fields != expected_fields or sizes != [ctypes.sizeof(Arguments), real_bytes, LINE_BYTES]:
        raise OSError("the compiled library's arguments must be laid out as in arguments.py, got a different layout")


def address_in(library: ctypes.CDLL, name: str) -> int:
    """Return the address of a constant of a library, which stays loaded until the process ends.

    Raises:
        OSError: the library has no such constant.
    """
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(library, name))
    except ValueError as error:
        raise OSError(f"the compiled library has no {name!r}: {error}") from error


def make_arguments(sizes: Mapping[str, int], arrays: Mapping[str, Tensor], dtype: torch.dtype) -> Arguments:
    """Return the kernel's argument.

    It holds addresses only: the caller must keep the tensors alive while the kernel runs.

    Args:
        sizes: all sizes by name: fields of ``Arguments``, and those that only appear in the shapes of arrays.
        arrays: the tensors that the kernel reads and writes, by their names in C.
        dtype: of all tensors except tables and ``episode_starts``.

    Raises:
        ValueError: a tensor that is not on the CPU, or whose shape, dtype, layout or alignment is wrong.
    """
    for name, tensor in arrays.items():
        dimensions = _TABLES.get(name) or _ARRAYS[name]
        expected = torch.int64 if name in _TABLES else torch.uint8 if name == "episode_starts" else dtype
        _check_array(name, tensor, tuple(sizes[dimension] for dimension in dimensions), expected)
        if dimensions[-1] in _ALIGNED and tensor.data_ptr() % LINE_BYTES:
            raise ValueError(f"{name} must begin at a multiple of {LINE_BYTES} bytes, got address {tensor.data_ptr()}")
    return Arguments(
        **{name: sizes.get(name, 0) for name in _SIZES},
        largest_growth=LARGEST_GROWTH,
        **{name: tensor.data_ptr() for name, tensor in arrays.items()},
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
