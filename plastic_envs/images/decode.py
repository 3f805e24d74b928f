"""Pictures in files as arrays."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from plastic_envs.images.resize import resize
from plastic_envs.task import Array

# More than this in one file is no picture for few-shot learning, and would take all memory.
LARGEST_FILE = 2**25
LARGEST_PIXELS = 2**24
# Pillow goes by the content of a file and not by its name, and runs another program to read some other formats.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")


def decode(data: bytes, name: str) -> Array:
    """Decode a picture, a PNG, JPEG, BMP, GIF or WebP: uint8 [C, H, W], one channel where it is grey, else three.

    The EXIF orientation is applied, only the first frame of an animation is read, 16-bit values are scaled to 8 bits,
    and transparent pixels are blended with black.

    Raises:
        ModuleNotFoundError: there is no Pillow.
        ValueError: the picture is damaged or too large; it is called `name`.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ModuleNotFoundError(f"reading {name} needs Pillow: pip install pillow") from None
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            return _pixels(ImageOps.exif_transpose(image))
    # Whatever Pillow's decoders make of a damaged file: OSError, SyntaxError, struct.error and more.
    except Exception as error:
        raise ValueError(f"{name} is damaged, too large or no picture: {error}") from None


def _pixels(image: Any) -> Array:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey at 255.
        return np.rint(np.asarray(image)[None] / 257).astype(np.uint8)
    transparent = "A" in image.getbands() or "transparency" in image.info
    pixels = np.asarray(image.convert("RGBA" if transparent else "RGB"), dtype=np.uint8)
    if transparent:
        pixels = np.rint(pixels[..., :3] * (pixels[..., 3:] / 255)).astype(np.uint8)
    # A palette may hold greys only.
    grey = image.mode in ("1", "L", "LA") or (image.mode in ("P", "PA") and (pixels == pixels[..., :1]).all())
    return pixels[None, ..., 0] if grey else pixels.transpose(2, 0, 1)


def stack(pictures: Sequence[Array], size: int) -> Array:
    """Pictures [C, H, W] of any shapes as uint8 [N, C, size, size], in colour if one of them is."""
    channels = max(len(picture) for picture in pictures)
    return np.concatenate(
        [np.broadcast_to(resize(picture[None], size), (1, channels, size, size)) for picture in pictures]
    )
