"""Safe reading of untrusted pickles of arrays, containers, strings and numbers, without running any code from them.

A pickle is a program for a small stack machine, and can call any importable function. The machine of this module has
only the operations that plain values need. It maps the few names in pickled arrays to functions of this module, and
refuses all other names and operations. Memory and time are linear in the length of the file.
"""

from __future__ import annotations

import codecs
import math
import os
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from plastic_envs.images.safe_files import open_regular
from plastic_envs.task import Array

# Numeric dtypes in numpy's notation: kind and size in bytes. The byte order is a part of the pickled state.
_PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_BYTE_ORDERS = ("<", ">", "|", "=")
# Maximum depth of nested containers.
_MAX_DEPTH = 32
# Maximum ratio of the size of all arrays and byte strings to the size of the file. numpy writes the bytes of each array
# once, but pickles can share short strings.
_MAX_EXPANSION = 4


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle of numpy arrays of numbers, lists, tuples, dicts, strings, bytes and numbers only.

    Strings from Python 2 are returned as bytes.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a regular file, is truncated or not a pickle, or contains another object, which the error
            names.
    """
    with open_regular(Path(path)) as file:
        return parse_pickle(file, str(path))


def parse_pickle(file: BinaryIO, name: str) -> Any:
    """Read the pickle in an open file, as `read_pickle` does; `name` is for errors."""
    try:
        return _Machine(file).run()
    except _Refused as error:
        raise ValueError(f"{name} is refused because it is not a pickle of plain arrays: {error}") from None
    # Damaged pickles cause many types: EOFError, IndexError, KeyError, MemoryError, struct.error and more.
    except Exception as error:
        raise ValueError(f"{name} is damaged or not a pickle: {type(error).__name__}: {error}") from None


class _Refused(Exception):
    """The pickle contains something other than plain values."""


class _Machine:
    """A stack machine that runs one pickle; its memo has the values that the pickle uses repeatedly."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._bytes_read = 0
        self._bytes_made = 0

    def run(self) -> Any:
        while (code := self.read(1)) != pickle.STOP:
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise ValueError(f"unknown opcode {code!r}")
            operation(self)
        value = self.pop()
        _check_plain(value, set(), 0)
        return value

    def read(self, number: int) -> bytes:
        data = self._file.read(number)
        if len(data) < number:
            raise EOFError("it is truncated")
        self._bytes_read += number
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it is truncated")
        self._bytes_read += len(line)
        return line[:-1]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def pop_to_mark(self) -> list[Any]:
        stack = self._stack
        mark = len(stack) - 1
        while stack[mark] is not _MARK:
            mark -= 1
        values = stack[mark + 1 :]
        del stack[mark:]
        return values

    def remember(self, key: int) -> None:
        self._memo[key] = self._stack[-1]

    def memoize(self) -> None:
        self.remember(len(self._memo))

    def recall(self, key: int) -> None:
        value = self._memo[key]
        self.push(value.array if isinstance(value, _PickledArray) and value.array is not None else value)

    def append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        self._top(dict).update(_items(values))

    def _top(self, kind: type[Any]) -> Any:
        value = self._stack[-1]
        if type(value) is not kind:
            raise _Refused(f"it has a {_type_name(value)} instead of a {kind.__name__}")
        return value

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Refused("it refers to a name that is not a string")
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise _Refused(f"it refers to {module[:50]}.{name[:50]}")
        self.push(stand_in)

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _StandIn) or not isinstance(arguments, tuple):
            raise _Refused(f"it calls a {_type_name(function)}")
        self.push(self._counted(function(*arguments)))

    def build(self) -> None:
        state, value = self.pop(), self.pop()
        if not isinstance(value, _PickledArray | _PickledDtype):
            raise _Refused(f"it changes a {_type_name(value)}")
        value.set_state(state)
        self.push(value if isinstance(value, _PickledDtype) else self._counted(value.array))

    def _counted(self, value: Any) -> Any:
        """Return `value` and count its bytes, to refuse files that copy the same bytes many times."""
        self._bytes_made += (
            value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, bytes) else 0
        )
        if self._bytes_made > _MAX_EXPANSION * self._bytes_read:
            raise _Refused(f"its arrays have more than {_MAX_EXPANSION} times the size of the file")
        return value


class _StandIn:
    """A safe replacement of a function that the pickle names; the pickle can only call it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class _PickledDtype:
    """A dtype under construction: a name first, and then the byte order."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any) -> None:
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
            raise _Refused(f"it has an array of {_describe(name)}, which is not a plain numeric dtype")
        self.dtype: np.dtype[Any] = np.dtype(name)

    def set_state(self, state: Any) -> None:
        order: Any = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if not isinstance(order, str) or order not in _BYTE_ORDERS:
            raise _Refused(f"it has an array of byte order {_describe(order)}")
        self.dtype = self.dtype.newbyteorder(cast(Any, order))


