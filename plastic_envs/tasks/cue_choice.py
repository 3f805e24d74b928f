"""CueChoice: find out by trying which cues are worth approaching."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from plastic_envs.noise import LARGEST_NOISE, REACH, normal_noise
from plastic_envs.task import Array, Draws, EpisodeBatch, Task
from plastic_envs.tasks.cue_posterior import recognise
from plastic_envs.validation import check_episode_size, real_number, whole_number

AVOID, APPROACH = 0, 1
# Where, counted from the end, an observation holds what the player's own action led to.
_OUTCOME, _OUTCOME_FLAG, _LAST_ACTION = -3, -2, -1


class CueChoice(Task):
    """Find out by trying which cues are worth approaching.

    ## Description

    The reward-only sibling of CueReward. Cues with values of their own, good or bad, are new in every episode, and
    nothing is told: the player approaches a cue, and gets its value, or avoids it, and gets and learns nothing. A trial
    is two steps, a choice and its outcome, and shows one cue drawn at random, with noise.

    ## Observation Space

    A `Box` of `cue_size + 3` float32 values:

    | Num | Observation | Min | Max |
    |-----|-------------|-----|-----|
    | 0 to `cue_size - 1` | cue, with noise | -1 - 4 `noise` | 1 + 4 `noise` |
    | `cue_size` | outcome of this trial: the value if approached, else 0; 0 at choice steps | -1 | 1 |
    | `cue_size + 1` | outcome flag: 1 at outcome steps, else 0 | 0 | 1 |
    | `cue_size + 2` | last action, at outcome steps: 1 if approached, -1 if avoided; 0 at choice steps | -1 | 1 |

    Cues are uniform in [-1, 1]^`cue_size`. Noise is Gaussian, drawn anew at each step, and clipped at four standard
    deviations.

    ## Action Space

    `Discrete(2)`: 0 avoids, 1 approaches. At outcome steps the action has no effect.

    ## Rewards

    At choice steps the value of the cue, uniform in [-1, 1], if it is approached, and 0 if it is avoided. At outcome
    steps 0.

    ## Episode End

    Terminates after `2 * n_trials` steps.

    ## Arguments

    | Parameter | Type | Default | Range | Description |
    |-----------|------|---------|-------|-------------|
    | `n_cues` | int | 4 | >= 1 | number of cues of an episode |
    | `cue_size` | int | 8 | >= 1 | length of a cue |
    | `noise` | float | 0.1 | 0 to 1000 | standard deviation of the noise on cues |
    | `n_trials` | int | 12 | >= 1 | trials of an episode |

    ## Oracle

    Approaches a cue that is more likely new than known (that costs nothing on average and is worth knowing), and else
    approaches it if the value expected of it is positive. Cues are recognised by Bayes' rule, as things that lie in
    [-1, 1]^`cue_size`, from the views of them in trials that were approached. While recognition is certain, as with the
    default noise, no player is better. Under heavy noise the rule is an approximation: it weighs neither what another
    look would tell nor how many trials are left to use it. The memoryless player avoids everything: without memory all
    choices are worth 0 on average.

    ## Source

    Made for this package after the cue-reward task of Yu Duan, Zhongfan Jia, Qian Li, Yi Zhong and Kaisheng Ma:
    "Hebbian and Gradient-based Plasticity Enables Robust Memory and Rapid Learning in RNNs", ICLR 2023,
    [arXiv 2302.03235](https://arxiv.org/abs/2302.03235).

    ## Version History

    * v0: first version.
    """

    interactive = True
    action_names = ("avoid", "approach")

    def __init__(self, *, n_cues: int = 4, cue_size: int = 8, noise: float = 0.1, n_trials: int = 12) -> None:
        self.n_cues = whole_number("n_cues", n_cues, at_least=1)
        self.cue_size = whole_number("cue_size", cue_size, at_least=1)
        self.noise = real_number("noise", noise, at_least=0, at_most=LARGEST_NOISE)
        self.n_trials = whole_number("n_trials", n_trials, at_least=1)

        self.episode_length = 2 * self.n_trials
        check_episode_size(
            self.episode_length * (self.cue_size + 3) + self.n_cues * self.cue_size,
            n_trials=self.n_trials,
            cue_size=self.cue_size,
            n_cues=self.n_cues,
        )
        self.query_start = 2 * (self.n_trials // 2)
        self.channels = (("cue", self.cue_size), ("outcome", 1), ("outcome step", 1), ("last action", 1))
        # In float32 throughout, so that cue plus clipped noise cannot round beyond the bound.
        bound = np.float32(1) + np.float32(REACH) * np.float32(self.noise)
        sizes = [size for _, size in self.channels]
        low = np.repeat(np.array([-bound, -1, 0, -1], dtype=np.float32), sizes)
        high = np.repeat(np.array([bound, 1, 1, 1], dtype=np.float32), sizes)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)

    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Cues [B, n_cues, cue_size], which of them each trial shows [B, n_trials], and noise [B, T, cue_size]."""
        noise = normal_noise(rng, (self.episode_length, batch_size, self.cue_size), self.noise)
        return {
            "cues": 2 * rng.random((batch_size, self.n_cues, self.cue_size), dtype=np.float32) - 1,
            "trials": rng.integers(self.n_cues, size=(self.n_trials, batch_size)).T,
            "noise": noise.swapaxes(0, 1),
        }

    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Values of the cues [B, n_cues]."""
        return {"values": 2 * rng.random((batch_size, self.n_cues), dtype=np.float32) - 1}

    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Show the cues twice per trial; what an action leads to is left to `respond`."""
        cues, values = stimuli["cues"], memoranda["values"]
        item = np.repeat(stimuli["trials"].T, 2, axis=0)
        steps, batch_size = item.shape
        row = item + self.n_cues * np.arange(batch_size)
        stake = values.reshape(-1).take(row)

        observation = np.zeros((steps, batch_size, self.cue_size + 3), dtype=np.float32)
        noise = stimuli["noise"].swapaxes(0, 1)
        np.add(cues.reshape(-1, self.cue_size).take(row, axis=0), noise, out=observation[..., : self.cue_size])
        observation[1::2, :, _OUTCOME_FLAG] = 1

        choice = np.arange(steps) % 2 == 0
        return EpisodeBatch(
            observation=observation.swapaxes(0, 1),
            target=((stake > 0) & choice[:, None]).astype(np.int64).T,
            scored=np.broadcast_to(choice, (batch_size, steps)),
            stake=stake.T,
            item=item.T,
            latent={"cues": cues, "values": values},
        )

    def reward(self, action: Any, target: Any, stake: Any) -> Any:
        """The cue's value if it is approached, else 0."""
        # 0 times a negative value is -0.0, which the addition turns into 0.0.
        return stake * (action == APPROACH) + 0.0

    @property
    def reward_range(self) -> tuple[float, float]:
        """Values lie in [-1, 1]."""
        return -1.0, 1.0

    def write_feedback(self, observation: Array, action: Any, reward: Any, scored: Any) -> None:
        """Show at an outcome step what was earned and done; at choice steps both are 0."""
        observation[..., _OUTCOME] = reward
        observation[..., _LAST_ACTION] = (2 * action - 1) * scored

    def oracle(self, episode: EpisodeBatch) -> Array:
        """Play the episodes: approach what is new, then what is good. int64 [B, T]."""
        cue = episode.observation[..., : self.cue_size]
        stake = episode.stake[:, ::2]
        batch = np.arange(len(episode))
        # One slot for each cue that has been approached: sum and number of its views, and its value.
        views = np.zeros((len(episode), self.n_trials, self.cue_size), dtype=np.float32)
        count = np.zeros((len(episode), self.n_trials), dtype=np.float32)
        value = np.zeros((len(episode), self.n_trials), dtype=np.float32)
        known = np.zeros(len(episode), dtype=np.int64)
        actions = np.zeros(episode.target.shape, dtype=np.int64)
        for trial in range(self.n_trials):
            step = 2 * trial
            used = slice(0, max(int(known.max()), 1))
            number = np.maximum(count[:, used], 1)
            mean = views[:, used] / number[:, :, None]
            taken = (count[:, used] > 0).astype(np.float32)
            left = (self.n_cues - known).astype(np.float32)
            weights, novelty = recognise(cue[:, step : step + 1], mean, number, taken, left, self.noise, cube=(-1, 1))
            weight, new = weights[:, :, 0].T, novelty[:, 0]
            expected = (weight * value[:, used]).sum(axis=1)
            approach = (expected > 0) | (new > weight.sum(axis=1))
            actions[:, step] = approach
            # What is earned tells exactly which cue it was: values are real numbers shown without noise.
            same = (value[:, used] == stake[:, trial, None]) & (count[:, used] > 0)
            slot = np.where(same.any(axis=1), same.argmax(axis=1), known)[approach]
            rows = batch[approach]
            known += approach & ~same.any(axis=1)
            value[rows, slot] = stake[rows, trial]
            views[rows, slot] += cue[rows, step] + cue[rows, step + 1]
            count[rows, slot] += 2
        return actions

    def memoryless(self, episode: EpisodeBatch) -> Array:
        """Avoid everything. int64 [B, T]."""
        return np.full(episode.target.shape, AVOID, dtype=np.int64)
