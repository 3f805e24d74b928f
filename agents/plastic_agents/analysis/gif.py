"""GIF files of pictures, without Matplotlib."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

_COLOURS = 128
_EXACT = 8  # the most frequent colours, such as that of the background
_SAMPLES = 6  # frames from which the colours are chosen


def write_gif(path: str | os.PathLike[str], frame: Callable[[int], np.ndarray], milliseconds: Sequence[int]) -> None:
    """Write a GIF that repeats, with the same few colours in all frames.

    Args:
        path: the file.
        frame: a function from the number of a frame to its picture, uint8 [height, width, 3]. One picture at a time
            needs much less memory than all of them.
        milliseconds: duration of each frame.
    """
    samples = np.unique(np.linspace(0, len(milliseconds) - 1, _SAMPLES).astype(int))
    colours = _chosen_colours(np.concatenate([frame(int(number)) for number in samples]))
    images = [_with_colours(frame(number), colours) for number in range(len(milliseconds))]
    options = {"save_all": True, "append_images": images[1:], "duration": list(milliseconds), "loop": 0}
    images[0].save(path, "GIF", optimize=True, disposal=1, **options)


def _chosen_colours(picture: np.ndarray) -> np.ndarray:
    """Return colours [n, 3] that are like those of a picture; the most frequent ones are exact."""
    reduced = Image.fromarray(picture).quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE)
    colours = np.array(reduced.getpalette()).reshape(-1, 3)
    packed, counts = np.unique(_packed(picture), return_counts=True)
    frequent = _unpacked(packed[np.argsort(-counts)[:_EXACT]])
    return np.concatenate([frequent, colours])


def _with_colours(picture: np.ndarray, colours: np.ndarray) -> Image.Image:
    """Return an image in which each pixel has the nearest of the colours [n, 3], the first one if several are."""
    packed, inverse = np.unique(_packed(picture), return_inverse=True)
    distances = np.square(_unpacked(packed)[:, None] - colours).sum(axis=-1)
    indices = distances.argmin(axis=1).astype(np.uint8)[inverse].reshape(picture.shape[:2])
    image = Image.fromarray(indices)
    image.putpalette(colours.ravel().tolist())
    return image


def _packed(picture: np.ndarray) -> np.ndarray:
    """Return each colour [..., 3] as one number."""
    packed: np.ndarray = picture.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    return packed


def _unpacked(packed: np.ndarray) -> np.ndarray:
    return np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1)
