"""Resizing of images in numpy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from plastic_envs.task import Array

# Images resized at once, so that their copies in float32 stay small.
_AT_ONCE = 256


def resize(images: Array, size: int) -> Array:
    """Resize images to squares.

    Each new pixel is a mean of old ones under a triangle as wide as two pixels of the coarser of both grids: linear
    interpolation on the way up, without aliasing on the way down.

    Args:
        images: uint8 [N, C, H, W].
        size: rows and columns afterwards.

    Returns:
        uint8 [N, C, size, size]; `images` itself where that is its size.
    """
    height, width = images.shape[-2:]
    if height == width == size:
        return images
    down, across = _weights(height, size), _weights(width, size).T
    resized = np.empty((*images.shape[:-2], size, size), dtype=np.uint8)
    for start in range(0, len(images), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        resized[part] = np.rint(down @ images[part].astype(np.float32) @ across)
    return resized


@lru_cache(maxsize=64)
def _weights(old: int, new: int) -> Array:
    """Weights [new, old] of the old pixels in each new one; rows add up to 1."""
    centres = (np.arange(new) + 0.5) * (old / new)
    reach = max(old / new, 1.0)
    weights = np.maximum(1 - np.abs(np.arange(old) + 0.5 - centres[:, None]) / reach, 0)
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    weights.flags.writeable = False
    return weights
