"""Episodes that are sampled ahead for environments, and the reference scores on them."""

from __future__ import annotations

import numpy as np

from plastic_envs.task import Array, EpisodeBatch, Task

# Sampling costs the same few dozen calls for one episode as for this many; but long and large episodes take memory and
# time. The same seed gives other episodes if these numbers change.
EPISODES_AT_ONCE = 128
STEPS_AT_ONCE = 2**14
BYTES_AT_ONCE = 2**24

# Oracles compare steps with steps, or invert matrices as large as an observation. They get so many episodes at once,
# and at least one, that all these comparisons or matrices together have at most this many entries.
_ENTRIES_AT_ONCE = 2**20


class EpisodeStream:
    """Deals out batches of `lanes` episodes from blocks that are sampled ahead.

    Single environments (one lane) and vector environments deal from the same kind of stream, so that both see the same
    episodes under the same seed. A block belongs to the generator it was drawn with: with another one, as after
    seeding, the rest of it is dropped.
    """

    def __init__(self, task: Task, lanes: int) -> None:
        self._task = task
        self._lanes = lanes
        self._batches = 0
        self._next = 0
        self._block: EpisodeBatch | None = None
        self._generator: np.random.Generator | None = None

    def deal(self, rng: np.random.Generator) -> tuple[EpisodeBatch, int]:
        """Return a block and the index in it of the first of `lanes` episodes that nobody has played."""
        if self._block is None:
            self._batches = episodes_ahead(self._task, self._lanes) // self._lanes
        if self._block is None or rng is not self._generator or self._next == self._batches:
            self._block = self._task.sample(rng, self._batches * self._lanes)
            self._generator = rng
            self._next = 0
        start = self._next * self._lanes
        self._next += 1
        return self._block, start


def episodes_ahead(task: Task, lanes: int) -> int:
    """How many episodes a block holds: as many for each lane, and one at least."""
    # Measured, as tasks may draw more than they show.
    size = task.sample(np.random.default_rng(0), 1).nbytes
    episodes = min(EPISODES_AT_ONCE, STEPS_AT_ONCE // task.episode_length, BYTES_AT_ONCE // size)
    return lanes * max(1, episodes // lanes)


class ReferenceScores:
    """Scores of the oracle and of the memoryless policy on the episodes of a block, computed on request.

    Short episodes are scored ahead, as many of them cost little more than one; long ones only after they were played.
    """

    def __init__(self, task: Task, block: EpisodeBatch) -> None:
        self._task = task
        self._block = block
        self._known = range(0)
        self._scores: tuple[Array, Array] = (np.empty(0), np.empty(0))

    def of(self, index: int) -> tuple[float, float]:
        """Mean reward per scored step of the oracle and of the memoryless policy on the episode with this index."""
        if index not in self._known:
            self._known = range(index, min(index + _episodes_scored_at_once(self._task, self._block), len(self._block)))
            self._scores = reference_scores(self._task, self._block[index : self._known.stop])
        oracle, memoryless = (scores[index - self._known.start] for scores in self._scores)
        return float(oracle), float(memoryless)


def reference_scores(task: Task, episode: EpisodeBatch) -> tuple[Array, Array]:
    """Mean reward per scored step of the oracle and of the memoryless policy, each float64 [B].

    They are computed for some episodes at a time, so that the memory that oracles need does not grow with the batch.
    """
    size = _episodes_scored_at_once(task, episode)
    parts = [episode]
    if size < len(episode):
        parts = [episode[start : start + size] for start in range(0, len(episode), size)]
    oracle, memoryless = (
        np.concatenate([task.score(part, policy(part)) for part in parts]) for policy in (task.oracle, task.memoryless)
    )
    return oracle, memoryless


def _episodes_scored_at_once(task: Task, episode: EpisodeBatch) -> int:
    size: int = max(task.episode_length, episode.observation.shape[-1])
    return max(1, _ENTRIES_AT_ONCE // size**2)
