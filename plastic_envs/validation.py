"""Checks of arguments: each names the argument, the value it was given and what would be right."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np

# An episode of this many numbers takes a gigabyte as float32.
LARGEST_EPISODE = 2**28


def whole_number(name: str, value: Any, *, at_least: int, at_most: int | None = None) -> int:
    """Return `value`, such as an int, a numpy integer or a 0-d array of one, as an int.

    Raises:
        TypeError: it is not a whole number (a bool is not one).
        ValueError: it is outside [`at_least`, `at_most`].
    """
    right = f"at least {at_least}" if at_most is None else f"between {at_least} and {at_most}"
    if isinstance(value, bool) or not (isinstance(value, numbers.Integral) or _is_scalar_array(value, "iu")):
        raise TypeError(f"{name} must be a whole number of {right}, got {value!r}")
    number = int(value)
    if number < at_least or (at_most is not None and number > at_most):
        raise ValueError(f"{name} must be {right}, got {value!r}")
    return number


def real_number(name: str, value: Any, *, at_least: float, at_most: float = math.inf) -> float:
    """Return `value`, such as a float, a Decimal, a numpy number or a 0-d array of one, as a finite float.

    Raises:
        TypeError: it is not a real number (a bool is not one).
        ValueError: it is not finite, or outside [`at_least`, `at_most`].
    """
    right = f"at least {at_least:g}" if at_most == math.inf else f"between {at_least:g} and {at_most:g}"
    if isinstance(value, bool) or not (isinstance(value, numbers.Real | Decimal) or _is_scalar_array(value, "fiu")):
        raise TypeError(f"{name} must be a number, {right}, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not at_least <= number <= at_most:
        raise ValueError(f"{name} must be finite and {right}, got {value!r}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return `value`, which must be True or False, of Python's or of numpy's, as a bool.

    Raises:
        TypeError: it is anything else.
    """
    if not (isinstance(value, bool | np.bool_) or _is_scalar_array(value, "b")):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def one_of(name: str, value: Any, known: Collection[str]) -> str:
    """Return `value`, which must be one of the strings `known`.

    Raises:
        TypeError: it is not a str.
        ValueError: it is not known.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def check_episode_size(numbers: int, **arguments: int) -> None:
    """Raise ValueError where episodes would hold too many numbers to be sampled.

    Args:
        numbers: how many numbers the largest arrays of one episode hold.
        **arguments: the arguments that this follows from, for the message.
    """
    if numbers > LARGEST_EPISODE:
        values = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise ValueError(f"an episode must hold at most {LARGEST_EPISODE} numbers, got {numbers} from {values}")


def generator(name: str, value: Any) -> np.random.Generator:
    """Return `value`, which must be a generator of random numbers.

    Raises:
        TypeError: it is anything else.
    """
    if not isinstance(value, np.random.Generator):
        raise TypeError(f"{name} must be a numpy.random.Generator, such as default_rng(0), got {value!r}")
    return value


def _is_scalar_array(value: Any, kinds: str) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in kinds
