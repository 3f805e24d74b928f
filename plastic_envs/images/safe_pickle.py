"""Reading pickles that came from elsewhere: arrays, containers, strings and numbers, and nothing that could run.

A pickle is a program for a small stack machine, and may name any function to call. The machine here has only the
operations that such values need. The few names that pickled arrays contain stand for small functions of this file, and
all other names and operations are refused. Memory and time grow linearly with the length of the file.
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

# As numpy writes them: kind and bytes, here of numbers alone; the byte order comes with the state.
_PLAIN_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_BYTE_ORDERS = ("<", ">", "|", "=")
_DEEPEST = 32
# numpy writes the bytes of each array once. Arrays and byte strings may have this many times the bytes of the file, as
# short strings may be shared.
_COPIES = 4


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle that holds numpy arrays of numbers, lists, tuples, dicts, strings, bytes and numbers only.

    Text that Python 2 wrote comes back as bytes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a regular file, is cut short, no pickle, or holds something else, which is then named.
    """
    with open_regular(Path(path)) as file:
        return parse_pickle(file, str(path))


def parse_pickle(file: BinaryIO, name: str) -> Any:
    """Read the pickle in an open file, as `read_pickle` does; errors call it `name`."""
    try:
        return _Machine(file).run()
    except _Refused as error:
        raise ValueError(f"{name} is refused, as it is not a pickle of plain arrays: {error}") from None
    # Whatever else a damaged pickle leads to: EOFError, IndexError, KeyError, MemoryError, struct.error and more.
    except Exception as error:
        raise ValueError(f"{name} is damaged or no pickle: {type(error).__name__}: {error}") from None


class _Refused(Exception):
    """The file asks for what it must not have."""


