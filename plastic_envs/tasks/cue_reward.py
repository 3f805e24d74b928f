"""CueReward: remember the reward of each cue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from plastic_envs.noise import LARGEST_NOISE, NOISE_CLIP, normal_noise
from plastic_envs.task import Array, Draws, EpisodeBatch, Task
from plastic_envs.tasks.cue_posterior import identity_posterior, name_of_oracle, unique_cues
from plastic_envs.validation import check_episode_size, flag, real_number, whole_number

# The least and the largest component of a cue.
_BOUNDS = (0.0, 1.0)


class CueReward(Task):
    """Remember the reward of each cue.

    ## Description

    Each episode has new cues, and each cue has a reward. In the support phase the agent observes cues with their
    rewards. Queries follow: the agent observes a cue alone and answers with its reward. The cue of each step is drawn
    at random, with replacement, so a query may show a cue that the support phase did not.

    ## Observation Space

    A `Box` of `cue_size + 2` float32 values:

    | Num | Observation | Min | Max |
    |-----|-------------|-----|-----|
    | 0 to `cue_size - 1` | cue plus noise | -4 `noise` | 1 + 4 `noise` |
    | `cue_size` | reward of the cue; 0 at queries | -1 | 1 |
    | `cue_size + 1` | query flag: 1 at queries, else 0 | 0 | 1 |

    Cues are uniform in [0, 1]^`cue_size`. Noise is Gaussian, independent for each step, and clipped at four standard
    deviations.

    ## Action Space

    A `Box` of one float32 value in [-1, 1]: the answer, the agent's estimate of the cue's reward. It has no effect on
    later observations.

    ## Rewards

    At queries -(a - r)^2, where a is the action and r the cue's reward, uniform in [-1, 1]; `Task.reward` computes it.
    At support steps 0. With `score_support=True` support steps are scored like queries, as in the paper's loss.

    ## Episode End

    Terminates after `n_support + n_queries` steps.

    ## Arguments

    | Parameter | Type | Default | Range | Description |
    |-----------|------|---------|-------|-------------|
    | `n_cues` | int | 5 | >= 1 | number of cues of an episode |
    | `cue_size` | int | 14 | >= 1 | length of a cue |
    | `noise` | float | 0.1 | 0 to 1000 | standard deviation of the noise on cues |
    | `n_support` | int | 10 | >= 1 | support steps: a cue with its reward |
    | `n_queries` | int | 10 | >= 1 | queries: a cue alone |
    | `score_support` | bool | False | | score support steps too |

    ## Oracle

    The posterior mean of the reward, by Bayes' rule. The next view of a cue that was observed n times is Gaussian round
    the mean of these n views, with variance `noise`^2 (1 + 1/n). A cue that was not observed before has reward 0 on
    average. The views at queries count too, for each cue by the probability that it was shown: an exact agent would sum
    over all assignments of views to cues, which makes a difference only if identities stay uncertain. The oracle
    accounts for the bounds of the unit cube whenever the identity of a cue is not 97 % certain without them. If two
    cues may be alike, with a probability above 0.001 (by default it is less), `oracle_name` is "reference". The
    memoryless policy answers 0 at queries, and the observed reward at support steps.

    ## Source

    Yu Duan, Zhongfan Jia, Qian Li, Yi Zhong and Kaisheng Ma: "Hebbian and Gradient-based Plasticity Enables Robust
    Memory and Rapid Learning in RNNs", ICLR 2023, [arXiv 2302.03235](https://arxiv.org/abs/2302.03235).

    ## Version History

    * v0: first version.
    """

    world = ("cues", "rewards")

    def __init__(
        self,
        *,
        n_cues: int = 5,
        cue_size: int = 14,
        noise: float = 0.1,
        n_support: int = 10,
        n_queries: int = 10,
        score_support: bool = False,
    ) -> None:
        self.n_cues = whole_number("n_cues", n_cues, at_least=1)
        self.cue_size = whole_number("cue_size", cue_size, at_least=1)
        self.noise = real_number("noise", noise, at_least=0, at_most=LARGEST_NOISE)
        self.n_support = whole_number("n_support", n_support, at_least=1)
        self.n_queries = whole_number("n_queries", n_queries, at_least=1)
        self.score_support = flag("score_support", score_support)

        self.episode_length = self.n_support + self.n_queries
        check_episode_size(
            self.episode_length * (self.cue_size + 2) + self.n_cues * self.cue_size,
            n_support=self.n_support,
            n_queries=self.n_queries,
            cue_size=self.cue_size,
            n_cues=self.n_cues,
        )
        self.query_start = self.n_support
        self.channels = (("cue", self.cue_size), ("reward", 1), ("query", 1))
        # Computed in float32, so that a cue plus clipped noise cannot round beyond the bound.
        max_noise = np.float32(NOISE_CLIP) * np.float32(self.noise)
        sizes = [size for _, size in self.channels]
        low = np.repeat(np.array([-max_noise, -1, 0], dtype=np.float32), sizes)
        high = np.repeat(np.array([np.float32(1) + max_noise, 1, 1], dtype=np.float32), sizes)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Box(-1, 1, shape=(1,), dtype=np.float32)

    @property
    def oracle_name(self) -> str:  # type: ignore[override]  # an attribute of other tasks
        """The name is "oracle" if the identities of cues are practically certain, else "reference"."""
        return name_of_oracle(self.cue_size, self.noise, _BOUNDS)

    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw cues [B, n_cues, cue_size], the cue of each step [B, T], and noise [B, T, cue_size]."""
        steps = self.episode_length
        return {
            "cues": rng.random((batch_size, self.n_cues, self.cue_size), dtype=np.float32),
            "item": rng.integers(self.n_cues, size=(steps, batch_size)).T,
            "noise": normal_noise(rng, (steps, batch_size, self.cue_size), self.noise).swapaxes(0, 1),
        }

    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw the rewards of the cues [B, n_cues]."""
        return {"rewards": 2 * rng.random((batch_size, self.n_cues), dtype=np.float32) - 1}

    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Compose a support phase of cues with rewards, and queries of cues alone."""
        cues, rewards, item = stimuli["cues"], memoranda["rewards"], stimuli["item"].T
        steps, batch_size = item.shape
        # Indices into a flat table of all episodes' cues: faster than indexing two axes.
        cue_index = item + self.n_cues * np.arange(batch_size)
        target = rewards.reshape(-1).take(cue_index)

        observation = np.empty((steps, batch_size, self.cue_size + 2), dtype=np.float32)
        noise = stimuli["noise"].swapaxes(0, 1)
        np.add(cues.reshape(-1, self.cue_size).take(cue_index, axis=0), noise, out=observation[..., : self.cue_size])
        observation[: self.query_start, :, -2] = target[: self.query_start]
        observation[self.query_start :, :, -2] = 0
        observation[: self.query_start, :, -1] = 0
        observation[self.query_start :, :, -1] = 1

        scored = np.arange(steps) >= (0 if self.score_support else self.query_start)
        return EpisodeBatch(
            observation=observation.swapaxes(0, 1),
            target=target.T[:, :, None],
            scored=np.broadcast_to(scored, (batch_size, steps)),
            item=item.T,
            latent={"cues": cues, "rewards": rewards},
        )

    def oracle(self, episode: EpisodeBatch) -> Array:
        """Return the posterior mean of the cue's reward: float32 [B, T, 1]."""
        return self._posterior_mean(episode.observation, self.n_support)

    def trial_oracle(self, episodes: Sequence[EpisodeBatch]) -> list[Array]:
        """Return the posterior means given the support phases and queries of all episodes so far."""
        actions = []
        parts = [np.split(episode.observation, [self.n_support], axis=1) for episode in episodes]
        for n_episodes, episode in enumerate(episodes, start=1):
            # The posterior does not depend on the order of what was observed.
            supports, queries = zip(*parts[:n_episodes], strict=True)
            observation = np.concatenate([*supports, *queries], axis=1)
            answers = self._posterior_mean(observation, n_episodes * self.n_support)
            actions.append(self.memoryless(episode))
            actions[-1][:, self.n_support :] = answers[:, -self.n_queries :]
        return actions

    def _posterior_mean(self, observation: Array, n_support: int) -> Array:
        """Return the posterior means of rewards, float32 [B, T, 1], in `n_support` support steps and then queries."""
        cue = observation[..., : self.cue_size]
        actions = self._observed_reward(observation)
        # Rewards are continuous and observed without noise, so equal rewards identify the same cue.
        reward, mean_view, n_views, multiplicity = unique_cues(
            cue[:, :n_support], actions[:, :n_support, 0], self.n_cues
        )
        n_rewarded = reward.shape[1]
        # Slots for novel cues, whose rewards are unknown and count 0.
        slots = [(0, 0), (0, min(self.n_cues, cue.shape[1] - n_support))]
        reward, multiplicity = np.pad(reward, slots), np.pad(multiplicity, slots)
        n_views = np.pad(n_views, slots, constant_values=1)
        mean_view = np.pad(mean_view, [*slots, (0, 0)])
        n_novel = self.n_cues - multiplicity.sum(axis=1)
        lanes = np.arange(len(cue))
        for step in range(n_support, cue.shape[1]):
            view = cue[:, step : step + 1]
            known, novel = identity_posterior(view, mean_view, n_views, multiplicity, n_novel, self.noise, _BOUNDS)
            # A sum along the last axis of a C array rounds each episode alike, whatever the size of the batch.
            weights = np.ascontiguousarray(known[..., 0].T)
            total = weights.sum(axis=1) + novel[:, 0]
            share = weights / total[:, None]
            actions[:, step, 0] = (share * reward).sum(axis=1)
            # The view counts for each cue by its probability, given that the entry holds a cue of its own.
            weight = np.minimum(share / np.maximum(multiplicity, np.finfo(np.float32).tiny), 1)
            n_views += weight
            mean_view += (weight / n_views)[..., None] * (view - mean_view)
            # A novel cue takes the slot of the least probable one.
            slot = n_rewarded + multiplicity[:, n_rewarded:].argmin(axis=1)
            novel_share = novel[:, 0] / total
            n_novel = np.maximum(n_novel + multiplicity[lanes, slot] - novel_share, 0)
            mean_view[lanes, slot], n_views[lanes, slot] = view[:, 0], 1
            multiplicity[lanes, slot] = novel_share
        return actions

    def oracle_entries(self, episode: EpisodeBatch) -> int:
        """Return the number of pairs of cues and support steps, or of components of all views, if that is more."""
        n_cues = min(self.n_cues, self.episode_length)
        return max(n_cues * self.n_support, (2 * n_cues + self.episode_length) * self.cue_size)

    def memoryless(self, episode: EpisodeBatch) -> Array:
        """Return the observed reward, and 0, the mean of all rewards, at queries: float32 [B, T, 1]."""
        return self._observed_reward(episode.observation)

    def _observed_reward(self, observation: Array) -> Array:
        return observation[..., self.cue_size : self.cue_size + 1].copy()
