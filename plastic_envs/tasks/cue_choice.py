"""CueChoice: learn by trial and error which cues to approach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from plastic_envs.noise import LARGEST_NOISE, NOISE_CLIP, normal_noise
from plastic_envs.task import Array, Draws, EpisodeBatch, Task
from plastic_envs.tasks.cue_posterior import identity_posterior, name_of_oracle
from plastic_envs.validation import check_episode_size, real_number, whole_number

AVOID, APPROACH = 0, 1
# The least and the largest component of a cue.
_BOUNDS = (-1.0, 1.0)
# Observation entries that hold the feedback on the agent's action, counted from the end.
_TRIAL_REWARD, _OUTCOME_FLAG, _LAST_ACTION = -3, -2, -1


class CueChoice(Task):
    """Learn by trial and error which cues to approach.

    ## Description

    A version of CueReward in which the agent learns from its own rewards only. Each episode has new cues, and each cue
    has a positive or negative value. The agent either approaches a cue and gets its value as the reward, or avoids it
    and gets no reward and no information. A trial has two steps, a choice step and an outcome step, which show the same
    cue, drawn at random with replacement. There is no support phase: the agent collects its information itself.

    ## Observation Space

    A `Box` of `cue_size + 3` float32 values:

    | Num | Observation | Min | Max |
    |-----|-------------|-----|-----|
    | 0 to `cue_size - 1` | cue plus noise | -1 - 4 `noise` | 1 + 4 `noise` |
    | `cue_size` | reward of the trial: at outcome steps the value if approached, else 0; at choice steps 0 | -1 | 1 |
    | `cue_size + 1` | outcome flag: 1 at outcome steps, else 0 | 0 | 1 |
    | `cue_size + 2` | last action at outcome steps: 1 if approached, -1 if avoided; 0 at choice steps | -1 | 1 |

    Cues are uniform in [-1, 1]^`cue_size`. Noise is Gaussian, independent for each step, and clipped at four standard
    deviations.

    ## Action Space

    `Discrete(2)`: 0 avoids, 1 approaches. At outcome steps the action has no effect.

    ## Rewards

    At choice steps the value of the cue, uniform in [-1, 1], if the agent approaches it, and 0 if the agent avoids it;
    see the method `reward`. At outcome steps 0.

    ## Episode End

    Terminates after `2 * n_trials` steps.

    ## Arguments

    | Parameter | Type | Default | Range | Description |
    |-----------|------|---------|-------|-------------|
    | `n_cues` | int | 4 | >= 1 | number of cues in an episode |
    | `cue_size` | int | 8 | >= 1 | length of a cue |
    | `noise` | float | 0.1 | 0 to 1000 | standard deviation of the noise on cues |
    | `n_trials` | int | 12 | >= 1 | number of trials in an episode |

    ## Oracle

    The oracle approaches a cue if it is more likely novel than known: this costs nothing on average and yields
    information. Otherwise it approaches the cue if its expected value is positive. It identifies cues by Bayes' rule
    from its views of them in the trials in which it approached, given that cues are uniform in [-1, 1]^`cue_size`. No
    policy is better as long as cues are nearly always told apart, as by default. If two of them may be alike, with a
    probability above 0.001, the oracle is an approximation, and `oracle_name` is "reference": it ignores the
    information in further views and the number of remaining trials. The memoryless policy avoids every cue: without
    memory, all policies get 0 on average. The choice steps are scored, 12 of an episode by default, in which the oracle
    gets 2.03 on average.

    ## Source

    Designed for this package, after the cue-reward task of Yu Duan, Zhongfan Jia, Qian Li, Yi Zhong and Kaisheng Ma:
    "Hebbian and Gradient-based Plasticity Enables Robust Memory and Rapid Learning in RNNs", ICLR 2023,
    [arXiv 2302.03235](https://arxiv.org/abs/2302.03235).

    ## Version History

    * v0: first version.
    """

    interactive = True
    world = ("cues", "values")
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
        # Computed in float32, so that a cue plus clipped noise cannot round beyond the bound.
        bound = np.float32(1) + np.float32(NOISE_CLIP) * np.float32(self.noise)
        sizes = [size for _, size in self.channels]
        low = np.repeat(np.array([-bound, -1, 0, -1], dtype=np.float32), sizes)
        high = np.repeat(np.array([bound, 1, 1, 1], dtype=np.float32), sizes)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Discrete(2)

    @property
    def oracle_name(self) -> str:  # type: ignore[override]  # an attribute of other tasks
        """The name is "oracle" if the identities of cues are practically certain, else "reference"."""
        return name_of_oracle(self.cue_size, self.noise, _BOUNDS)

    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw cues [B, n_cues, cue_size], the cue of each trial [B, n_trials], and noise [B, T, cue_size]."""
        noise = normal_noise(rng, (self.episode_length, batch_size, self.cue_size), self.noise)
        return {
            "cues": 2 * rng.random((batch_size, self.n_cues, self.cue_size), dtype=np.float32) - 1,
            "trials": rng.integers(self.n_cues, size=(self.n_trials, batch_size)).T,
            "noise": noise.swapaxes(0, 1),
        }

    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw the values of the cues [B, n_cues]."""
        return {"values": 2 * rng.random((batch_size, self.n_cues), dtype=np.float32) - 1}

    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Compose trials of two views of a cue; `write_feedback` adds the outcomes of actions."""
        cues, values = stimuli["cues"], memoranda["values"]
        item = np.repeat(stimuli["trials"].T, 2, axis=0)
        steps, batch_size = item.shape
        cue_index = item + self.n_cues * np.arange(batch_size)
        stake = values.reshape(-1).take(cue_index)

        observation = np.zeros((steps, batch_size, self.cue_size + 3), dtype=np.float32)
        noise = stimuli["noise"].swapaxes(0, 1)
        np.add(cues.reshape(-1, self.cue_size).take(cue_index, axis=0), noise, out=observation[..., : self.cue_size])
        observation[1::2, :, _OUTCOME_FLAG] = 1

        is_choice = np.arange(steps) % 2 == 0
        return EpisodeBatch(
            observation=observation.swapaxes(0, 1),
            target=((stake > 0) & is_choice[:, None]).astype(np.int64).T,
            scored=np.broadcast_to(is_choice, (batch_size, steps)),
            stake=stake.T,
            item=item.T,
            latent={"cues": cues, "values": values},
        )

    def reward(self, action: Any, target: Any, stake: Any) -> Any:
        """Return the cue's value, which is its `stake`, if the action approaches it, else 0."""
        # 0 times a negative value is -0.0, which the addition turns into 0.0.
        return stake * (action == APPROACH) + 0.0

    @property
    def reward_range(self) -> tuple[float, float]:
        """The range of values, [-1, 1]."""
        return -1.0, 1.0

    def write_feedback(self, observation: Array, action: Any, reward: Any, scored: Any) -> None:
        """Write the last reward and action into observations of outcome steps; both are 0 at choice steps."""
        observation[..., _TRIAL_REWARD] = reward
        observation[..., _LAST_ACTION] = (2 * action - 1) * scored

    def oracle(self, episode: EpisodeBatch) -> Array:
        """Play the episodes: approach novel cues, and known cues with a positive expected value. int64 [B, T]."""
        cue = episode.observation[..., : self.cue_size]
        value = episode.stake[:, ::2]
        approached = _ApproachedCues(self, value.shape)
        actions = np.zeros(episode.target.shape, dtype=np.int64)
        for trial in range(value.shape[1]):
            step = 2 * trial
            expected_value, known, novel = approached.identify(cue[:, step])
            approach = (expected_value > 0) | (novel > known)
            actions[:, step] = approach
            approached.add(np.flatnonzero(approach), cue[:, step] + cue[:, step + 1], value[:, trial])
        return actions

    def trial_oracle(self, episodes: Sequence[EpisodeBatch]) -> list[Array]:
        """Play the episodes one after another as a single one."""
        return np.split(self.oracle(EpisodeBatch.join(episodes, axis=1)), len(episodes), axis=1)

    def memoryless(self, episode: EpisodeBatch) -> Array:
        """Return `AVOID` at every step: int64 [B, T]."""
        return np.full(episode.target.shape, AVOID, dtype=np.int64)


class _ApproachedCues:
    """The oracle's memory of the cues that it has approached in each of B episodes.

    Each cue has a slot with the sum of its views [D], their number and its value. Slots are filled in order.
    """

    def __init__(self, task: CueChoice, shape: tuple[int, ...]) -> None:
        """Make the empty memory for episodes and trials of the shape [B, trials]."""
        self._task = task
        self._view_sum = np.zeros((*shape, task.cue_size), dtype=np.float32)
        self._n_views = np.zeros(shape, dtype=np.float32)
        self._value = np.zeros(shape, dtype=np.float32)
        self._n_known = np.zeros(shape[0], dtype=np.int64)

    def _filled_slots(self) -> slice:
        return slice(0, max(int(self._n_known.max()), 1))

    def identify(self, view: Array) -> tuple[Array, Array, Array]:
        """Identify the cue in a view [B, D].

        Returns:
            Three arrays [B], on the common scale of `identity_posterior`: the expected value (unnormalised, so only its
            sign matters), the weight of all known cues together, and that of all novel cues.
        """
        filled = self._filled_slots()
        n_views = self._n_views[:, filled]
        mean_view = self._view_sum[:, filled] / np.maximum(n_views, 1)[:, :, None]
        is_filled = (n_views > 0).astype(np.float32)
        n_novel = (self._task.n_cues - self._n_known).astype(np.float32)
        known, novel = identity_posterior(
            view[:, None], mean_view, np.maximum(n_views, 1), is_filled, n_novel, self._task.noise, _BOUNDS
        )
        weight = known[:, :, 0].T
        return (weight * self._value[:, filled]).sum(axis=1), weight.sum(axis=1), novel[:, 0]

    def add(self, lanes: Array, two_views: Array, value: Array) -> None:
        """Remember the cue of a trial in the episodes `lanes`, where it was approached.

        Args:
            lanes: int64 [N], indices of episodes.
            two_views: float32 [B, D], the sum of the trial's two views.
            value: float32 [B], the values of the cues.
        """
        filled = self._filled_slots()
        # The outcome identifies the cue exactly: values are continuous and observed without noise.
        is_slot = (self._value[lanes, filled] == value[lanes, None]) & (self._n_views[lanes, filled] > 0)
        is_known = is_slot.any(axis=1)
        slot = np.where(is_known, is_slot.argmax(axis=1), self._n_known[lanes])
        self._n_known[lanes] += ~is_known
        self._value[lanes, slot] = value[lanes]
        self._view_sum[lanes, slot] += two_views[lanes]
        self._n_views[lanes, slot] += 2