class _Machine:
    """Runs one pickle: a stack of values, and a memo of those that are used again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._stack: list[Any] = []
        self._cache: dict[int, Any] = {}
        self._length = 0
        self._made = 0

    def run(self) -> Any:
        while (code := self.read(1)) != pickle.STOP:
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise ValueError(f"there is no operation {code!r}")
            operation(self)
        value = self.pop()
        _check_plain(value, set(), 0)
        return value

    def read(self, number: int) -> bytes:
        data = self._file.read(number)
        if len(data) < number:
            raise EOFError("it is cut short")
        self._length += number
        return data

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.read(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it is cut short")
        self._length += len(line)
        return line[:-1]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        return self._stack.pop()

    def pop_to_mark(self) -> list[Any]:
        stack = self._stack
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
        values = stack[place + 1 :]
        del stack[place:]
        return values

    def remember(self, place: int) -> None:
        self._cache[place] = self._stack[-1]

    def memoize(self) -> None:
        self.remember(len(self._cache))

    def recall(self, place: int) -> None:
        value = self._cache[place]
        self.push(value.array if isinstance(value, _PickledArray) and value.array is not None else value)

    def append(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def set_items(self, values: list[Any]) -> None:
        self._top(dict).update(_items(values))

    def _top(self, kind: type[Any]) -> Any:
        value = self._stack[-1]
        if type(value) is not kind:
            raise _Refused(f"it holds a {_kind(value)} where it needs a {kind.__name__}")
        return value

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Refused("it asks for a name that is not a string")
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise _Refused(f"it asks for {module[:50]}.{name[:50]}")
        self.push(stand_in)

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(module, name)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _StandIn) or not isinstance(arguments, tuple):
            raise _Refused(f"it holds a call of a {_kind(function)}")
        self.push(self._charged(function(*arguments)))

    def build(self) -> None:
        state, value = self.pop(), self.pop()
        if not isinstance(value, _PickledArray | _PickledDtype):
            raise _Refused(f"it changes a {_kind(value)}")
        value.set_state(state)
        self.push(value if isinstance(value, _PickledDtype) else self._charged(value.array))

    def _charged(self, value: Any) -> Any:
        """Return `value`; refuse files that copy the same bytes again and again."""
        self._made += value.nbytes if isinstance(value, np.ndarray) else len(value) if isinstance(value, bytes) else 0
        if self._made > _COPIES * self._length:
            raise _Refused(f"it holds arrays of more than {_COPIES} times its own bytes")
        return value


class _StandIn:
    """Stands for a function that the file names; a file can call it, and do nothing else with it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class _PickledDtype:
    """A dtype on its way: made from its name, then told its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, name: Any) -> None:
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
            raise _Refused(f"it holds an array of {_shown(name)}, which is no plain kind of number")
        self.dtype: np.dtype[Any] = np.dtype(name)

    def set_state(self, state: Any) -> None:
        order: Any = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        if not isinstance(order, str) or order not in _BYTE_ORDERS:
            raise _Refused(f"it holds an array of byte order {_shown(order)}")
        self.dtype = self.dtype.newbyteorder(cast(Any, order))


class _PickledArray:
    """An array on its way: made empty, then told shape, dtype and content."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: Array | None = None

    def set_state(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.array = _array(data, dtype, shape, "F" if is_fortran else "C")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> Array:
    # What Python 3 pickles at protocol 2 is text where Python 2 has bytes.
    data = data.encode("latin1") if isinstance(data, str) else data
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(dtype, _PickledDtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("it holds an array whose content is not plain bytes")
    if not isinstance(shape, tuple) or not all(type(size) is int and 0 <= size < 2**63 for size in shape):
        raise _Refused(f"it holds an array of shape {_shown(shape)}")
    wanted = math.prod(shape) * dtype.dtype.itemsize
    if len(data) != wanted:
        raise _Refused(f"it holds an array of shape {shape} with {len(data)} bytes, not {wanted}")
    # Fortran order is transposed C order.
    array = np.frombuffer(data, dtype.dtype).reshape(shape[::-1] if order == "F" else shape)
    return array.T if order == "F" else array


def _start_array(kind: Any, shape: Any, dtype: Any) -> _PickledArray:
    return _PickledArray()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, *rest: Any) -> Array:
    return _array(data, dtype, shape, "F" if order == "F" else "C")


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C").item()


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes at protocol 2."""
    if not isinstance(text, str) or not isinstance(encoding, str | bytes) or encoding not in ("latin1", b"latin1"):
        raise _Refused(f"it encodes text as {_shown(encoding)}")
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


_MARK = object()


def _items(values: list[Any]) -> dict[Any, Any]:
    keys, items = values[::2], values[1::2]
    for key in keys:
        # Hashing takes exponential time for tuples that hold the same tuples again and again.
        if not isinstance(key, str | bytes | int | float | None):
            raise _Refused(f"it holds a dict with a {_kind(key)} as a key")
    return dict(zip(keys, items, strict=True))


def _check_plain(value: Any, done: set[int], depth: int) -> None:
    """Refuse anything but plain values; each container is checked once, however often it is used."""
    if isinstance(value, _PickledArray):
        raise _Refused("it holds an array without content")
    if not isinstance(value, dict | list | tuple):
        if not isinstance(value, str | bytes | int | float | np.ndarray | None):
            raise _Refused(f"it holds a {_kind(value)}")
        return
    # Containers that contain themselves end here too.
    if depth > _DEEPEST:
        raise _Refused(f"its containers are nested more than {_DEEPEST} deep")
    if id(value) not in done:
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(item, done, depth + 1)
        done.add(id(value))


def _kind(value: Any) -> str:
    return "function" if isinstance(value, _StandIn) else type(value).__name__


def _shown(value: Any) -> str:
    """Return a short text for errors: of containers the kind alone, as they may repeat their items exponentially."""
    if isinstance(value, tuple) and all(type(item) is int and abs(item) < 2**64 for item in value[:5]):
        return repr(value[:5])
    return repr(value[:50]) if isinstance(value, str | bytes) else f"a {_kind(value)}"


def _text(machine: _Machine) -> bytes:
    """Read a string of the text protocol: in quotes, with escapes."""
    line = machine.line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError("a string has no quotes")
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
        raise ValueError(f"there is no protocol {protocol}")


def _outside(machine: _Machine) -> None:
    raise _Refused("it refers to objects outside the file")


def _refused(name: str) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        raise _Refused(f"it holds more than plain values (pickle opcode {name})")

    return operation


# Operations that push a value on the stack.
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
