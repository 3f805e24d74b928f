"""Checks of arguments: each names the argument, the value it was given and what would be right."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np


def whole_number(name: str, value: Any, *, at_least: int) -> int:
    """Return `value` as an int.

    Raises:
        TypeError: it is not a whole number (a bool is not one).
        ValueError: it is below `at_least`.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number of at least {at_least}, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value!r}")
    return int(value)


def real_number(name: str, value: Any, *, at_least: float, at_most: float = math.inf) -> float:
    """Return `value` as a finite float.

    Raises:
        TypeError: it is not a real number (a bool is not one).
        ValueError: it is not finite, or outside [`at_least`, `at_most`].
    """
    right = f"at least {at_least:g}" if at_most == math.inf else f"between {at_least:g} and {at_most:g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, {right}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not at_least <= number <= at_most:
        raise ValueError(f"{name} must be finite and {right}, got {value!r}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return `value`, which must be True or False.

    Raises:
        TypeError: it is anything else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def generator(name: str, value: Any) -> np.random.Generator:
    """Return `value`, which must be a generator of random numbers.

    Raises:
        TypeError: it is anything else.
    """
    if not isinstance(value, np.random.Generator):
        raise TypeError(f"{name} must be a numpy.random.Generator, such as default_rng(0), got {value!r}")
    return value
