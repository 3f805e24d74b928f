"""SequenceReproduction: repeat a sequence after a delay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from plastic_envs.task import Array, Draws, EpisodeBatch, Task
from plastic_envs.validation import check_episode_size, whole_number


class SequenceReproduction(Task):
    """Repeat a sequence after a delay.

    ## Description

    In the support phase the agent observes a sequence of values, one per step. A delay follows, and then queries, at
    which the agent repeats the sequence in the same order. With a `delay_range`, each episode has a delay of its own,
    and begins with as many blank steps as its delay is shorter than `delay`, so that queries are at the same steps.

    ## Observation Space

    A `Box` of `value_size + 2` float32 values:

    | Num | Observation | Min | Max |
    |-----|-------------|-----|-----|
    | 0 to `value_size - 1` | value; 0 during the delay and at queries | -1 | 1 |
    | `value_size` | support flag: 1 in the support phase, else 0 | 0 | 1 |
    | `value_size + 1` | query flag: 1 at queries, else 0 | 0 | 1 |

    ## Action Space

    A `Box` of `value_size` float32 values in [-1, 1]: at query i, the i-th value of the sequence. It has no effect on
    later observations.

    ## Rewards

    At queries -(a - x)^2, where a is the action and x the value, uniform in [-1, 1], averaged over the `value_size`
    components; `Task.reward` computes it. At other steps 0.

    ## Episode End

    Terminates after `2 * length + delay` steps.

    ## Arguments

    | Parameter | Type | Default | Range | Description |
    |-----------|------|---------|-------|-------------|
    | `length` | int | 20 | >= 1 | number of values in the sequence; 5 to 40 in the paper |
    | `delay` | int | 20 | >= 0 | steps between the last value and the first query; 0 to 60 in the paper |
    | `delay_range` | int | 0 | 0 to `delay` | delays are uniform from `delay - delay_range` to `delay` |
    | `value_size` | int | 1 | >= 1 | number of components of a value |

    ## Oracle

    The oracle repeats the values that it observed, so its reward is 0. The memoryless policy answers 0, with a reward
    of -1/3 per query on average.

    ## Source

    Yu Duan, Zhongfan Jia, Qian Li, Yi Zhong and Kaisheng Ma: "Hebbian and Gradient-based Plasticity Enables Robust
    Memory and Rapid Learning in RNNs", ICLR 2023, [arXiv 2302.03235](https://arxiv.org/abs/2302.03235).

    ## Version History

    * v0: first version.
    """

    world = ("values",)

    def __init__(self, *, length: int = 20, delay: int = 20, delay_range: int = 0, value_size: int = 1) -> None:
        self.length = whole_number("length", length, at_least=1)
        self.delay = whole_number("delay", delay, at_least=0)
        self.delay_range = whole_number("delay_range", delay_range, at_least=0, at_most=self.delay)
        self.value_size = whole_number("value_size", value_size, at_least=1)

        self.episode_length = 2 * self.length + self.delay
        check_episode_size(
            self.episode_length * (self.value_size + 2),
            length=self.length,
            delay=self.delay,
            value_size=self.value_size,
        )
        self.query_start = self.length + self.delay
        self.channels = (("value", self.value_size), ("support", 1), ("query", 1))
        low = np.repeat(np.array([-1, 0, 0], dtype=np.float32), [size for _, size in self.channels])
        self.observation_space = spaces.Box(low, np.ones_like(low), dtype=np.float32)
        self.action_space = spaces.Box(-1, 1, shape=(self.value_size,), dtype=np.float32)

    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw the first step of the sequence [B]."""
        return {"first_step": rng.integers(self.delay_range, size=batch_size, endpoint=True)}

    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw the values [B, length, value_size]."""
        values = 2 * rng.random((self.length, batch_size, self.value_size), dtype=np.float32) - 1
        return {"values": values.swapaxes(0, 1)}

    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Compose a support phase, a delay and queries."""
        values = memoranda["values"].swapaxes(0, 1)
        steps, batch_size = self.episode_length, values.shape[1]
        observation = np.zeros((steps, batch_size, self.value_size + 2), dtype=np.float32)
        support = stimuli["first_step"] + np.arange(self.length)[:, None]
        lanes = np.arange(batch_size)
        observation[support, lanes, :-2] = values
        observation[support, lanes, -2] = 1
        observation[self.query_start :, :, -1] = 1
        target = np.zeros((steps, batch_size, self.value_size), dtype=np.float32)
        target[self.query_start :] = values
        return EpisodeBatch(
            observation=observation.swapaxes(0, 1),
            target=target.swapaxes(0, 1),
            scored=np.broadcast_to(np.arange(steps) >= self.query_start, (batch_size, steps)),
            latent={**stimuli, "values": memoranda["values"]},
        )

    def oracle(self, episode: EpisodeBatch) -> Array:
        """Return the observed values in order: float32 [B, T, value_size]."""
        actions = self.memoryless(episode)
        first_step = episode.observation[..., -2].argmax(axis=1)
        support = first_step[:, None] + np.arange(self.length)
        actions[:, self.query_start :] = episode.observation[np.arange(len(episode))[:, None], support, :-2]
        return actions

    def trial_oracle(self, episodes: Sequence[EpisodeBatch]) -> list[Array]:
        """Repeat the values of each episode, which leaves no error."""
        return [self.oracle(episode) for episode in episodes]

    def memoryless(self, episode: EpisodeBatch) -> Array:
        """Return zeros, the mean of the values: float32 [B, T, value_size]."""
        return np.zeros(episode.target.shape, dtype=np.float32)
