"""Data augmentation: random shifts and mirroring of images."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from plastic_envs.task import Array

AUGMENTATIONS = ("none", "crop", "crop-flip")


class Augmentation:
    """Random shifts of images by up to an eighth of their size, padded with zeros, and mirroring of half of them.

    Each transformation has an integer id, so that a task can draw ids when it samples episodes, and apply them later.

    Args:
        kind: "none", "crop" (shifts) or "crop-flip" (shifts, and mirrors left to right).
        image_size: height and width of the images.
    """

    def __init__(self, kind: str, image_size: int) -> None:
        self._max_shift = 0 if kind == "none" else image_size // 8
        self._n_flips = 2 if kind == "crop-flip" else 1
        self._n_shifts = 2 * self._max_shift + 1

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        """Draw ids of transformations, all equally likely: int64 of this shape."""
        n_ids = self._n_shifts**2 * self._n_flips
        return rng.integers(n_ids, size=shape) if n_ids > 1 else np.zeros(shape, dtype=np.int64)

    def apply(self, images: Array, ids: Array) -> Array:
        """Apply transformations with ids [N] to images [N, C, H, W] and return images of the same shape."""
        if self._n_shifts == 1:
            return images
        shift, flip = np.divmod(ids, self._n_flips)
        row, column = np.divmod(shift, self._n_shifts)
        margin = (self._max_shift, self._max_shift)
        padded = np.pad(images, ((0, 0), (0, 0), margin, margin))
        windows = sliding_window_view(padded, images.shape[2:], axis=(2, 3))
        augmented = windows[np.arange(len(images)), :, row, column]
        mirrored = flip == 1
        augmented[mirrored] = augmented[mirrored, ..., ::-1]
        return augmented
