"""Reading pickles that came from elsewhere: arrays, containers, strings and numbers, and nothing that could run.

A pickle is a program that may name any function to call. Here the few names that pickled arrays need stand for small
functions of this file, and every other name is refused; nothing of numpy is called on the file's behalf but
`frombuffer`, with a plain dtype.
"""

from __future__ import annotations

import math
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from plastic_envs.task import Array

# As numpy writes them: kind and bytes, here of numbers alone; the byte order comes with the state.
_PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_BYTE_ORDERS = ("<", ">", "|", "=")


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle that holds numpy arrays of numbers, lists, tuples, dicts, strings, bytes and numbers only.

    Text that Python 2 wrote comes back as bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut short, no pickle, or holds something else, which is then named.
    """
    with Path(path).open("rb") as file:
        return parse_pickle(file, str(path))


def parse_pickle(file: BinaryIO, name: str) -> Any:
    """Read the pickle in an open file, as `read_pickle` does; errors call it `name`."""
    try:
        return _plain(_Unpickler(file, encoding="bytes").load())
    except _Refused as error:
        raise ValueError(f"{name} is refused, as it is not a pickle of plain arrays: {error}") from None
    # Whatever else a damaged pickle leads to: EOFError, IndexError, KeyError, MemoryError, RecursionError and more.
    except Exception as error:
        raise ValueError(f"{name} is damaged or no pickle: {type(error).__name__}: {error}") from None


class _Refused(Exception):
    """The file asks for what it must not have."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise _Refused(f"it asks for {module}.{name}")
        return stand_in

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it refers to objects outside the file")


class _StandIn:
    """Stands where the file names a function; a file can call it, but neither change it nor make others of it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("it changes a function")


class _PickledDtype:
    """A dtype on its way: made from its name, then told its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any) -> None:
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
            raise _Refused(f"it holds an array of {name!r}, which is no plain kind of number")
        self.dtype: np.dtype[Any] = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if order not in _BYTE_ORDERS:
            raise _Refused(f"it holds an array of byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(order)


class _PickledArray:
    """An array on its way: made empty, then told shape, dtype and content."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: Array | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> Array:
    # What Python 3 pickles at protocol 2 is text where Python 2 has bytes.
    data = data.encode("latin1") if isinstance(data, str) else data
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(dtype, _PickledDtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("it holds an array whose content is not plain bytes")
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise _Refused(f"it holds an array of shape {shape!r}")
    wanted = math.prod(shape) * dtype.dtype.itemsize
    if len(data) != wanted:
        raise _Refused(f"it holds an array of shape {shape} with {len(data)} bytes, not {wanted}")
    # Fortran order is transposed C order.
    array = np.frombuffer(data, dtype.dtype).reshape(shape[::-1] if order == "F" else shape)
    return array.T if order == "F" else array


def _start_array(kind: Any, shape: Any, dtype: Any) -> _PickledArray:
    return _PickledArray()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *rest: Any) -> _PickledArray:
    pickled = _PickledArray()
    pickled.array = _array(data, dtype, shape, "F" if order == "F" else "C")
    return pickled


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes at protocol 2."""
    if encoding not in ("latin1", b"latin1") or not isinstance(text, str):
        raise _Refused(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], _StandIn] = {
    ("numpy", "ndarray"): _StandIn(_start_array),
    ("numpy", "dtype"): _StandIn(lambda name, *flags: _PickledDtype(name)),
    ("_codecs", "encode"): _StandIn(_encode),
    # How Python 3 writes no bytes at all, for Python 2.
    ("__builtin__", "bytes"): _StandIn(lambda: b""),
}
# numpy 2 has moved these, and Python 2's numpy has them where numpy 1 has.
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _StandIn(_start_array)
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _StandIn(_scalar)
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _StandIn(_from_buffer)


def _plain(value: Any) -> Any:
    """The value with arrays where they were on their way."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, _PickledArray):
        if value.array is None:
            raise _Refused("it holds an array without content")
        return value.array
    if isinstance(value, str | bytes | bool | int | float | type(None)):
        return value
    raise _Refused(f"it holds a {type(value).__name__}")
