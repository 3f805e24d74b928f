"""Glyphs: procedurally generated handwritten characters, which need no download."""

from __future__ import annotations

import numpy as np

from plastic_envs.images.source import SPLITS, ImageSource, check_indices
from plastic_envs.task import Array
from plastic_envs.validation import one_of, whole_number

CLASSES = {"train": 1000, "validation": 200, "test": 400}
DRAWINGS = 20

# A character has two or three strokes. Each is a smooth curve through control points, sampled at `_POINTS` points.
_STROKES, _CONTROLS, _POINTS = 3, 5, 32
# Half the side of the square that encloses a character. Image coordinates are in [-1, 1].
_EXTENT = 0.62
# Variation between drawings of a character: standard deviation of the control points, and bounds of the random
# rotation in radians, slant, relative stretch and shift.
_POINT_STD = 0.045
_MAX_ROTATION, _MAX_SLANT, _MAX_STRETCH, _MAX_SHIFT = 0.3, 0.25, 0.2, 0.28
# Bounds of the standard deviation of the pen's Gaussian profile, in image coordinates.
_MIN_PEN_STD, _MAX_PEN_STD = 0.035, 0.07
# Minimum brightness of the ink as a fraction of 255, and amplitude of the noise on pixels.
_MIN_BRIGHTNESS = 0.75
_PIXEL_NOISE = 24
# Number of images drawn at once.
_BATCH = 256
# At this image size, the drawings of a split take a gigabyte.
MAX_IMAGE_SIZE = 256


