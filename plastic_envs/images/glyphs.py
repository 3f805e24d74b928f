"""Glyphs: characters of alphabets that nobody has, drawn by many hands. Nothing to download."""

from __future__ import annotations

import numpy as np

from plastic_envs.images.source import SPLITS, ImageSource, numbers_of_images
from plastic_envs.task import Array
from plastic_envs.validation import one_of, whole_number

CLASSES = {"train": 1000, "validation": 200, "test": 400}
DRAWINGS = 20

# A character has two strokes or more, each a smooth curve through `_CONTROLS` points, inked at `_POINTS` places.
_STROKES, _CONTROLS, _POINTS = 3, 5, 32
# Half the width of the square that holds a character, where the image reaches from -1 to 1.
_EXTENT = 0.62
# How much drawings of one character differ: standard deviation of its points, and ranges about the undistorted.
_WOBBLE = 0.045
_TURN, _SLANT, _STRETCH, _SHIFT = 0.3, 0.25, 0.2, 0.28
# Standard deviation of the pen's profile, in halves of the image's width, and the share of ink at its middle.
_THIN, _THICK = 0.035, 0.07
_PALE = 0.75
_GRAIN = 24
_AT_ONCE = 256
# A split of drawings of this size takes a gigabyte.
LARGEST_SIZE = 256


