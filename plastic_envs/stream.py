"""Sampling of episodes ahead of play, and reference scores on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plastic_envs.task import Array, EpisodeBatch, Task

# Upper bounds of a block. Sampling makes the same number of numpy calls for one episode as for many, but long and large
# episodes cost memory and time. Changing these numbers changes the episodes of every seed.
EPISODES_AT_ONCE = 128
STEPS_AT_ONCE = 2**14
BYTES_AT_ONCE = 2**24

# Upper bound of the entries of an oracle's largest array, unless one episode exceeds it.
_ENTRIES_AT_ONCE = 2**20


class EpisodeStream:
    """Batches of `lanes` episodes from blocks that are sampled ahead.

    Single environments and vector environments use the same class, so that a vector environment of one lane has the
    same episodes as a single one with the same seed. A new generator, such as after seeding, discards the rest of the
    block.
    """

    def __init__(self, task: Task, lanes: int) -> None:
        self._task = task
        self._lanes = lanes
        self._n_batches = 0
        self._next_batch = 0
        self._block: EpisodeBatch | None = None
        self._generator: np.random.Generator | None = None

    def deal(self, rng: np.random.Generator) -> tuple[EpisodeBatch, int]:
        """Return a block, and the index in it of the first of the next `lanes` episodes."""
        if self._block is None:
            self._n_batches = episodes_ahead(self._task, self._lanes) // self._lanes
        if self._block is None or rng is not self._generator or self._next_batch == self._n_batches:
            self._block = self._task.sample(rng, self._n_batches * self._lanes)
            self._generator = rng
            self._next_batch = 0
        start = self._next_batch * self._lanes
        self._next_batch += 1
        return self._block, start


def episodes_ahead(task: Task, lanes: int) -> int:
    """Return the number of episodes of a block: the same number for each lane, at least one."""
    # Measured, because a task can draw more than it shows.
    size = task.sample(np.random.default_rng(0), 1).nbytes
    episodes = min(EPISODES_AT_ONCE, STEPS_AT_ONCE // task.episode_length, BYTES_AT_ONCE // size)
    return lanes * max(1, episodes // lanes)


class ReferenceScores:
    """Scores of the oracle and of the memoryless policy on the episodes of a block, computed on demand.

    Short episodes are scored many at once, which costs little more than scoring one. Long episodes are scored singly.
    """

    def __init__(self, task: Task, block: EpisodeBatch) -> None:
        self._task = task
        self.block = block
        self._scored = range(0)
        self._scores: tuple[Array, Array] = (np.empty(0), np.empty(0))

    def of(self, index: int) -> tuple[float, float]:
        """Return the mean reward per scored step of the oracle and of the memoryless policy on one episode."""
        if index not in self._scored:
            stop = min(index + _episodes_scored_at_once(self._task, self.block), len(self.block))
            self._scored = range(index, stop)
            self._scores = reference_scores(self._task, self.block[index:stop])
        oracle, memoryless = (scores[index - self._scored.start] for scores in self._scores)
        return float(oracle), float(memoryless)


def reference_scores(task: Task, episode: EpisodeBatch) -> tuple[Array, Array]:
    """Return the mean reward per scored step of the oracle and of the memoryless policy, each float64 [B].

    Chunks of the batch are scored one after another, so that the memory of the oracle does not grow with the batch.
    """
    size = _episodes_scored_at_once(task, episode)
    chunks = [episode]
    if size < len(episode):
        chunks = [episode[start : start + size] for start in range(0, len(episode), size)]
    oracle, memoryless = (
        np.concatenate([task.score(chunk, policy(chunk)) for chunk in chunks])
        for policy in (task.oracle, task.memoryless)
    )
    return oracle, memoryless


def trial_returns(task: Task, episodes: Sequence[EpisodeBatch]) -> tuple[Array, Array]:
    """Return the returns of `Task.trial_oracle` and of the memoryless policy in N episodes, each float64 [B, N].

    Chunks of the batch are scored one after another, as `reference_scores` does.
    """
    # The oracle compares the steps of all episodes.
    size = max(1, _ENTRIES_AT_ONCE // (task.oracle_entries(episodes[0]) * len(episodes) ** 2))
    oracle, memoryless = (np.empty((len(episodes[0]), len(episodes))) for _ in range(2))
    for start in range(0, len(oracle), size):
        lanes = slice(start, start + size)
        chunks = [episode[lanes] for episode in episodes]
        for returns, actions in (
            (oracle, task.trial_oracle(chunks)),
            (memoryless, [task.memoryless(chunk) for chunk in chunks]),
        ):
            for index, chunk in enumerate(chunks):
                # A sum along the last axis of a C array rounds each lane alike, whatever the size of the batch.
                returns[lanes, index] = np.ascontiguousarray(task.rewards(chunk, actions[index])).sum(axis=1)
    return oracle, memoryless


def _episodes_scored_at_once(task: Task, episode: EpisodeBatch) -> int:
    return max(1, _ENTRIES_AT_ONCE // task.oracle_entries(episode))