class Glyphs(ImageSource):
    """Procedurally generated handwriting: 1600 classes of two or three smooth strokes, with 20 drawings of each.

    A class is a set of random strokes. Each drawing perturbs the control points of the strokes, rotates, slants,
    stretches and shifts the character, and has a random pen width, brightness and pixel noise. Ink is light on dark.
    The seed, split, class and index determine a drawing. It is made when it is first gathered, and then cached.

    Args:
        image_size: height and width of the images.
        seed: the seed of all characters and drawings.

    Raises:
        TypeError: an argument is not a whole number.
        ValueError: `image_size` is not between 8 and 256, or `seed` is negative.
    """

    name = "glyphs"

    def __init__(self, image_size: int = 28, *, seed: int = 0) -> None:
        self.image_size = whole_number("image_size", image_size, at_least=8, at_most=MAX_IMAGE_SIZE)
        self.seed = whole_number("seed", seed, at_least=0)
        self.image_shape = (1, self.image_size, self.image_size)
        self._drawn: dict[str, tuple[Array, Array]] = {}
        generators = np.random.SeedSequence(self.seed).spawn(len(SPLITS))
        self._characters = {
            split: _sample_characters(np.random.default_rng(generator), CLASSES[split])
            for split, generator in zip(SPLITS, generators, strict=True)
        }

    def counts(self, split: str) -> Array:
        """See `ImageSource.counts`: 20 for each of 1000 training, 200 validation and 400 test classes."""
        one_of("split", split, SPLITS)
        return np.full(CLASSES[split], DRAWINGS)

    def classes(self, split: str) -> tuple[str, ...]:
        """See `ImageSource.classes`."""
        return tuple(f"{split}-{number}" for number in range(len(self.counts(split))))

    def gather(self, split: str, classes: Array, indices: Array) -> Array:
        """See `ImageSource.gather`."""
        classes, indices = check_indices(self.counts(split), classes, indices)
        if split not in self._drawn:
            n_drawings = CLASSES[split] * DRAWINGS
            self._drawn[split] = (
                np.zeros((n_drawings, *self.image_shape), dtype=np.uint8),
                np.zeros(n_drawings, dtype=np.bool_),
            )
        images, is_drawn = self._drawn[split]
        drawings = classes * DRAWINGS + indices
        missing = np.unique(drawings[~is_drawn[drawings]])
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            images[batch, 0] = self._draw(split, batch)
            is_drawn[batch] = True
        return images.take(drawings, axis=0)

    def _draw(self, split: str, drawings: Array) -> Array:
        """Draw the images with these indices within their split: uint8 [N, H, W]."""
        controls, has_stroke = (array[drawings // DRAWINGS] for array in self._characters[split])
        rng = _CounterRng(self.seed * len(SPLITS) + SPLITS.index(split), drawings)
        controls = controls + _POINT_STD * rng.normal(_STROKES * _CONTROLS * 2).reshape(controls.shape)
        points = np.einsum("pc,nscd->nspd", _spline_weights(), controls)
        # Ink is proportional to the length of curve that a point represents.
        length = np.linalg.norm(np.gradient(points, axis=2), axis=-1) * has_stroke[:, :, None]

        bounds = (_MAX_ROTATION, _MAX_SLANT, _MAX_STRETCH, _MAX_STRETCH)
        angle, slant, *stretch = (bound * rng.uniform() for bound in bounds)
        cos, sin = np.cos(angle), np.sin(angle)
        width, height = 1 + stretch[0], 1 + stretch[1]
        matrix = np.stack(
            [cos * width, (slant * cos - sin) * height, sin * width, (slant * sin + cos) * height], axis=-1
        )
        points = points @ matrix.reshape(-1, 1, 2, 2).swapaxes(-1, -2)
        points += _MAX_SHIFT * np.stack([rng.uniform(), rng.uniform()], axis=-1)[:, None, None]

        pen_std = _MIN_PEN_STD + (_MAX_PEN_STD - _MIN_PEN_STD) * (0.5 + 0.5 * rng.uniform())
        pixels = (np.arange(self.image_size) + 0.5) * (2 / self.image_size) - 1
        # The pen's profile is a product of a horizontal and a vertical one, so the ink is one matrix product.
        points = points.reshape(len(drawings), -1, 2).astype(np.float32)
        scale = (np.float32(-0.5) / pen_std**2).astype(np.float32)[:, None, None]
        horizontal, vertical = (
            np.exp(scale * np.square(points[:, :, axis, None] - pixels.astype(np.float32))) for axis in (0, 1)
        )
        vertical *= (length.reshape(len(drawings), -1) / pen_std[:, None]).astype(np.float32)[:, :, None]
        ink = vertical.swapaxes(1, 2) @ horizontal
        brightness = (255 * (_MIN_BRIGHTNESS + (1 - _MIN_BRIGHTNESS) * (0.5 + 0.5 * rng.uniform()))).astype(np.float32)
        image = brightness[:, None, None] * (1 - np.exp(-ink)) + _PIXEL_NOISE * rng.noise(ink.shape)
        rendered: Array = np.clip(image, 0, 255).astype(np.uint8)
        return rendered

    def __getstate__(self) -> dict[str, object]:
        """Leave out the drawings, which can be made again."""
        return {**self.__dict__, "_drawn": {}}

    def __repr__(self) -> str:
        return f"Glyphs(image_size={self.image_size}, seed={self.seed})"


class _CounterRng:
    """A counter-based random number generator: the seed and the index of a drawing determine its random numbers.

    The generator mixes counters of 64 bits as SplitMix64 does (Steele, Lea and Flood: "Fast Splittable Pseudorandom
    Number Generators", OOPSLA 2014). It has an independent stream for each of N drawings.
    """

    def __init__(self, seed: int, drawings: Array) -> None:
        self._key = _mix(drawings.astype(np.uint64) + _mix(np.full(1, seed % 2**64, dtype=np.uint64)))
        self._next = 0

    def _words(self, number: int) -> Array:
        """Return the next random words, uint64 [N, number]."""
        counter = np.arange(self._next, self._next + number, dtype=np.uint64)
        self._next += number
        return _mix(self._key[:, None] + counter * np.uint64(0x9E3779B97F4A7C15))

    def uniform(self) -> Array:
        """Return one number in [-1, 1) for each drawing: float64 [N]."""
        return self._words(1)[:, 0] * 2.0**-63 - 1

    def normal(self, number: int) -> Array:
        """Return approximately normal numbers, float64 [N, number]: scaled sums of four uniform ones."""
        uniform = self._words(number).view(np.uint16).reshape(len(self._key), number, 4)
        normal: Array = (uniform.sum(axis=-1) * 2.0**-16 - 2) * np.sqrt(3)
        return normal

    def noise(self, shape: tuple[int, ...]) -> Array:
        """Return numbers uniform in [-1, 1), float32 of this shape [N, ...]."""
        size = int(np.prod(shape[1:]))
        bytes_ = self._words(-(-size // 8)).view(np.uint8)[:, :size].reshape(shape)
        return bytes_.astype(np.float32) * np.float32(2 / 256) - np.float32(1)


def _mix(words: Array) -> Array:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Array = words ^ (words >> np.uint64(31))
    return mixed


def _sample_characters(rng: np.random.Generator, number: int) -> tuple[Array, Array]:
    """Draw random characters.

    Returns:
        Control points of the strokes, float64 [number, _STROKES, _CONTROLS, 2], and whether each stroke exists, 1 or 0,
        float64 [number, _STROKES].
    """
    shape = (number, _STROKES)
    # The heading of a stroke is random, and its curvature is constant plus a random walk.
    bend = rng.uniform(-1.0, 1.0, (*shape, 1)) + np.cumsum(rng.normal(0, 0.4, (*shape, _CONTROLS)), axis=-1)
    heading = rng.uniform(-np.pi, np.pi, (*shape, 1)) + np.cumsum(bend, axis=-1)
    step = rng.uniform(0.35, 1, (*shape, 1)) * rng.uniform(0.6, 1.2, (*shape, _CONTROLS))
    strokes = np.cumsum(step[..., None] * np.stack([np.cos(heading), np.sin(heading)], axis=-1), axis=2)
    strokes -= strokes.mean(axis=2, keepdims=True)
    strokes += rng.uniform(-0.9, 0.9, (*shape, 1, 2))
    has_stroke = (np.arange(_STROKES) < rng.integers(2, _STROKES, size=(number, 1), endpoint=True)).astype(np.float64)

    existing = np.where(has_stroke[:, :, None, None] > 0, strokes, np.nan)
    low, high = np.nanmin(existing, axis=(1, 2)), np.nanmax(existing, axis=(1, 2))
    size = np.maximum(high - low, 0.6 * (high - low).max(axis=-1, keepdims=True))
    points = (strokes - ((low + high) / 2)[:, None, None]) * (2 * _EXTENT / size)[:, None, None]
    return np.where(has_stroke[:, :, None, None] > 0, points, 0), has_stroke


def _spline_weights() -> Array:
    """Return weights [_POINTS, _CONTROLS] of a Catmull-Rom spline whose ends are extrapolated."""
    position = np.linspace(0, _CONTROLS - 1, _POINTS)
    segment = np.minimum(position.astype(int), _CONTROLS - 2)
    t = position - segment
    basis = np.stack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2], axis=-1) / 2
    weights = np.zeros((_POINTS, _CONTROLS + 2))
    for shift in range(4):
        weights[np.arange(_POINTS), segment + shift] = basis[:, shift]
    inner = weights[:, 1:-1].copy()
    for end, (near, far) in ((0, (0, 1)), (-1, (-1, -2))):
        inner[:, near] += 2 * weights[:, end]
        inner[:, far] -= weights[:, end]
    return inner