class Glyphs(ImageSource):
    """Procedural handwriting: 1600 classes of two or three smooth strokes, 20 drawings of each.

    A class is a set of strokes drawn at random. Each drawing moves the points that its strokes pass through, turns,
    slants, stretches and shifts the whole, and has a pen, an ink and a grain of its own. Ink is light on dark. A
    drawing is a function of seed, split, class and number alone; it is made when it is first asked for, and then kept.

    Args:
        image_size: rows and columns.
        seed: another one gives other characters.

    Raises:
        TypeError, ValueError: an argument is not a whole number, from 8 to 256 (`image_size`) or at least 0 (`seed`).
    """

    name = "glyphs"

    def __init__(self, image_size: int = 28, *, seed: int = 0) -> None:
        self.image_size = whole_number("image_size", image_size, at_least=8, at_most=LARGEST_SIZE)
        self.seed = whole_number("seed", seed, at_least=0)
        self.image_shape = (1, self.image_size, self.image_size)
        self._drawn: dict[str, tuple[Array, Array]] = {}
        generators = np.random.SeedSequence(self.seed).spawn(len(SPLITS))
        self._characters = {
            split: _invent(np.random.default_rng(generator), CLASSES[split])
            for split, generator in zip(SPLITS, generators, strict=True)
        }

    def counts(self, split: str) -> Array:
        """See `ImageSource.counts`: 20 each; 1000 classes for training, 200 for validation, 400 for the test."""
        one_of("split", split, SPLITS)
        return np.full(CLASSES[split], DRAWINGS)

    def classes(self, split: str) -> tuple[str, ...]:
        """See `ImageSource.classes`."""
        return tuple(f"{split}-{number}" for number in range(len(self.counts(split))))

    def gather(self, split: str, classes: Array, indices: Array) -> Array:
        """See `ImageSource.gather`."""
        classes, indices = numbers_of_images(self.counts(split), classes, indices)
        if split not in self._drawn:
            number = CLASSES[split] * DRAWINGS
            self._drawn[split] = (
                np.zeros((number, *self.image_shape), dtype=np.uint8),
                np.zeros(number, dtype=np.bool_),
            )
        images, done = self._drawn[split]
        rows = classes * DRAWINGS + indices
        missing = np.unique(rows[~done[rows]])
        for start in range(0, len(missing), _AT_ONCE):
            part = missing[start : start + _AT_ONCE]
            images[part, 0] = self._draw(split, part)
            done[part] = True
        return images.take(rows, axis=0)

    def _draw(self, split: str, rows: Array) -> Array:
        """The drawings of these numbers within their split, uint8 [N, H, W]."""
        points, ink = (part[rows // DRAWINGS] for part in self._characters[split])
        chance = _Chance(self.seed * len(SPLITS) + SPLITS.index(split), rows)
        points = points + _WOBBLE * chance.normal(_STROKES * _CONTROLS * 2).reshape(points.shape)
        places = np.einsum("pc,nscd->nspd", _spline(), points)
        # Where points are close together each of them leaves less ink.
        length = np.linalg.norm(np.gradient(places, axis=2), axis=-1) * ink[:, :, None]

        turn, slant, *stretch = (reach * chance.uniform() for reach in (_TURN, _SLANT, _STRETCH, _STRETCH))
        cos, sin = np.cos(turn), np.sin(turn)
        across, down = 1 + stretch[0], 1 + stretch[1]
        matrix = np.stack([cos * across, (slant * cos - sin) * down, sin * across, (slant * sin + cos) * down], axis=-1)
        places = places @ matrix.reshape(-1, 1, 2, 2).swapaxes(-1, -2)
        places += _SHIFT * np.stack([chance.uniform(), chance.uniform()], axis=-1)[:, None, None]

        width = _THIN + (_THICK - _THIN) * (0.5 + 0.5 * chance.uniform())
        pixels = (np.arange(self.image_size) + 0.5) * (2 / self.image_size) - 1
        # A round pen is the product of its profiles across and down, so that inking is one product of matrices.
        flat = places.reshape(len(rows), -1, 2).astype(np.float32)
        scale = (np.float32(-0.5) / width**2).astype(np.float32)[:, None, None]
        profile = [np.exp(scale * np.square(flat[:, :, axis, None] - pixels.astype(np.float32))) for axis in (0, 1)]
        profile[1] *= (length.reshape(len(rows), -1) / width[:, None]).astype(np.float32)[:, :, None]
        wet = profile[1].swapaxes(1, 2) @ profile[0]
        shade = (255 * (_PALE + (1 - _PALE) * (0.5 + 0.5 * chance.uniform()))).astype(np.float32)
        image = shade[:, None, None] * (1 - np.exp(-wet)) + _GRAIN * chance.noise(wet.shape)
        return np.clip(image, 0, 255).astype(np.uint8)

    def __getstate__(self) -> dict[str, object]:
        """Drawings can be made again."""
        return {**self.__dict__, "_drawn": {}}

    def __repr__(self) -> str:
        return f"Glyphs(image_size={self.image_size}, seed={self.seed})"


class _Chance:
    """Random numbers that are a function of seed and row alone, whatever else is drawn at the same time.

    Numbered words of 64 bits are mixed as in SplitMix64 (Steele, Lea and Flood: "Fast Splittable Pseudorandom Number
    Generators", OOPSLA 2014).
    """

    def __init__(self, seed: int, rows: Array) -> None:
        self._key = _mix(rows.astype(np.uint64) + _mix(np.full(1, seed % 2**64, dtype=np.uint64)))
        self._next = 0

    def _words(self, number: int) -> Array:
        """Fresh words, uint64 [N, number]."""
        counter = np.arange(self._next, self._next + number, dtype=np.uint64)
        self._next += number
        return _mix(self._key[:, None] + counter * np.uint64(0x9E3779B97F4A7C15))

    def uniform(self) -> Array:
        """One number in [-1, 1) for each row, float64 [N]."""
        return self._words(1)[:, 0] * 2.0**-63 - 1

    def normal(self, number: int) -> Array:
        """Nearly normal numbers, float64 [N, number]: each the scaled sum of four uniform ones."""
        parts = self._words(number).view(np.uint16).reshape(len(self._key), number, 4)
        return (parts.sum(axis=-1) * 2.0**-16 - 2) * np.sqrt(3)

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Numbers uniform in [-1, 1), float32 of this shape [N, ...]."""
        size = int(np.prod(shape[1:]))
        bytes_ = self._words(-(-size // 8)).view(np.uint8)[:, :size].reshape(shape)
        return bytes_.astype(np.float32) * np.float32(2 / 256) - np.float32(1)


def _mix(words: Array) -> Array:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = words ^ (words >> np.uint64(31))
    return mixed


def _invent(rng: np.random.Generator, number: int) -> tuple[Array, Array]:
    """Characters: points of their strokes [number, strokes, controls, 2], and which strokes there are, 1 or 0."""
    shape = (number, _STROKES)
    # A stroke sets out in some direction and bends one way, or first one way and then the other.
    bend = rng.uniform(-1.0, 1.0, (*shape, 1)) + np.cumsum(rng.normal(0, 0.4, (*shape, _CONTROLS)), axis=-1)
    heading = rng.uniform(-np.pi, np.pi, (*shape, 1)) + np.cumsum(bend, axis=-1)
    step = rng.uniform(0.35, 1, (*shape, 1)) * rng.uniform(0.6, 1.2, (*shape, _CONTROLS))
    strokes = np.cumsum(step[..., None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1), axis=2)
    strokes -= strokes.mean(axis=2, keepdims=True)
    strokes += rng.uniform(-0.9, 0.9, (*shape, 1, 2))
    ink = (np.arange(_STROKES) < rng.integers(2, _STROKES, size=(number, 1), endpoint=True)).astype(np.float64)

    shown = np.where(ink[:, :, None, None] > 0, strokes, np.nan)
    low, high = np.nanmin(shown, axis=(1, 2)), np.nanmax(shown, axis=(1, 2))
    size = np.maximum(high - low, 0.6 * (high - low).max(axis=-1, keepdims=True))
    points = (strokes - ((low + high) / 2)[:, None, None]) * (2 * _EXTENT / size)[:, None, None]
    return np.where(ink[:, :, None, None] > 0, points, 0), ink


def _spline() -> Array:
    """Weights [points, controls] of a Catmull-Rom curve through the control points, its ends prolonged."""
    place = np.linspace(0, _CONTROLS - 1, _POINTS)
    piece = np.minimum(place.astype(int), _CONTROLS - 2)
    t = place - piece
    basis = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], axis=-1) / 2
    weights = np.zeros((_POINTS, _CONTROLS + 2))
    for shift in range(4):
        weights[np.arange(_POINTS), piece + shift] = basis[:, shift]
    inner = weights[:, 1:-1].copy()
    for end, (near, far) in ((0, (0, 1)), (-1, (-1, -2))):
        inner[:, near] += 2 * weights[:, end]
        inner[:, far] -= weights[:, end]
    return inner
