"""Decoding of image files to arrays."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from plastic_envs.images.resize import resize
from plastic_envs.task import Array

# Limits that protect the memory: larger files are not images for few-shot learning.
MAX_FILE_SIZE = 2**25
MAX_PIXELS = 2**24
# Pillow detects the format from the content, and runs external programs for some formats that are not listed here.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")


def decode(data: bytes, name: str) -> Array:
    """Decode a PNG, JPEG, BMP, GIF or WebP file.

    The function applies the EXIF orientation, reads only the first frame of an animation, scales 16-bit values to
    8 bits, and blends transparent pixels with black.

    Args:
        data: the content of the file.
        name: the name of the file, for errors.

    Returns:
        uint8 [C, H, W], with one channel if the image is grey, else three.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
        ValueError: the file is damaged, too large or has another format.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise ModuleNotFoundError(f"reading {name} needs Pillow: pip install pillow") from None
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels")
            return _pixels(ImageOps.exif_transpose(image))
    # Pillow's decoders raise many types for damaged files: OSError, SyntaxError, struct.error and more.
    except Exception as error:
        raise ValueError(f"{name} is damaged, too large or not an image: {error}") from None


def _pixels(image: Any) -> Array:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255.
        return np.rint(np.asarray(image)[None] / 257).astype(np.uint8)
    is_transparent = "A" in image.getbands() or "transparency" in image.info
    pixels = np.asarray(image.convert("RGBA" if is_transparent else "RGB"), dtype=np.uint8)
    if is_transparent:
        pixels = np.rint(pixels[..., :3] * (pixels[..., 3:] / 255)).astype(np.uint8)
    # A palette can consist of greys.
    is_grey = image.mode in ("1", "L", "LA") or (image.mode in ("P", "PA") and (pixels == pixels[..., :1]).all())
    return pixels[None, ..., 0] if is_grey else pixels.transpose(2, 0, 1)


def stack_images(images: Sequence[Array], size: int) -> Array:
    """Resize and stack images [C, H, W] of any shape: uint8 [N, C, size, size], in colour if any of them is."""
    channels = max(len(image) for image in images)
    return np.concatenate([np.broadcast_to(resize(image[None], size), (1, channels, size, size)) for image in images])
