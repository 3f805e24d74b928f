"""Fast, bounded Gaussian noise."""

from __future__ import annotations

from functools import cache, lru_cache
from math import prod
from statistics import NormalDist

import numpy as np

from plastic_envs.task import Array

# Noise is clipped at this many standard deviations, so that observations have bounds.
NOISE_CLIP = 4.0
# Upper bound of the standard deviation. Stronger noise hides every signal, and much stronger noise overflows float32.
LARGEST_NOISE = 1000.0

_LEVELS = 2**16
_CHUNK = 2**14


def normal_noise(rng: np.random.Generator, shape: tuple[int, ...], scale: float = 1.0) -> Array:
    """Draw normal numbers of standard deviation `scale`, clipped at `NOISE_CLIP` standard deviations: float32.

    Each number uses 16 random bits as the index of one of 65 536 equally likely quantiles. The error of the cumulative
    probability within the clipping bounds is at most 8e-6, half a level. This takes a fifth of the time of numpy's
    exact normal numbers, which would dominate the run time of environments.
    """
    size = prod(shape)
    # numpy draws 64-bit words twice as fast as 16-bit numbers.
    levels = rng.integers(2**64 - 1, size=-(-size // 4), dtype=np.uint64, endpoint=True).view(np.uint16)
    noise = np.empty(size, dtype=np.float32)
    table = _quantiles(scale)
    # In chunks, because `take` converts indices to 64 bits, and this copy should fit in the CPU cache. All indices are
    # in range, but in the default mode `take` also copies its output.
    for start in range(0, size, _CHUNK):
        chunk = slice(start, min(start + _CHUNK, size))
        table.take(levels[chunk], out=noise[chunk], mode="clip")
    return noise.reshape(shape)


@lru_cache(maxsize=8)
def _quantiles(scale: float) -> Array:
    table = _standard_quantiles() * np.float32(scale)
    table.flags.writeable = False
    return table


@cache
def _standard_quantiles() -> Array:
    quantile = NormalDist().inv_cdf
    upper = np.array([quantile((level + 0.5) / _LEVELS) for level in range(_LEVELS // 2, _LEVELS)], dtype=np.float32)
    upper = np.minimum(upper, np.float32(NOISE_CLIP))
    return np.concatenate([-upper[::-1], upper])
