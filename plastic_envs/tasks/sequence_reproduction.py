"""SequenceReproduction: listen, wait, repeat."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from plastic_envs.task import Array, Draws, EpisodeBatch, Task
from plastic_envs.validation import check_episode_size, whole_number


class SequenceReproduction(Task):
    """Repeat a sequence after a delay.

    ## Description

    A sequence of values is shown, a delay passes, and the player repeats the sequence in the same order.

    ## Observation Space

    A `Box` of `value_size + 2` float32 values:

    | Num | Observation | Min | Max |
    |-----|-------------|-----|-----|
    | 0 to `value_size - 1` | value; 0 during delay and recall | -1 | 1 |
    | `value_size` | sample flag: 1 while the sequence is shown, else 0 | 0 | 1 |
    | `value_size + 1` | recall flag: 1 while the sequence is to be repeated, else 0 | 0 | 1 |

    ## Action Space

    A `Box` of `value_size` float32 values in [-1, 1]: at recall steps, the value whose turn it is.

    ## Rewards

    At recall steps -(a - x)^2, where a is the action and x the value, uniform in [-1, 1]; the mean over the
    `value_size` components. At other steps 0.

    ## Episode End

    Terminates after `2 * length + delay` steps.

    ## Arguments

    | Parameter | Type | Default | Range | Description |
    |-----------|------|---------|-------|-------------|
    | `length` | int | 20 | >= 1 | values in the sequence; the paper has 5 to 40 |
    | `delay` | int | 20 | >= 0 | steps between the last value and recall; the paper has 0 to 60 |
    | `value_size` | int | 1 | >= 1 | components of a value |

    ## Oracle

    Repeats what it saw, without error: 0. The memoryless answer is 0, and costs 1/3 per step on average.

    ## Source

    Yu Duan, Zhongfan Jia, Qian Li, Yi Zhong and Kaisheng Ma: "Hebbian and Gradient-based Plasticity Enables Robust
    Memory and Rapid Learning in RNNs", ICLR 2023, [arXiv 2302.03235](https://arxiv.org/abs/2302.03235).

    ## Version History

    * v0: first version.
    """

    def __init__(self, *, length: int = 20, delay: int = 20, value_size: int = 1) -> None:
        self.length = whole_number("length", length, at_least=1)
        self.delay = whole_number("delay", delay, at_least=0)
        self.value_size = whole_number("value_size", value_size, at_least=1)

        self.episode_length = 2 * self.length + self.delay
        check_episode_size(
            self.episode_length * (self.value_size + 2),
            length=self.length,
            delay=self.delay,
            value_size=self.value_size,
        )
        self.query_start = self.length + self.delay
        self.channels = (("value", self.value_size), ("sample", 1), ("recall", 1))
        low = np.repeat(np.array([-1, 0, 0], dtype=np.float32), [size for _, size in self.channels])
        self.observation_space = spaces.Box(low, np.ones_like(low), dtype=np.float32)
        self.action_space = spaces.Box(-1, 1, shape=(self.value_size,), dtype=np.float32)

    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Nothing: all that is shown has to be remembered."""
        return {}

    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """The values [B, length, value_size]."""
        values = 2 * rng.random((self.length, batch_size, self.value_size), dtype=np.float32) - 1
        return {"values": values.swapaxes(0, 1)}

    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Show the values, wait, and ask for them."""
        values = memoranda["values"].swapaxes(0, 1)
        steps, batch_size = self.episode_length, values.shape[1]
        observation = np.zeros((steps, batch_size, self.value_size + 2), dtype=np.float32)
        observation[: self.length, :, :-2] = values
        observation[: self.length, :, -2] = 1
        observation[self.query_start :, :, -1] = 1
        target = np.zeros((steps, batch_size, self.value_size), dtype=np.float32)
        target[self.query_start :] = values
        return EpisodeBatch(
            observation=observation.swapaxes(0, 1),
            target=target.swapaxes(0, 1),
            scored=np.broadcast_to(np.arange(steps) >= self.query_start, (batch_size, steps)),
            latent={"values": memoranda["values"]},
        )

    def oracle(self, episode: EpisodeBatch) -> Array:
        """Repeat what was shown. float32 [B, T, value_size]."""
        actions = self.memoryless(episode)
        actions[:, self.query_start :] = episode.observation[:, : self.length, :-2]
        return actions

    def memoryless(self, episode: EpisodeBatch) -> Array:
        """Zeros, the mean of the values. float32 [B, T, value_size]."""
        return np.zeros(episode.target.shape, dtype=np.float32)
