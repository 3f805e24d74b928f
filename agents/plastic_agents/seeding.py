"""The random streams of training, validation and test.

Each stream has its own name and number, so no two streams share draws, whatever their seeds. In particular, no
held-out episode is also a training episode, and no test episode is also a validation episode.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Literal, get_args

import numpy as np
import torch

from plastic_envs.validation import one_of

HeldOutSplit = Literal["validation", "test"]
"""The held-out episodes: choices of settings use validation episodes; test episodes are for final figures only."""
HELD_OUT_SPLITS: tuple[str, ...] = get_args(HeldOutSplit)


class Stream(IntEnum):
    """The random streams, by purpose."""

    TRAINING = 0
    """Episodes of a training step, or all draws of the rollout that starts at a step; key: the step."""
    VALIDATION = 1
    """Episodes of evaluations during training, by whose scores settings are chosen."""
    PRETRAINING = 2
    """Images for the pretraining of an encoder."""
    DROPOUT = 3
    """Dropout in a training step; key: the step and the process's rank."""
    TEST = 4
    """Episodes of final figures and probes, which no choice of settings uses."""
    SEARCH = 5
    """Settings that a sweep draws from a search space."""


def stream_rng(stream: Stream, seed: int, *key: int) -> np.random.Generator:
    """Return the generator of a stream; ``key`` selects an independent substream."""
    return np.random.default_rng(_sequence(stream, seed, key))


def stream_seed(stream: Stream, seed: int, *key: int) -> int:
    """Return a 32-bit seed of a stream, for the generators of other libraries; ``key`` as for `stream_rng`."""
    return int(_sequence(stream, seed, key).generate_state(1)[0])


def held_out_rng(seed: int, split: HeldOutSplit = "test") -> np.random.Generator:
    """Return the generator of validation or test episodes, which are training episodes of no run, whatever its seed.

    Raises:
        TypeError, ValueError: ``split`` is neither "validation" nor "test".
    """
    is_test = one_of("split", split, HELD_OUT_SPLITS) == "test"
    return stream_rng(Stream.TEST if is_test else Stream.VALIDATION, seed)


@contextmanager
def preserved_generators() -> Iterator[None]:
    """Restore the global generators of Python, NumPy and PyTorch, which Stable-Baselines3 seeds, at the end."""
    # Stable-Baselines3 seeds NumPy's global generator (NPY002), so that one has to be restored.
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _sequence(stream: Stream, seed: int, key: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence(seed, spawn_key=(int(stream), *key))
