"""Bandit: its rewards, and its index policy against exact solutions of small problems."""

from functools import cache
from itertools import product
from statistics import NormalDist

import numpy as np
import pytest

from plastic_envs.stream import trial_returns
from plastic_envs.tasks import Bandit
from plastic_envs.tasks.bandit_index import LARGEST_HORIZON, bernoulli_indices, gaussian_bonuses


def value_of(state, remaining, choose):
    """Return the expected total reward of Bernoulli arms, of which state has the pulls and successes.

    ``choose`` takes the values of all arms if pulled now, the state and the remaining trials.
    """

    @cache
    def value(state, remaining):
        if remaining == 0:
            return 0.0
        values = []
        for arm, (pulls, successes) in enumerate(state):
            probability = (successes + 1) / (pulls + 2)
            after = [(*state[:arm], (pulls + 1, successes + won), *state[arm + 1 :]) for won in (0, 1)]
            lost, won = (value(each, remaining - 1) for each in after)
            values.append(probability * (1 + won) + (1 - probability) * lost)
        return values[choose(values, state, remaining)]

    return value(state, remaining)


def best(values, state, remaining):
    return int(np.argmax(values))


@pytest.mark.parametrize(("n_arms", "n_trials"), [(2, 6), (2, 12), (3, 8), (5, 6)])
def test_the_index_policy_is_nearly_the_best_one(n_arms, n_trials):
    indices = bernoulli_indices(n_trials)

    def largest_index(values, state, remaining):
        return int(np.argmax([indices[remaining, pulls, successes] for pulls, successes in state]))

    start = ((0, 0),) * n_arms
    optimum = value_of(start, n_trials, best) / n_trials
    assert value_of(start, n_trials, largest_index) / n_trials == pytest.approx(optimum, abs=1e-4)
    task = Bandit(n_arms=n_arms, n_trials=n_trials)
    episode = task.sample(np.random.default_rng(0), 20_000)
    scores = task.score(episode, task.oracle(episode))
    assert scores.mean() == pytest.approx(optimum, abs=4 * scores.std() / np.sqrt(len(scores)))


def test_the_reference_of_a_trial_is_nearly_the_best_player_of_all_its_episodes():
    task, rng = Bandit(n_arms=3, n_trials=2), np.random.default_rng(0)
    episodes = [task.sample(rng, 20_000)]
    episodes += [task.sample_same_world(rng, episodes[0]) for _ in range(3)]
    returns, memoryless = trial_returns(task, episodes)
    total = returns.sum(axis=1)
    optimum = value_of(((0, 0),) * 3, 8, best)
    assert total.mean() == pytest.approx(optimum, abs=4 * total.std() / np.sqrt(len(total)))
    assert memoryless.mean() == pytest.approx(1.0, abs=0.02)


def test_bernoulli_indices_solve_the_stopping_problem():
    indices = bernoulli_indices(5)

    @cache
    def advantage(pulls, successes, remaining, known):
        """Return what the unknown arm, pulled now, yields beyond the known arm in all trials."""
        probability = (successes + 1) / (pulls + 2)
        later = [
            max(advantage(pulls + 1, successes + won, remaining - 1, known), 0) if remaining > 1 else 0
            for won in (0, 1)
        ]
        return probability - known + probability * later[1] + (1 - probability) * later[0]

    for remaining, pulls in product(range(1, 6), range(5)):
        for successes in range(pulls + 1):
            if pulls + remaining <= 5:
                index = indices[remaining, pulls, successes]
                assert abs(advantage(pulls, successes, remaining, float(index))) < 2e-3


def test_gaussian_bonuses_solve_the_stopping_problem():
    bonuses = gaussian_bonuses(20, 0.7)
    assert bonuses[1] == pytest.approx(0, abs=1e-9)  # the last trial yields the posterior mean
    # With two trials: gain the mean -x now, and then that of the next posterior mean where it is positive.
    spread, normal = np.sqrt(1 - 1 / (1 + 1 / 0.49)), NormalDist()
    x = np.linspace(0, 1, 100_001)
    z = x / spread
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    gain = -x + spread * density - x * np.array([normal.cdf(-each) for each in z])
    assert bonuses[2, 0] == pytest.approx(x[(gain > 0).sum()], abs=0.01)
    assert (np.diff(bonuses[1:, :10], axis=0) >= -1e-9).all()
    assert (np.diff(bonuses[5, :10]) <= 0).all()


@pytest.mark.parametrize("arguments", [{"distribution": "gaussian"}, {"distribution": "gaussian", "noise": 0.3}])
def test_the_reference_is_better_than_greedy_and_upper_confidence_policies(arguments):
    task = Bandit(n_arms=5, n_trials=20, **arguments)
    episode = task.sample(np.random.default_rng(1), 5000)
    reference = task.score(episode, task.oracle(episode))
    lanes = np.arange(len(episode))
    for width in (0.0, 0.5, 1.0, 2.0):
        pulls, totals, score = np.zeros((5000, 5)), np.zeros((5000, 5)), 0
        for trial in range(20):
            precision = 1 + pulls / task.noise**2
            arm = (totals / (pulls + task.noise**2) + width / np.sqrt(precision)).argmax(axis=1)
            reward = episode.stake[lanes, 2 * trial, arm]
            pulls[lanes, arm] += 1
            totals[lanes, arm] += reward
            score = score + reward / 20
        gap = reference - score
        assert gap.mean() > -3 * gap.std() / np.sqrt(5000)
    assert gap.mean() > 3 * gap.std() / np.sqrt(5000)


def test_more_trials_than_the_largest_horizon():
    task = Bandit(n_arms=2, n_trials=LARGEST_HORIZON + 30)
    episode = task.sample(np.random.default_rng(0), 200)
    assert task.score(episode, task.oracle(episode)).mean() > 0.62  # the best arm has 2/3


def test_the_reference_plays_with_noise_whose_square_is_0():
    weak, none = (Bandit(n_arms=3, distribution="gaussian", noise=noise) for noise in (1e-6, 1e-200))
    episode = weak.sample(np.random.default_rng(0), 50)
    np.testing.assert_array_equal(none.oracle(episode), weak.oracle(episode))


def test_rewards_depend_on_the_arm():
    task = Bandit(n_arms=3, n_trials=2)
    episode = task.sample(np.random.default_rng(0), 50)
    for arm in range(3):
        rewards = task.rewards(episode, np.full(episode.target.shape, arm))
        assert np.array_equal(rewards[:, ::2], episode.stake[:, ::2, arm])
        observation = task.with_feedback(episode, np.full(episode.target.shape, arm))
        assert np.array_equal(observation[:, 1::2, 3], rewards[:, ::2])
        assert np.array_equal(observation[:, 1::2, :3], np.broadcast_to(np.arange(3) == arm, (50, 2, 3)))
        assert not observation[:, ::2].any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"distribution": "poisson"}, "distribution must be"),
        ({"noise": 0}, "noise must be"),
        ({"n_arms": 1}, "n_arms must be"),
        ({"n_trials": 1}, "n_trials must be"),
    ],
)
def test_invalid_arguments_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Bandit(**arguments)
