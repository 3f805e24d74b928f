"""Random changes of images that leave their class what it is."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from plastic_envs.task import Array

AUGMENTATIONS = ("none", "crop", "crop-flip")


class Augmentation:
    """Shifts images by up to an eighth of their size, filling up with zeros, and mirrors half of them.

    A change is a whole number, so that it can be drawn at one time and applied at another.

    Args:
        kind: "none", "crop" (shifts) or "crop-flip" (shifts, and mirrors left to right).
        image_size: rows and columns.
    """

    def __init__(self, kind: str, image_size: int) -> None:
        self._reach = 0 if kind == "none" else image_size // 8
        self._mirrors = 2 if kind == "crop-flip" else 1
        self._places = 2 * self._reach + 1

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw changes, all equally likely, int64 of this shape."""
        number = self._places**2 * self._mirrors
        return rng.integers(number, size=shape) if number > 1 else np.zeros(shape, dtype=np.int64)

    def apply(self, images: Array, changes: Array) -> Array:
        """Apply changes [N] to images [N, C, H, W]; returns images of the same shape."""
        if self._places == 1:
            return images
        place, mirrored = np.divmod(changes, self._mirrors)
        down, across = np.divmod(place, self._places)
        margin = (self._reach, self._reach)
        padded = np.pad(images, ((0, 0), (0, 0), margin, margin))
        windows = sliding_window_view(padded, images.shape[2:], axis=(2, 3))
        changed = windows[np.arange(len(images)), :, down, across]
        turned = mirrored == 1
        changed[turned] = changed[turned, ..., ::-1]
        return changed
