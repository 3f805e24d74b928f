"""Bandit: find the best of several arms by trial and error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from plastic_envs.noise import LARGEST_NOISE, NOISE_CLIP, normal_noise
from plastic_envs.task import Array, Draws, EpisodeBatch, Task
from plastic_envs.tasks.bandit_index import LARGEST_HORIZON, SMALLEST_NOISE, bernoulli_indices, gaussian_bonuses
from plastic_envs.validation import check_episode_size, one_of, real_number, whole_number

Distribution = Literal["bernoulli", "gaussian"]
# Observation entries that hold the feedback on the agent's action, counted from the end.
_TRIAL_REWARD, _OUTCOME_FLAG = -2, -1


class Bandit(Task):
    """Find the best of several arms by trial and error.

    ## Description

    Each episode has new arms, and each arm gives random rewards with a mean of its own. At each trial the agent pulls
    an arm, and has to find a balance between arms that it knows little about and the best arm so far. A trial has two
    steps: at the choice step the agent observes nothing, and at the outcome step what it pulled and got.

    ## Observation Space

    A `Box` of `n_arms + 2` float32 values, which are 0 at choice steps:

    | Num | Observation | Min | Max |
    |-----|-------------|-----|-----|
    | 0 to `n_arms - 1` | the arm that was pulled, one-hot | 0 | 1 |
    | `n_arms` | reward of the trial | 0; -4 - 4 `noise` for Gaussian rewards | 1; 4 + 4 `noise` |
    | `n_arms + 1` | outcome flag: 1 at outcome steps | 0 | 1 |

    ## Action Space

    `Discrete(n_arms)`: the arm to pull. At outcome steps the action has no effect.

    ## Rewards

    At choice steps the reward of the arm that is pulled. With the distribution `bernoulli` it is 1 with a probability
    that is uniform in [0, 1] for each arm, else 0. With `gaussian` it is normal, with a mean that is standard normal
    for each arm and the standard deviation `noise`; means and noise are clipped at four standard deviations. At outcome
    steps 0.

    ## Episode End

    Terminates after `2 * n_trials` steps.

    ## Arguments

    | Parameter | Type | Default | Range | Description |
    |-----------|------|---------|-------|-------------|
    | `n_arms` | int | 5 | >= 2 | number of arms |
    | `n_trials` | int | 20 | >= 2 | number of trials in an episode |
    | `distribution` | str | bernoulli | | of rewards: `bernoulli` or `gaussian` |
    | `noise` | float | 1.0 | > 0 to 1000 | standard deviation of Gaussian rewards |

    ## Oracle

    A reference, which agents can surpass slightly: an index policy. At each trial it pulls the arm with the largest
    index for the number of remaining trials (Whittle 1980). Indices are computed for up to 100 remaining trials and
    pulls, and more of them count as 100. The best policy has no such simple form; with five arms and ten trials, its
    reward is the same to 0.0001. The memoryless policy pulls the first arm: without memory, all policies get the mean
    of an arm.

    ## Source

    Jane Wang et al.: "Learning to reinforcement learn", 2016, [arXiv 1611.05763](https://arxiv.org/abs/1611.05763), and
    Yan Duan et al.: "RL^2: Fast Reinforcement Learning via Slow Reinforcement Learning", 2016,
    [arXiv 1611.02779](https://arxiv.org/abs/1611.02779). Their trials have one step, which shows the last outcome.

    ## Version History

    * v0: first version.
    """

    interactive = True
    world = ("means",)
    oracle_name = "reference"

    def __init__(
        self, *, n_arms: int = 5, n_trials: int = 20, distribution: Distribution = "bernoulli", noise: float = 1.0
    ) -> None:
        self.n_arms = whole_number("n_arms", n_arms, at_least=2)
        self.n_trials = whole_number("n_trials", n_trials, at_least=2)
        self.distribution = one_of("distribution", distribution, ("bernoulli", "gaussian"))
        self.noise = real_number("noise", noise, above=0, at_most=LARGEST_NOISE)

        self.episode_length = 2 * self.n_trials
        check_episode_size(self.episode_length * (2 * self.n_arms + 2), n_trials=self.n_trials, n_arms=self.n_arms)
        self.query_start = 2 * (self.n_trials // 2)
        self.channels = (("pulled arm", self.n_arms), ("outcome", 1), ("outcome step", 1))
        self.action_names = tuple(f"arm {arm}" for arm in range(self.n_arms))
        lowest, highest = self.reward_range
        sizes = [size for _, size in self.channels]
        low = np.repeat(np.array([0, lowest, 0], dtype=np.float32), sizes)
        high = np.repeat(np.array([1, highest, 1], dtype=np.float32), sizes)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Discrete(self.n_arms)

    @property
    def reward_range(self) -> tuple[float, float]:
        """Rewards are 0 or 1, or within the clipped means and noise."""
        if self.distribution == "bernoulli":
            return 0.0, 1.0
        # Computed in float32, so that a mean plus clipped noise cannot round beyond the bound.
        bound = float(np.float32(NOISE_CLIP) + np.float32(NOISE_CLIP) * np.float32(self.noise))
        return -bound, bound

    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw a uniform number, or the noise of Gaussian rewards, for each arm at each trial [B, n_trials, n_arms]."""
        shape = (batch_size, self.n_trials, self.n_arms)
        if self.distribution == "bernoulli":
            return {"chance": rng.random(shape, dtype=np.float32)}
        return {"chance": normal_noise(rng, shape, self.noise)}

    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw the mean reward of each arm [B, n_arms]."""
        shape = (batch_size, self.n_arms)
        if self.distribution == "bernoulli":
            return {"means": rng.random(shape, dtype=np.float32)}
        return {"means": normal_noise(rng, shape, 1.0)}

    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Compose trials whose observations are blank; `write_feedback` adds the outcomes of actions."""
        means, chance = memoranda["means"], stimuli["chance"]
        batch_size = len(means)
        if self.distribution == "bernoulli":
            outcome = (chance < means[:, None]).astype(np.float32)
        else:
            outcome = means[:, None] + chance
        observation = np.zeros((self.episode_length, batch_size, self.n_arms + 2), dtype=np.float32)
        observation[1::2, :, _OUTCOME_FLAG] = 1
        is_choice = np.arange(self.episode_length) % 2 == 0
        return EpisodeBatch(
            observation=observation.swapaxes(0, 1),
            target=means.argmax(axis=1)[:, None] * is_choice,
            scored=np.broadcast_to(is_choice, (batch_size, self.episode_length)),
            stake=np.repeat(outcome, 2, axis=1),
            latent={"means": means},
        )

    def reward(self, action: Any, target: Any, stake: Any) -> Any:
        """Return the stake of the action."""
        return stake

    def write_feedback(self, observation: Array, action: Any, reward: Any, scored: Any) -> None:
        """Write the pulled arm and its reward into observations of outcome steps."""
        is_pulled = np.asarray(action)[..., None] == np.arange(self.n_arms)
        observation[..., : self.n_arms] = is_pulled & np.asarray(scored)[..., None]
        observation[..., _TRIAL_REWARD] = reward

    def oracle(self, episode: EpisodeBatch) -> Array:
        """Play the episodes with the index policy: int64 [B, T]."""
        actions = np.zeros(episode.target.shape, dtype=np.int64)
        pulls = np.zeros((len(episode), self.n_arms))
        totals = np.zeros_like(pulls)
        lanes = np.arange(len(episode))
        n_trials = episode.target.shape[1] // 2
        for trial in range(n_trials):
            arm = self._indices(n_trials, trial, pulls, totals).argmax(axis=1)
            actions[:, 2 * trial] = arm
            pulls[lanes, arm] += 1
            totals[lanes, arm] += episode.stake[lanes, 2 * trial, arm]
        return actions

    def _indices(self, n_trials: int, trial: int, pulls: Array, totals: Array) -> Array:
        """Return the index of each arm at a trial, float64 [B, n_arms].

        Args:
            n_trials: number of trials that are played.
            trial: number of trials before this one.
            pulls: [B, n_arms].
            totals: [B, n_arms], sums of rewards.
        """
        horizon = min(n_trials, LARGEST_HORIZON)
        remaining = min(n_trials - trial, horizon)
        counted = np.minimum(pulls, horizon).astype(np.int64)
        if self.distribution == "bernoulli":
            successes = np.rint(totals * counted / np.maximum(pulls, 1)).astype(np.int64)
            indices: Array = bernoulli_indices(horizon)[remaining, counted, successes]
        else:
            noise = max(self.noise, SMALLEST_NOISE)
            indices = totals / (pulls + noise**2) + gaussian_bonuses(horizon, noise)[remaining, counted]
        return indices

    def trial_oracle(self, episodes: Sequence[EpisodeBatch]) -> list[Array]:
        """Play the episodes one after another as a single one, with the index policy for all of their trials."""
        return np.split(self.oracle(EpisodeBatch.join(episodes, axis=1)), len(episodes), axis=1)

    def memoryless(self, episode: EpisodeBatch) -> Array:
        """Return the first arm at every step: int64 [B, T]."""
        return np.zeros(episode.target.shape, dtype=np.int64)
