"""Reading of actions: the same types, bounds and errors wherever they are given."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Array = NDArray[Any]
ActionSpace = spaces.Box | spaces.Discrete


class ActionReader:
    """Reads the actions of one space, so that they can be scored: Box actions beyond their bounds are clipped to them.

    Args:
        space: the action space of one environment.
    """

    def __init__(self, space: ActionSpace) -> None:
        self._discrete = isinstance(space, spaces.Discrete)
        if isinstance(space, spaces.Discrete):
            self._least, self._most = 0.0, float(space.n - 1)
            self._kinds = "iu"
            self._right = f"whole numbers from 0 to {space.n - 1}"
        else:
            self._low, self._high = space.low.astype(np.float64), space.high.astype(np.float64)
            # What lies between these is within the bounds of each component.
            self._least, self._most = float(self._low.max()), float(self._high.min())
            self._kinds = "fiu"
            self._right = "finite numbers"
        self._shape = space.shape or ()

    def read(
        self, name: str, actions: Any, shape: tuple[int, ...], *, ignored: Array | None = None, rows: str = ""
    ) -> Array:
        """Return actions as an array, float64 of a Box and int64 of a Discrete.

        Args:
            name: how errors call the actions.
            actions: an array, or nested lists of numbers.
            shape: the shape that they must have, [..., A] for a Box and [...] for a Discrete.
            ignored: bool, entries of the first axis whose actions are ignored, and returned as 0.
            rows: how errors call the first axis; without it they do not name the wrong entries.

        Raises:
            TypeError: they are not numbers, or not whole ones for a Discrete space; a bool is neither.
            ValueError: they have another shape, or are not finite, or out of range of a Discrete space.
        """
        try:
            array = np.asarray(actions)
        except ValueError:
            raise ValueError(f"{name} must have shape {shape}, got {_brief(actions)}") from None
        if array.dtype.kind not in self._kinds:
            raise TypeError(f"{name} must be {self._right}, got {_brief(actions)}")
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}: {_brief(actions)}")
        if ignored is not None:
            array = np.where(ignored.reshape(-1, *[1] * (array.ndim - 1)), array.dtype.type(0), array)
        # Reductions are quicker than the methods `min` and `max`; where there is a NaN both comparisons are false.
        if not array.size or (
            np.minimum.reduce(array, axis=None) >= self._least and np.maximum.reduce(array, axis=None) <= self._most
        ):
            return array.astype(np.int64 if self._discrete else np.float64, copy=False)
        if self._discrete:
            valid = (array >= self._least) & (array <= self._most)
        else:
            # Wider floats may overflow, and are then refused as infinite.
            with np.errstate(over="ignore"):
                array = array.astype(np.float64)
            valid = np.isfinite(array)
        if not valid.all():
            places = ""
            if rows:
                wrong = np.flatnonzero(~valid.reshape(len(valid), -1).all(axis=1))
                places = f" in {rows} {wrong[:10].tolist()}"
            raise ValueError(f"{name} must be {self._right}, got {array[~valid][:10].tolist()}{places}")
        clipped: Array = np.clip(array, self._low, self._high)
        return clipped

    def choice(self, action: Any) -> int:
        """Return one Discrete action as an int; raises what `read` does."""
        # A bool would pass for a whole number.
        if not isinstance(action, bool | np.bool_):
            try:
                choice = operator.index(action)
            except TypeError:
                choice = -1
            if 0 <= choice <= self._most:
                return choice
        return int(self.read("action", action, ()))

    def vector(self, action: Any) -> list[float]:
        """Return one Box action as a list of its components; raises what `read` does."""
        if isinstance(action, np.ndarray) and action.shape == self._shape and action.dtype.char in "fd":
            components: list[float] = action.tolist()
            for component in components:
                if not self._least <= component <= self._most:
                    break
            else:
                return components
        return list(self.read("action", action, self._shape).tolist())


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]} ..."
