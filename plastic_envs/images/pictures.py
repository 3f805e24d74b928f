"""Pictures in files as arrays."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from plastic_envs.images.resize import resize
from plastic_envs.task import Array

# More than this in one file is no picture for few-shot learning, and would take all memory.
LARGEST_FILE = 2**25
LARGEST_PIXELS = 2**24


def decode(data: bytes, name: str) -> Array:
    """Decode a picture, such as a PNG or JPEG: uint8 [C, H, W], one channel where it is grey and three elsewhere.

    Raises:
        ModuleNotFoundError: there is no Pillow.
        ValueError: the picture is damaged or too large; it is called `name`.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ModuleNotFoundError(f"reading {name} needs Pillow: pip install pillow") from None
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            grey = image.mode in ("1", "L")
            pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    # Whatever Pillow's decoders make of a damaged file: OSError, SyntaxError, struct.error and more.
    except Exception as error:
        raise ValueError(f"{name} is damaged, too large or no picture: {error}") from None
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def stack(pictures: Sequence[Array], size: int) -> Array:
    """Pictures [C, H, W] of any shapes as uint8 [N, C, size, size], in colour if one of them is."""
    channels = max(len(picture) for picture in pictures)
    return np.concatenate(
        [np.broadcast_to(resize(picture[None], size), (1, channels, size, size)) for picture in pictures]
    )
