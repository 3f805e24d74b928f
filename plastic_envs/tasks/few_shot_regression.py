"""FewShotRegression: learn a function from a few points within one episode."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from gymnasium import spaces

from plastic_envs.noise import LARGEST_NOISE, NOISE_CLIP, normal_noise
from plastic_envs.task import Array, Draws, EpisodeBatch, StepValues, Task
from plastic_envs.validation import check_episode_size, flag, real_number, whole_number

# Standardised values are clipped here (about 1 in 16 000 is affected), and actions are multiplied by it.
SCALE = 4.0
# An answer that is closer to y than this counts for the metric `within_0.05`.
_TOLERANCE = 0.05
# The oracle raises smaller noise to this value, so that its equations are solvable in float64.
_SMALLEST_NOISE = 1e-3


class FewShotRegression(Task):
    """Learn a function from a few points within one episode.

    ## Description

    Each episode has a new function y = f(x) of `input_size` variables. In the support phase the agent observes random
    points x with their values y, plus noise. Queries follow: the agent observes another random point x alone and
    answers with its value.

    The function is a linear map of 12 inputs in `PlasticRNN/FewShotRegression-v0`, and a network of 6 inputs and one
    hidden layer of 2 tanh units in `PlasticRNN/FewShotRegressionMLP-v0`. The weights and biases of each layer are
    uniform in [-1/sqrt(fan-in), 1/sqrt(fan-in)]. The values of an episode are standardised: their mean over all steps
    is 0 and their sample variance 1.

    ## Observation Space

    A `Box` of `input_size + 2` float32 values:

    | Num | Observation | Min | Max |
    |-----|-------------|-----|-----|
    | 0 to `input_size - 1` | x, uniform | -1 | 1 |
    | `input_size` | y plus noise; 0 at queries | -4 - 4 `noise` | 4 + 4 `noise` |
    | `input_size + 1` | query flag: 1 at queries, else 0 | 0 | 1 |

    Noise is Gaussian, and clipped at four standard deviations.

    ## Action Space

    A `Box` of one float32 value a in [-1, 1]. The answer is **four times** the action, 4a. It has no effect on later
    observations.

    ## Rewards

    At queries -(4a - y)^2, where a is the action and y the function's value without noise, clipped to [-4, 4];
    `Task.reward` computes it, with `action_scale` 4. At support steps 0. With `score_support=True` support steps are
    scored like queries, as in the paper's loss.

    ## Secondary Metrics

    `within_0.05`: the share of queries with an error |4a - y| below 0.05. Support steps do not count, also with
    `score_support=True`.

    ## Episode End

    Terminates after `n_support + n_queries` steps.

    ## Arguments

    | Parameter | Type | Default | Range | Description |
    |-----------|------|---------|-------|-------------|
    | `input_size` | int | 12; 6 for MLP | >= 1 | number of inputs of the function |
    | `hidden_size` | int | 0; 2 for MLP | >= 0 | number of hidden tanh units; 0 for a linear map |
    | `noise` | float | 0.1 | 0 to 1000 | standard deviation of the noise on y at support steps |
    | `n_support` | int | 20 | >= 1 | support steps: a point with its value |
    | `n_queries` | int | 20 | >= 1 | queries: a point alone |
    | `score_support` | bool | False | | score support steps too |

    ## Oracle

    A reference, which agents can surpass: ridge regression on the support points in standardised units. This is the
    posterior mean of a linear map whose weights are normal with variance 3 / `input_size`, so that y has variance 1,
    and whose intercept makes the values of an episode sum to 0. Points of later steps enter with their variance. The
    reference leaves out that weights are uniform and that the variance of an episode is exactly 1. An agent that uses
    both has a fifth less error at the last query of the default task, and 0.003 more normalised score over all queries.
    With hidden units it is also linear, which is close if the function is nearly linear, as with the default arguments;
    there, the best networks have a slightly smaller error. The memoryless policy answers 0 at queries, and the observed
    y divided by 1 + `noise`^2 at support steps.

    ## Source

    Yu Duan, Zhongfan Jia, Qian Li, Yi Zhong and Kaisheng Ma: "Hebbian and Gradient-based Plasticity Enables Robust
    Memory and Rapid Learning in RNNs", ICLR 2023, [arXiv 2302.03235](https://arxiv.org/abs/2302.03235).

    ## Version History

    * v0: first version.
    """

    action_scale = SCALE
    oracle_name = "reference"

    def __init__(
        self,
        *,
        input_size: int = 12,
        hidden_size: int = 0,
        noise: float = 0.1,
        n_support: int = 20,
        n_queries: int = 20,
        score_support: bool = False,
    ) -> None:
        self.input_size = whole_number("input_size", input_size, at_least=1)
        self.hidden_size = whole_number("hidden_size", hidden_size, at_least=0)
        self.noise = real_number("noise", noise, at_least=0, at_most=LARGEST_NOISE)
        self.n_support = whole_number("n_support", n_support, at_least=1)
        self.n_queries = whole_number("n_queries", n_queries, at_least=1)
        self.score_support = flag("score_support", score_support)

        self.episode_length = self.n_support + self.n_queries
        check_episode_size(
            # Observations and hidden activations, weights, and the matrix that the oracle inverts.
            self.episode_length * (self.input_size + 2 + self.hidden_size)
            + (self.input_size + 1) * max(1, self.hidden_size)
            + (self.input_size + 1) ** 2,
            n_support=self.n_support,
            n_queries=self.n_queries,
            input_size=self.input_size,
            hidden_size=self.hidden_size,
        )
        self.query_start = self.n_support
        self.channels = (("x", self.input_size), ("y", 1), ("query", 1))
        # Computed in float32, so that a value plus clipped noise cannot round beyond the bound.
        bound = np.float32(SCALE) + np.float32(NOISE_CLIP) * np.float32(self.noise)
        sizes = [size for _, size in self.channels]
        low = np.repeat(np.array([-1, -bound, 0], dtype=np.float32), sizes)
        high = np.repeat(np.array([1, bound, 1], dtype=np.float32), sizes)
        self.observation_space = spaces.Box(low, high, dtype=np.float32)
        self.action_space = spaces.Box(-1, 1, shape=(1,), dtype=np.float32)

    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw points x [B, T, input_size] and the noise on the values of the support [B, n_support]."""
        x = 2 * rng.random((self.episode_length, batch_size, self.input_size), dtype=np.float32) - 1
        return {"x": x.swapaxes(0, 1), "noise": normal_noise(rng, (self.n_support, batch_size), self.noise).T}

    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw weights and biases of one layer, or of two with hidden units, each float32 [B, fan-in + 1, fan-out]."""
        sizes = [self.input_size, *([self.hidden_size] if self.hidden_size else []), 1]
        draws = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(sizes), start=1):
            bound = np.float32(1 / np.sqrt(fan_in))
            draws[f"layer_{layer}"] = bound * (2 * rng.random((batch_size, fan_in + 1, fan_out), dtype=np.float32) - 1)
        return draws

    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Compose a support phase of points with their standardised values, and queries of points alone."""
        y = stimuli["x"]
        for layer in sorted(memoranda):
            if layer != "layer_1":
                y = np.tanh(y)
            y = y @ memoranda[layer][:, :-1] + memoranda[layer][:, -1:]
        y = y[:, :, 0].T
        y = (y - y.mean(axis=0)) / np.maximum(y.std(axis=0, ddof=1), np.float32(1e-12))
        y = np.clip(y, -SCALE, SCALE)

        steps, batch_size = y.shape
        observation = np.zeros((steps, batch_size, self.input_size + 2), dtype=np.float32)
        observation[..., : self.input_size] = stimuli["x"].swapaxes(0, 1)
        observation[: self.n_support, :, -2] = y[: self.n_support] + stimuli["noise"].T
        observation[self.n_support :, :, -1] = 1
        scored = np.arange(steps) >= (0 if self.score_support else self.query_start)
        return EpisodeBatch(
            observation=observation.swapaxes(0, 1),
            target=(y.T / np.float32(SCALE))[:, :, None],
            scored=np.broadcast_to(scored, (batch_size, steps)),
            latent={**memoranda, "y": y.T},
        )

    def oracle(self, episode: EpisodeBatch) -> Array:
        """Return the posterior mean of y at each step, given the pairs observed so far: float32 [B, T, 1]."""
        answers = np.zeros(episode.scored.shape)
        answers[:, self.n_support :] = self._ridge(episode, self.n_support, slice(self.n_support, None))
        if self.score_support:
            for step in range(self.n_support):
                answers[:, step] = self._ridge(episode, step + 1, slice(step, step + 1))[:, 0]
        return np.clip(answers / SCALE, -1, 1).astype(np.float32)[:, :, None]

    def memoryless(self, episode: EpisodeBatch) -> Array:
        """Return the observed y, shrunk for its noise, and zeros at queries: float32 [B, T, 1]."""
        y = episode.observation[..., self.input_size : self.input_size + 1]
        return np.clip(y / np.float32(SCALE * (1 + self.noise**2)), -1, 1)

    def secondary_metrics_of_valid(self, episode: EpisodeBatch, actions: Array) -> dict[str, StepValues]:
        """Return `within_0.05`, which is 1 at queries with an error below 0.05 in units of y, and else 0."""
        error = SCALE * np.abs(actions - episode.target)[..., 0]
        is_query = np.arange(self.episode_length) >= self.query_start
        return {
            "within_0.05": StepValues((error < _TOLERANCE).astype(np.float64), np.broadcast_to(is_query, error.shape))
        }

    def _ridge(self, episode: EpisodeBatch, n_pairs: int, steps: slice) -> Array:
        """Return the posterior mean of y at `steps`, given the first `n_pairs` pairs: float64 [B, number of steps].

        This is ridge regression without a penalty on the intercept. The answer at each step uses one additional pair:
        the values of an episode sum to 0, so at c = (sum of the x up to this step) / T the value of the map is minus
        the contribution of the F later points, which has mean 0 and variance F / T^2.
        """
        x = episode.observation[..., : self.input_size + 1].astype(np.float64)
        y = x[:, :n_pairs, -1:].copy()
        x[..., -1] = 1
        support = x[:, :n_pairs].swapaxes(1, 2)
        variance = max(self.noise, _SMALLEST_NOISE) ** 2
        penalty = np.full(self.input_size + 1, variance * self.input_size / 3)
        penalty[-1] = 0
        covariance = np.linalg.inv(support @ support.swapaxes(1, 2) + np.diag(penalty)) * variance
        weights = covariance @ (support @ y) / variance

        centre = x.cumsum(axis=1)[:, steps] / self.episode_length
        centre[..., -1] = 1
        later_variance = np.arange(self.episode_length - 1, -1, -1)[steps] / self.episode_length**2
        # The additional pair is a rank-one update of the inverse (Sherman-Morrison formula): one inversion per episode.
        spread = centre @ covariance
        gain = np.einsum("bsd,bsd->bs", spread, x[:, steps]) / (
            np.einsum("bsd,bsd->bs", spread, centre) + later_variance
        )
        answers: Array = (x[:, steps] @ weights)[:, :, 0] - gain * (centre @ weights)[:, :, 0]
        return answers