class _PickledArray:
    """An array under construction: empty first, and then with shape, dtype and content."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: Array | None = None

    def set_state(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> Array:
    # Python 3 writes bytes as text at protocol 2.
    data = data.encode("latin1") if isinstance(data, str) else data
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(dtype, _PickledDtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("it has an array whose content is not plain bytes")
    if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise _Refused(f"it has an array of shape {_describe(shape)}")
    expected_size = math.prod(shape) * dtype.dtype.itemsize
    if len(data) != expected_size:
        raise _Refused(f"it has an array of shape {shape} with {len(data)} bytes, not {expected_size}")
    # Fortran order is the transpose of C order.
    array = np.frombuffer(data, dtype.dtype).reshape(shape[::-1] if order == "F" else shape)
    return array.T if order == "F" else array


def _start_array(kind: Any, shape: Any, dtype: Any) -> _PickledArray:
    return _PickledArray()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Array:
    return _array(data, dtype, shape, "F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    """Encode text as Latin-1, which is how Python 3 writes bytes at protocol 2."""
    if not isinstance(text, str) or not isinstance(encoding, str | bytes) or encoding not in ("latin1", b"latin1"):
        raise _Refused(f"it encodes text as {_describe(encoding)}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], _StandIn] = {
    ("numpy", "ndarray"): _StandIn(_start_array),
    ("numpy", "dtype"): _StandIn(lambda name, *flags: _PickledDtype(name)),
    ("_codecs", "encode"): _StandIn(_encode),
    # Python 3 writes empty bytes as this call at protocol 2.
    ("__builtin__", "bytes"): _StandIn(lambda: b""),
}
# The modules have other names in numpy 2 than in numpy 1, which Python 2 used too.
for _core in ("numpy.core", "numpy._core"):
    _STAND_INS[f"{_core}.multiarray", "_reconstruct"] = _StandIn(_start_array)
    _STAND_INS[f"{_core}.multiarray", "scalar"] = _StandIn(_scalar)
    _STAND_INS[f"{_core}.numeric", "_frombuffer"] = _StandIn(_from_buffer)


_MARK = object()


def _items(values: list[Any]) -> dict[Any, Any]:
    keys, items = values[::2], values[1::2]
    for key in keys:
        # Hashing takes exponential time for nested tuples that contain the same tuples repeatedly.
        if not isinstance(key, str | bytes | int | float | None):
            raise _Refused(f"it has a dict with a {_type_name(key)} as a key")
    return dict(zip(keys, items, strict=True))


def _check_plain(value: Any, checked_ids: set[int], depth: int) -> None:
    """Refuse anything but plain values; check shared containers only once."""
    if isinstance(value, _PickledArray):
        raise _Refused("it has an array without content")
    if not isinstance(value, dict | list | tuple):
        if not isinstance(value, str | bytes | int | float | np.ndarray | None):
            raise _Refused(f"it has a {_type_name(value)}")
        return
    # This also stops at containers that contain themselves.
    if depth > _MAX_DEPTH:
        raise _Refused(f"its containers are nested more than {_MAX_DEPTH} deep")
    if id(value) not in checked_ids:
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(item, checked_ids, depth + 1)
        checked_ids.add(id(value))


def _type_name(value: Any) -> str:
    return "function" if isinstance(value, _StandIn) else type(value).__name__


def _describe(value: Any) -> str:
    """Return a short text for errors; only the type of a container, whose text could be exponentially long."""
    if isinstance(value, tuple) and all(type(item) is int and abs(item) < 2**64 for item in value[:5]):
        return repr(value[:5])
    return repr(value[:50]) if isinstance(value, str | bytes) else f"a {_type_name(value)}"


def _text(machine: _Machine) -> bytes:
    """Read a string of the text protocol: in quotes, with escapes."""
    line = machine.line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError("a string without quotes")
    decoded: bytes = codecs.escape_decode(line[1:-1])[0]
    return decoded


def _integer(machine: _Machine) -> int | bool:
    line = machine.line()
    return line == b"01" if line in (b"00", b"01") else int(line.removesuffix(b"L"))


def _long(machine: _Machine, form: str) -> int:
    return int.from_bytes(machine.read(machine.number(form)), "little", signed=True)


def _utf8(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _protocol(machine: _Machine) -> None:
    if (protocol := machine.number("B")) > 5:
        raise ValueError(f"unknown protocol {protocol}")


def _outside(machine: _Machine) -> None:
    raise _Refused("it refers to objects outside the file")


def _refused(name: str) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        raise _Refused(f"it has more than plain values (pickle opcode {name})")

    return operation


# Operations that push a value onto the stack.
_VALUES: Mapping[bytes, Callable[[_Machine], Any]] = {
    pickle.NONE: lambda machine: None,
    pickle.NEWTRUE: lambda machine: True,
    pickle.NEWFALSE: lambda machine: False,
    pickle.INT: _integer,
    pickle.LONG: _integer,
    pickle.BININT: lambda machine: machine.number("<i"),
    pickle.BININT1: lambda machine: machine.number("<B"),
    pickle.BININT2: lambda machine: machine.number("<H"),
    pickle.LONG1: lambda machine: _long(machine, "<B"),
    pickle.LONG4: lambda machine: _long(machine, "<I"),
    pickle.FLOAT: lambda machine: float(machine.line()),
    pickle.BINFLOAT: lambda machine: machine.number(">d"),
    pickle.STRING: _text,
    pickle.BINSTRING: lambda machine: machine.read(machine.number("<I")),
    pickle.SHORT_BINSTRING: lambda machine: machine.read(machine.number("<B")),
    pickle.BINBYTES: lambda machine: machine.read(machine.number("<I")),
    pickle.SHORT_BINBYTES: lambda machine: machine.read(machine.number("<B")),
    pickle.BINBYTES8: lambda machine: machine.read(machine.number("<Q")),
    pickle.BYTEARRAY8: lambda machine: bytearray(machine.read(machine.number("<Q"))),
    pickle.UNICODE: lambda machine: machine.line().decode("raw-unicode-escape"),
    pickle.BINUNICODE: lambda machine: _utf8(machine.read(machine.number("<I"))),
    pickle.SHORT_BINUNICODE: lambda machine: _utf8(machine.read(machine.number("<B"))),
    pickle.BINUNICODE8: lambda machine: _utf8(machine.read(machine.number("<Q"))),
    pickle.MARK: lambda machine: _MARK,
    pickle.EMPTY_LIST: lambda machine: [],
    pickle.EMPTY_DICT: lambda machine: {},
    pickle.EMPTY_TUPLE: lambda machine: (),
    pickle.LIST: lambda machine: machine.pop_to_mark(),
    pickle.DICT: lambda machine: _items(machine.pop_to_mark()),
    pickle.TUPLE: lambda machine: tuple(machine.pop_to_mark()),
    pickle.TUPLE1: lambda machine: (machine.pop(),),
    pickle.TUPLE2: lambda machine: (machine.pop(), machine.pop())[::-1],
    pickle.TUPLE3: lambda machine: (machine.pop(), machine.pop(), machine.pop())[::-1],
}


def _pushing(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(value(machine))


_OPERATIONS: Mapping[bytes, Callable[[_Machine], None]] = {
    **{code: _pushing(value) for code, value in _VALUES.items()},
    pickle.PROTO: _protocol,
    pickle.FRAME: lambda machine: machine.number("<Q"),
    pickle.APPEND: lambda machine: machine.append([machine.pop()]),
    pickle.APPENDS: lambda machine: machine.append(machine.pop_to_mark()),
    pickle.SETITEM: lambda machine: machine.set_items([machine.pop(), machine.pop()][::-1]),
    pickle.SETITEMS: lambda machine: machine.set_items(machine.pop_to_mark()),
    pickle.PUT: lambda machine: machine.remember(int(machine.line())),
    pickle.BINPUT: lambda machine: machine.remember(machine.number("<B")),
    pickle.LONG_BINPUT: lambda machine: machine.remember(machine.number("<I")),
    pickle.MEMOIZE: _Machine.memoize,
    pickle.GET: lambda machine: machine.recall(int(machine.line())),
    pickle.BINGET: lambda machine: machine.recall(machine.number("<B")),
    pickle.LONG_BINGET: lambda machine: machine.recall(machine.number("<I")),
    pickle.GLOBAL: lambda machine: machine.name(_utf8(machine.line()), _utf8(machine.line())),
    pickle.STACK_GLOBAL: _Machine.stack_name,
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
    pickle.PERSID: _outside,
    pickle.BINPERSID: _outside,
    **{
        getattr(pickle, name): _refused(name)
        for name in (
            *("POP", "POP_MARK", "DUP", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"),
            *("EMPTY_SET", "ADDITEMS", "FROZENSET", "NEXT_BUFFER", "READONLY_BUFFER"),
        )
    },
}
