"""Where environments get their episodes from."""

from __future__ import annotations

import numpy as np

from plastic_envs.task import Array, Episode, Task

# Sampling costs the same few dozen calls for one episode as for this many; but long episodes take memory and time.
EPISODES_AT_ONCE = 128
STEPS_AT_ONCE = 2**14


class EpisodeStream:
    """Deals out batches of `lanes` episodes from blocks that are sampled ahead.

    Single environments (one lane) and vector environments deal from the same kind of stream, so that both see the same
    episodes under the same seed. A block belongs to the generator it was drawn with: with another one, as after
    seeding, the rest of it is dropped.
    """

    def __init__(self, task: Task, lanes: int) -> None:
        self._task = task
        self._lanes = lanes
        self._batches = episodes_ahead(task, lanes) // lanes
        self._next = self._batches
        self._block: Episode | None = None
        self._generator: np.random.Generator | None = None

    def deal(self, rng: np.random.Generator) -> tuple[Episode, int]:
        """Return a block and the index in it of the first of `lanes` episodes that nobody has played."""
        if self._block is None or rng is not self._generator or self._next == self._batches:
            self._block = self._task.sample(rng, self._batches * self._lanes)
            self._generator = rng
            self._next = 0
        start = self._next * self._lanes
        self._next += 1
        return self._block, start


def episodes_ahead(task: Task, lanes: int) -> int:
    """How many episodes a block holds: as many for each lane, and one at least."""
    episodes = min(EPISODES_AT_ONCE, STEPS_AT_ONCE // task.episode_length)
    return lanes * max(1, episodes // lanes)


def reference_scores(task: Task, episode: Episode) -> tuple[Array, Array]:
    """Mean reward per scored step of the oracle and of the memoryless policy, each float64 [B]."""
    return task.score(episode, task.oracle(episode)), task.score(episode, task.memoryless(episode))
