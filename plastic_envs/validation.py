"""Checks of arguments. Errors have the form "NAME must be ..., got VALUE"."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np

# An episode with this many entries takes a gigabyte as float32.
LARGEST_EPISODE = 2**28


def whole_number(name: str, value: Any, *, at_least: int, at_most: int | None = None) -> int:
    """Return a whole number as an int.

    Args:
        name: the argument's name, for errors.
        value: an int, a numpy integer or a 0-d array of one.
        at_least: the smallest valid value.
        at_most: the largest valid value; None means that there is no upper bound.

    Raises:
        TypeError: `value` is not a whole number. A bool is not one.
        ValueError: `value` is outside [`at_least`, `at_most`].
    """
    bounds = f"at least {at_least}" if at_most is None else f"between {at_least} and {at_most}"
    if isinstance(value, bool) or not (isinstance(value, numbers.Integral) or _is_scalar_array(value, "iu")):
        raise TypeError(f"{name} must be a whole number {'of ' * (at_most is None)}{bounds}, got {value!r}")
    number = int(value)
    if number < at_least or (at_most is not None and number > at_most):
        raise ValueError(f"{name} must be {bounds}, got {value!r}")
    return number


def real_number(
    name: str,
    value: Any,
    *,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Return a real number as a finite float.

    For example, `above=0` accepts positive numbers, and `at_least=0, at_most=1` accepts fractions.

    Args:
        name: the argument's name, for errors.
        value: an int, a float, a Fraction, a Decimal, a numpy number or a 0-d array of one.
        at_least: the inclusive lower bound.
        at_most: the inclusive upper bound.
        above: the exclusive lower bound, or None.
        below: the exclusive upper bound, or None.

    Raises:
        TypeError: `value` is not a real number. A bool is not one.
        ValueError: `value` is NaN, infinite, too large for a float, or out of bounds.
    """
    expected = f"a finite number{_bounds_text(at_least, at_most, above, below)}"
    if isinstance(value, bool) or not (isinstance(value, numbers.Real | Decimal) or _is_scalar_array(value, "fiu")):
        raise TypeError(f"{name} must be {expected}, got {value!r}")
    try:
        number = float(value)
    except (OverflowError, ValueError):  # float() refuses large ints and signalling NaNs of Decimal.
        number = math.nan
    if (
        not math.isfinite(number)
        or not at_least <= number <= at_most
        or (above is not None and number <= above)
        or (below is not None and number >= below)
    ):
        raise ValueError(f"{name} must be {expected}, got {value!r}")
    return number


def _bounds_text(at_least: float, at_most: float, above: float | None, below: float | None) -> str:
    if above is None and below is None and at_least > -math.inf and at_most < math.inf:
        return f" between {at_least:g} and {at_most:g}"
    bounds = [
        *([f"at least {at_least:g}"] if at_least > -math.inf else []),
        *([f"greater than {above:g}"] if above is not None else []),
        *([f"at most {at_most:g}"] if at_most < math.inf else []),
        *([f"less than {below:g}"] if below is not None else []),
    ]
    text = " and ".join(bounds)
    return f" of {text}" if text.startswith("at ") else f" {text}" if text else ""


def flag(name: str, value: Any) -> bool:
    """Return a Python or numpy bool, or a 0-d array of one, as a bool.

    Raises:
        TypeError: `value` is anything else.
    """
    if not (isinstance(value, bool | np.bool_) or _is_scalar_array(value, "b")):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def one_of(name: str, value: Any, choices: Collection[str]) -> str:
    """Return `value` if it is one of the strings `choices`.

    Raises:
        TypeError: `value` is not a str.
        ValueError: `value` is not one of the choices.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_episode_size(n_entries: int, **arguments: int) -> None:
    """Raise ValueError if an episode would have more entries than can be sampled.

    Args:
        n_entries: number of entries of the largest arrays of one episode.
        **arguments: the arguments that determine the size, for the error.
    """
    if n_entries > LARGEST_EPISODE:
        values = ", ".join(f"{name}={value}" for name, value in arguments.items())
        raise ValueError(f"an episode must have at most {LARGEST_EPISODE} entries, got {n_entries} from {values}")


def generator(name: str, value: Any) -> np.random.Generator:
    """Return `value` if it is a numpy random generator.

    Raises:
        TypeError: `value` is anything else.
    """
    if not isinstance(value, np.random.Generator):
        raise TypeError(f"{name} must be a numpy.random.Generator, such as default_rng(0), got {value!r}")
    return value


def _is_scalar_array(value: Any, dtype_kinds: str) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in dtype_kinds
