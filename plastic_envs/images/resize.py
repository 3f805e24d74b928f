"""Resizing of images with numpy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from plastic_envs.task import Array

# Number of images resized at once, which bounds the size of their float32 copies.
_BATCH = 256


def resize(images: Array, size: int) -> Array:
    """Resize images to squares with an antialiased triangle filter.

    Each new pixel is a mean of old pixels. The triangle of weights is two pixels wide in the coarser of both grids: the
    filter is linear interpolation when it enlarges images, and prevents aliasing when it reduces them.

    Args:
        images: uint8 [N, C, H, W].
        size: new height and width.

    Returns:
        uint8 [N, C, size, size]; `images` itself if it already has this size.
    """
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    row_weights, column_weights = _weights(height, size), _weights(width, size).T
    resized = np.empty((*images.shape[:-2], size, size), dtype=np.uint8)
    for start in range(0, len(images), _BATCH):
        batch = slice(start, start + _BATCH)
        resized[batch] = np.rint(row_weights @ images[batch].astype(np.float32) @ column_weights)
    return resized


@lru_cache(maxsize=64)
def _weights(old_size: int, new_size: int) -> Array:
    """Return the weights [new_size, old_size] of the old pixels in each new one; each row sums to 1."""
    centres = (np.arange(new_size) + 0.5) * (old_size / new_size)
    half_width = max(old_size / new_size, 1.0)
    weights = np.maximum(1 - np.abs(np.arange(old_size) + 0.5 - centres[:, None]) / half_width, 0)
    normalised: Array = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    normalised.flags.writeable = False
    return normalised
