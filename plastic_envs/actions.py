"""Validation of actions, the same in environments and in scores."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Array = NDArray[Any]
ActionSpace = spaces.Box | spaces.Discrete


class ActionReader:
    """Validates the actions of a space and converts them for scoring. Box actions are clipped to their bounds.

    Args:
        space: the action space of one environment.
    """

    def __init__(self, space: ActionSpace) -> None:
        self._discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self._min, self._max = 0.0, float(space.n - 1)
            self._dtype_kinds = "iu"
            self._expected = f"whole numbers from 0 to {space.n - 1}"
        else:
            self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
            # Numbers in this interval are within the bounds of each component.
            self._min, self._max = float(self._low.max()), float(self._high.min())
            self._dtype_kinds = "fiu"
            self._expected = "finite numbers"
        self._shape = space.shape or ()

    def read(
        self, name: str, actions: Any, shape: tuple[int, ...], *, ignored: Array | None = None, rows: str = ""
    ) -> Array:
        """Return actions as an array, float64 for a Box and int64 for a Discrete space.

        Args:
            name: the name of the actions in errors.
            actions: an array or nested lists of numbers.
            shape: the required shape, [..., A] for a Box and [...] for a Discrete space.
            ignored: a bool mask over the first axis. Ignored actions are not checked and are returned as 0.
            rows: the name of the first axis in errors. If empty, errors do not list the invalid entries.

        Raises:
            TypeError: the actions are not numbers, or Discrete actions are not whole numbers. A bool is neither.
            ValueError: the actions have the wrong shape, are not finite, or are outside a Discrete space.
        """
        try:
            array = np.asarray(actions)
        except ValueError:
            raise ValueError(f"{name} must have shape {shape}, got {_brief(actions)}") from None
        if array.dtype.kind not in self._dtype_kinds:
            raise TypeError(f"{name} must be {self._expected}, got {_brief(actions)}")
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}: {_brief(actions)}")
        if ignored is not None:
            array = np.where(ignored.reshape(-1, *[1] * (array.ndim - 1)), array.dtype.type(0), array)
        # These reductions are faster than the methods `min` and `max`. NaN makes both comparisons false.
        if not array.size or (
            np.minimum.reduce(array, axis=None) >= self._min and np.maximum.reduce(array, axis=None) <= self._max
        ):
            return array.astype(np.int64 if self._discrete else np.float64, copy=False)
        if self._discrete:
            valid = (array >= self._min) & (array <= self._max)
        else:
            # Wider floats can overflow to infinity, which is then invalid.
            with np.errstate(over="ignore"):
                array = array.astype(np.float64)
            valid = np.isfinite(array)
        if not valid.all():
            location = ""
            if rows:
                invalid_rows = np.flatnonzero(~valid.reshape(len(valid), -1).all(axis=1))
                location = f" in {rows} {invalid_rows[:10].tolist()}"
            raise ValueError(f"{name} must be {self._expected}, got {array[~valid][:10].tolist()}{location}")
        clipped: Array = np.clip(array, self._low, self._high)
        return clipped

    def choice(self, action: Any) -> int:
        """Return one Discrete action as an int. Errors are those of `read`."""
        # `operator.index` accepts a bool.
        if not isinstance(action, bool | np.bool_):
            try:
                choice = operator.index(action)
            except TypeError:
                choice = -1
            if 0 <= choice <= self._max:
                return choice
        return int(self.read("action", action, ()))

    def vector(self, action: Any) -> list[float]:
        """Return one Box action as a list of its components. Errors are those of `read`."""
        if isinstance(action, np.ndarray) and action.shape == self._shape and action.dtype.char in "fd":
            components: list[float] = action.tolist()
            for component in components:
                if not self._min <= component <= self._max:
                    break
            else:
                return components
        return list(self.read("action", action, self._shape).tolist())


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]} ..."
