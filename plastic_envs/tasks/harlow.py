"""Harlow: find out which of two new objects gives reward, then stay with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from plastic_envs.task import Array, Draws, EpisodeBatch, Task
from plastic_envs.validation import check_episode_size, whole_number

LEFT, RIGHT = 0, 1
# Observation entries that hold the feedback on the agent's action, counted from the end.
_TRIAL_REWARD, _OUTCOME_FLAG, _LAST_ACTION = -3, -2, -1


class Harlow(Task):
    """Find out which of two new objects gives reward, then stay with it.

    ## Description

    Each episode has two new objects, of which one gives reward. At each trial the agent sees both, one on the left and
    one on the right in random order, and chooses a side. The first choice is a guess, and from its outcome the second
    choice can be right: animals that have solved many such problems have learned to learn. A trial has two steps, a
    choice step and an outcome step, which show the same objects.

    ## Observation Space

    A `Box` of `2 * object_size + 3` float32 values:

    | Num | Observation | Min | Max |
    |-----|-------------|-----|-----|
    | 0 to `object_size - 1` | object on the left | -1 | 1 |
    | `object_size` to `2 * object_size - 1` | object on the right | -1 | 1 |
    | `2 * object_size` | reward of the trial at outcome steps, 0 at choice steps | -1 | 1 |
    | `2 * object_size + 1` | outcome flag: 1 at outcome steps, else 0 | 0 | 1 |
    | `2 * object_size + 2` | last action at outcome steps: -1 left, 1 right; 0 at choice steps | -1 | 1 |

    Objects are uniform in [-1, 1]^`object_size`.

    ## Action Space

    `Discrete(2)`: 0 chooses the left object, 1 the right one. At outcome steps the action has no effect.

    ## Rewards

    At choice steps 1 if the chosen object is the one that gives reward, else -1. At outcome steps 0.

    ## Episode End

    Terminates after `2 * n_trials` steps.

    ## Arguments

    | Parameter | Type | Default | Range | Description |
    |-----------|------|---------|-------|-------------|
    | `object_size` | int | 8 | >= 1 | length of an object |
    | `n_trials` | int | 6 | >= 2 | number of trials in an episode |

    ## Oracle

    The oracle guesses at the first trial and makes no further mistake, so it has a reward of 1 - 1 / `n_trials` per
    trial on average. The memoryless policy chooses the left object: without memory, all policies get 0 on average.

    ## Source

    Harry Harlow: "The formation of learning sets", Psychological Review 56, 1949; as a task of meta-reinforcement
    learning, Jane Wang et al.: "Prefrontal cortex as a meta-reinforcement learning system", Nature Neuroscience 21,
    2018, with images in place of vectors.

    ## Version History

    * v0: first version.
    """

    interactive = True
    world = ("objects", "rewarded")
    action_names = ("left", "right")

    def __init__(self, *, object_size: int = 8, n_trials: int = 6) -> None:
        self.object_size = whole_number("object_size", object_size, at_least=1)
        self.n_trials = whole_number("n_trials", n_trials, at_least=2)

        self.episode_length = 2 * self.n_trials
        check_episode_size(
            self.episode_length * (2 * self.object_size + 3), n_trials=self.n_trials, object_size=self.object_size
        )
        self.query_start = 2 * (self.n_trials // 2)
        self.channels = (
            *(("left object", self.object_size), ("right object", self.object_size)),
            *(("outcome", 1), ("outcome step", 1), ("last action", 1)),
        )
        low = np.repeat(np.array([-1, -1, -1, 0, -1], dtype=np.float32), [size for _, size in self.channels])
        self.observation_space = spaces.Box(low, np.ones_like(low), dtype=np.float32)
        self.action_space = spaces.Discrete(2)

    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw objects [B, 2, object_size], and whether the first one is on the right in each trial [B, n_trials]."""
        return {
            "objects": 2 * rng.random((batch_size, 2, self.object_size), dtype=np.float32) - 1,
            "is_swapped": rng.integers(2, size=(batch_size, self.n_trials)),
        }

    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw which of the objects gives reward [B]."""
        return {"rewarded": rng.integers(2, size=batch_size)}

    def sample_yoked(self, rng: np.random.Generator, batch_size: int) -> tuple[EpisodeBatch, EpisodeBatch]:
        """Draw twins with the same objects, of which the other one gives reward.

        Raises:
            TypeError, ValueError: as `Task.sample_yoked`.
        """
        episode = self.sample(rng, batch_size)
        stimuli = {name: episode.latent[name] for name in ("objects", "is_swapped")}
        return episode, self.compose(stimuli, {"rewarded": 1 - episode.latent["rewarded"]})

    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Compose trials of two views of both objects; `write_feedback` adds the outcomes of actions."""
        swapped = np.repeat(stimuli["is_swapped"].T, 2, axis=0)
        steps, batch_size = swapped.shape
        lanes = np.arange(batch_size)
        observation = np.zeros((steps, batch_size, 2 * self.object_size + 3), dtype=np.float32)
        observation[..., : self.object_size] = stimuli["objects"][lanes, swapped]
        observation[..., self.object_size : 2 * self.object_size] = stimuli["objects"][lanes, 1 - swapped]
        observation[1::2, :, _OUTCOME_FLAG] = 1

        is_choice = np.arange(steps) % 2 == 0
        right_side = swapped ^ memoranda["rewarded"]
        gives_reward = right_side[..., None] == np.arange(2)
        return EpisodeBatch(
            observation=observation.swapaxes(0, 1),
            target=(right_side * is_choice[:, None]).T,
            scored=np.broadcast_to(is_choice, (batch_size, steps)),
            stake=np.where(gives_reward, np.float32(1), np.float32(-1)).swapaxes(0, 1),
            latent={**stimuli, **memoranda},
        )

    def reward(self, action: Any, target: Any, stake: Any) -> Any:
        """Return the stake of the action."""
        return stake

    @property
    def reward_range(self) -> tuple[float, float]:
        """Rewards are -1 or 1."""
        return -1.0, 1.0

    def write_feedback(self, observation: Array, action: Any, reward: Any, scored: Any) -> None:
        """Write the last reward and action into observations of outcome steps; both are 0 at choice steps."""
        observation[..., _TRIAL_REWARD] = reward
        observation[..., _LAST_ACTION] = (2 * action - 1) * scored

    def oracle(self, episode: EpisodeBatch) -> Array:
        """Choose the left object at the first trial, and then the one that its outcome names: int64 [B, T]."""
        left = episode.observation[:, ::2, : self.object_size]
        first_is_on_left = (left == left[:, :1]).all(axis=-1)
        first_gives_reward = episode.stake[:, :1, LEFT] > 0
        actions = np.full(episode.target.shape, LEFT, dtype=np.int64)
        actions[:, 2::2] = np.where(first_is_on_left == first_gives_reward, LEFT, RIGHT)[:, 1:]
        return actions

    def trial_oracle(self, episodes: Sequence[EpisodeBatch]) -> list[Array]:
        """Guess once, at the first trial of the first episode."""
        return np.split(self.oracle(EpisodeBatch.join(episodes, axis=1)), len(episodes), axis=1)

    def memoryless(self, episode: EpisodeBatch) -> Array:
        """Return `LEFT` at every step: int64 [B, T]."""
        return np.full(episode.target.shape, LEFT, dtype=np.int64)
