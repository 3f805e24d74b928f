"""The random streams of training and evaluation.

Each stream has its own name and number, so no two streams share draws, whatever their seeds. In particular, no
held-out episode is also a training episode.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The random streams, by purpose."""

    TRAINING = 0
    """Episodes of a training step, or all draws of the rollout that starts at a step; key: the step."""
    HELD_OUT = 1
    """Episodes of evaluations and probes."""
    PRETRAINING = 2
    """Images for the pretraining of an encoder."""
    DROPOUT = 3
    """Dropout in a training step; key: the step and the process's rank."""


def stream_rng(stream: Stream, seed: int, *key: int) -> np.random.Generator:
    """Return the generator of a stream; ``key`` selects an independent substream."""
    return np.random.default_rng(_sequence(stream, seed, key))


def stream_seed(stream: Stream, seed: int, *key: int) -> int:
    """Return a 32-bit seed of a stream, for the generators of other libraries; ``key`` as for `stream_rng`."""
    return int(_sequence(stream, seed, key).generate_state(1)[0])


def held_out_rng(seed: int) -> np.random.Generator:
    """Return the generator of held-out episodes, which are training episodes of no run, whatever its seed."""
    return stream_rng(Stream.HELD_OUT, seed)


def _sequence(stream: Stream, seed: int, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(int(stream), *key))
