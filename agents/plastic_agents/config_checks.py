"""Checks of the fields of frozen configurations, by the functions of `plastic_envs.validation`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from plastic_envs.validation import real_number, whole_number

Check = Callable[[str, Any], Any]
"""Takes a field's name and value, and returns the checked value."""

COUNT = partial(whole_number, at_least=1)
SEED = partial(whole_number, at_least=0)
POSITIVE = partial(real_number, above=0)
NON_NEGATIVE = partial(real_number, at_least=0)
FRACTION = partial(real_number, at_least=0, at_most=1)


def optional_count(name: str, value: Any) -> int | None:
    """Return ``value``, which must be a whole number of at least 1, or None.

    Raises:
        TypeError, ValueError: it is anything else.
    """
    return None if value is None else whole_number(name, value, at_least=1)


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Return ``value`` as a dict, which must be a mapping with strings as keys.

    Raises:
        TypeError: it is anything else.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name} must be a mapping from names to values, got {value!r}")
    return dict(value)  # checkpoints and copies hold dicts, not any mapping


def check_fields(config: Any, checks: Mapping[str, Check]) -> None:
    """Replace fields of a frozen dataclass by their checked values, such as a numpy integer by an int.

    Raises:
        TypeError, ValueError: as the checks do.
    """
    for name, check in checks.items():
        object.__setattr__(config, name, check(name, getattr(config, name)))
