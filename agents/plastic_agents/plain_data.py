"""Conversion of settings to plain data and back: dataclasses, spaces and values, for files that cannot run code.

Plain data is None, bools, numbers, strings, and lists and dicts of these, with strings as keys. An object of a class
becomes a dict of its fields that also holds the name of the class. Only classes that this module knows are read back:
those of `gymnasium.spaces` that algorithms support, dataclasses that `register` was applied to, and classes that
`register_conversion` and `register_class` name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from gymnasium import spaces

Class = TypeVar("Class", bound=type)

_CLASS_OBJECT = "class"  # kind of a class itself, which a file holds by name
_CLASS = "__kind__"  # key under which a dict holds the name of its object's class
_OMITTED = "omitted"
_DATACLASSES: dict[str, type] = {}
_CLASS_OBJECTS: dict[str, type] = {}


def register(dataclass: Class) -> Class:
    """Let `to_plain` and `from_plain` convert a dataclass, by the name of the class; use it as a decorator."""
    _DATACLASSES[dataclass.__name__] = dataclass
    return dataclass


def register_conversion(name: str, class_: type, fields: dict[str, Any], make: Callable[..., Any]) -> None:
    """Let `to_plain` and `from_plain` convert the objects of a class that is no dataclass.

    Args:
        name: name of the class in files.
        class_: the class itself, without its subclasses.
        fields: names and types of the attributes that files hold.
        make: makes an object from these attributes, as keyword arguments.
    """
    _CONVERSIONS[name] = _Conversion(
        class_, fields, lambda value: {field: getattr(value, field) for field in fields}, make
    )


def register_class(class_: type) -> None:
    """Let `to_plain` and `from_plain` convert a class itself, by its module and name."""
    _CLASS_OBJECTS[f"{class_.__module__}.{class_.__qualname__}"] = class_


def to_plain(value: Any, name: str, *, omit: bool = False) -> Any:
    """Return ``value`` as plain data; tuples become lists, paths become strings.

    Args:
        value: what to convert.
        name: name of the value, for errors.
        omit: write a note in the place of anything that cannot be converted, such as a function. `from_plain` raises
            an error for it.

    Raises:
        TypeError: ``value``, or a value inside it, cannot be converted.
    """
    if isinstance(value, np.number | np.bool_ | np.str_):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [to_plain(item, f"{name}[{index}]", omit=omit) for index, item in enumerate(value)]
    known = _known_content(value)
    if known is not None:
        return _object_to_plain(*known, name, omit)
    is_space = isinstance(value, spaces.Space)  # some spaces are mappings
    if isinstance(value, Mapping) and not is_space and all(isinstance(key, str) and key != _CLASS for key in value):
        return {key: to_plain(item, f"{name}[{key!r}]", omit=omit) for key, item in value.items()}
    if omit:
        return {_CLASS: _OMITTED, "repr": repr(value)}
    raise TypeError(
        f"{name} must be plain data (None, bools, numbers, strings, lists, and dicts with strings as keys) or a space "
        f"or configuration that files can hold, got {value!r}"
    )


def from_plain(value: Any, name: str, expected_type: Any = Any) -> Any:
    """Undo `to_plain`, except that paths remain strings, and tuples remain lists unless ``expected_type`` is a tuple.

    Args:
        value: plain data, of any origin.
        name: name of the value, for errors.
        expected_type: type of the result, such as ``dict[str, int] | None`` or ``tuple[str, ...]``.

    Raises:
        ValueError: ``value`` is not plain data, is of another type, or holds an unknown class, a missing, unknown or
            wrong field, or the note of something that was omitted.
    """
    result = _from_plain(value, name)
    is_union = get_origin(expected_type) in (Union, UnionType)
    options = get_args(expected_type) if is_union else (expected_type,)
    if isinstance(result, list) and any(get_origin(option) is tuple for option in options):
        result = tuple(result)
    if not fits_type(result, expected_type):
        raise ValueError(f"{name} must be of type {_type_name(expected_type)}, got {value!r}")
    return result


def fits_type(value: Any, expected_type: Any) -> bool:
    """Return whether a value is of a type as annotations give it; an int is a float too, a bool is no number."""
    origin, arguments = get_origin(expected_type), get_args(expected_type)
    if expected_type is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits_type(value, option) for option in arguments)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if expected_type is None:
        return value is None
    if expected_type in (int, float):
        return isinstance(value, int if expected_type is int else int | float) and not isinstance(value, bool)
    if not isinstance(value, origin or expected_type):
        return False
    if isinstance(value, Mapping) and len(arguments) == 2:
        return all(fits_type(key, arguments[0]) and fits_type(item, arguments[1]) for key, item in value.items())
    if (isinstance(value, list) and len(arguments) == 1) or (isinstance(value, tuple) and arguments[1:] == (...,)):
        return all(fits_type(item, arguments[0]) for item in value)
    return True


def _known_content(value: Any) -> tuple[str, Mapping[str, Any]] | None:
    """Return the kind and the fields of an object whose class this module knows, else None."""
    class_name: str = type(value).__name__
    if _DATACLASSES.get(class_name) is type(value):
        return class_name, {field.name: getattr(value, field.name) for field in fields(_DATACLASSES[class_name])}
    for kind, conversion in _CONVERSIONS.items():
        # A space of a subclass is read back as one of the class.
        if type(value) is conversion.type or (kind in _SPACES and isinstance(value, conversion.type)):
            return kind, conversion.read(value)
    for class_object_name, class_ in _CLASS_OBJECTS.items():
        if value is class_:
            return _CLASS_OBJECT, {"name": class_object_name}
    return None


def _object_to_plain(class_name: str, content: Mapping[str, Any], name: str, omit: bool) -> dict[str, Any]:
    values = {field: to_plain(value, f"{name}.{field}", omit=omit) for field, value in content.items()}
    return {_CLASS: class_name, **values}


def _from_plain(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_from_plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} must be plain data, got {value!r}")
    if _CLASS in value:
        return _object_from_plain(value, name)
    return {key: _from_plain(item, f"{name}[{key!r}]") for key, item in value.items()}


def _object_from_plain(plain: dict[str, Any], name: str) -> Any:
    class_name = plain[_CLASS]
    content = {key: item for key, item in plain.items() if key != _CLASS}
    if class_name == _OMITTED:
        raise ValueError(
            f"the model was made with {name} = {content.get('repr')}, which files cannot hold: give it to load, as "
            f"{name.partition('[')[0]}="
        )
    if class_name == _CLASS_OBJECT:
        if content.keys() != {"name"} or content["name"] not in _CLASS_OBJECTS:
            raise ValueError(f"{name} is the unknown class {content.get('name')!r}")
        return _CLASS_OBJECTS[content["name"]]
    make: Callable[..., Any]
    if not isinstance(class_name, str) or class_name not in {*_DATACLASSES, *_CONVERSIONS}:
        raise ValueError(f"{name} is of the unknown class {class_name!r}")
    if class_name in _DATACLASSES:
        make = _DATACLASSES[class_name]
        hints = get_type_hints(make)
        types = {field.name: hints[field.name] for field in fields(_DATACLASSES[class_name])}
    else:
        make, types = _CONVERSIONS[class_name].make, _CONVERSIONS[class_name].fields
    if content.keys() != types.keys():
        missing, unknown = sorted(types.keys() - content.keys()), sorted(content.keys() - types.keys())
        raise ValueError(f"{name} ({class_name}) must hold {', '.join(types)}: missing {missing}, unknown {unknown}")
    values = {field: from_plain(item, f"{name}.{field}", types[field]) for field, item in content.items()}
    try:
        return make(**values)
    except (TypeError, ValueError, AssertionError, OverflowError) as error:
        raise ValueError(f"{name} ({class_name}) cannot be made: {error}") from error


def _type_name(expected_type: Any) -> str:
    is_class = isinstance(expected_type, type) and get_origin(expected_type) is None
    return expected_type.__name__ if is_class else str(expected_type)


class _Conversion(NamedTuple):
    """Conversion of the objects of one class.

    Attributes:
        type: the class.
        fields: types of the fields.
        read: returns an object's fields, which `to_plain` can convert.
        make: makes an object from its fields.
    """

    type: type
    fields: dict[str, Any]
    read: Callable[[Any], dict[str, Any]]
    make: Callable[..., Any]


def _dtype(name: str) -> Any:
    return np.dtype(name).type


def _make_dict_space(spaces_by_key: Sequence[Sequence[Any]]) -> spaces.Dict:
    return spaces.Dict([(key, space) for key, space in spaces_by_key])


_SPACES = {
    "Box": _Conversion(
        spaces.Box,
        {"low": Any, "high": Any, "shape": list[int], "dtype": str},
        lambda space: {
            "low": space.low.tolist(),
            "high": space.high.tolist(),
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        },
        lambda low, high, shape, dtype: spaces.Box(
            np.array(low, dtype).reshape(shape), np.array(high, dtype).reshape(shape), dtype=_dtype(dtype)
        ),
    ),
    "Discrete": _Conversion(
        spaces.Discrete,
        {"n": int, "start": int, "dtype": str},
        lambda space: {"n": int(space.n), "start": int(space.start), "dtype": str(space.dtype)},
        lambda n, start, dtype: spaces.Discrete(n, start=start, dtype=_dtype(dtype)),
    ),
    "MultiDiscrete": _Conversion(
        spaces.MultiDiscrete,
        {"nvec": list[Any], "start": list[Any], "dtype": str},
        lambda space: {"nvec": space.nvec.tolist(), "start": space.start.tolist(), "dtype": str(space.dtype)},
        lambda nvec, start, dtype: spaces.MultiDiscrete(nvec, start=start, dtype=_dtype(dtype)),
    ),
    "MultiBinary": _Conversion(
        spaces.MultiBinary,
        {"n": int | list[int]},
        lambda space: {"n": int(space.n) if np.ndim(space.n) == 0 else list(space.shape)},
        spaces.MultiBinary,
    ),
    "Dict": _Conversion(
        spaces.Dict,
        {"spaces_by_key": list[list[Any]]},
        lambda space: {"spaces_by_key": [[key, item] for key, item in space.spaces.items()]},
        _make_dict_space,
    ),
}
_CONVERSIONS = dict(_SPACES)
