"""GIF files of pictures, without Matplotlib."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

_COLOURS = 128
_EXACT = 8  # the most frequent colours, such as that of the background
_SAMPLES = 6  # frames from which the colours are chosen


def write_gif(path: str | os.PathLike[str], frames: list[np.ndarray], milliseconds: list[int]) -> None:
    """Write a GIF that repeats, with the same few colours in all frames.

    Args:
        path: the file.
        frames: the frames, uint8 [height, width, 3].
        milliseconds: duration of each frame.
    """
    samples = np.unique(np.linspace(0, len(frames) - 1, _SAMPLES).astype(int))
    palette = _palette(np.concatenate([frames[index] for index in samples]))
    images = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    options = {"save_all": True, "append_images": images[1:], "duration": milliseconds, "loop": 0}
    images[0].save(path, "GIF", optimize=True, disposal=1, **options)


def _palette(picture: np.ndarray) -> Image.Image:
    """Return an image with the colours of a picture, in which the most frequent ones are exact."""
    reduced = Image.fromarray(picture).quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE)
    colours = np.array(reduced.getpalette()).reshape(-1, 3)
    values, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    for value in values[np.argsort(-counts)[:_EXACT]]:
        colours[np.square(colours - value.astype(int)).sum(axis=1).argmin()] = value
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours.ravel().tolist())
    return palette
