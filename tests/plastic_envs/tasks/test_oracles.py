"""Oracles are compared with brute-force references and with simple policies."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plastic_envs import EpisodeBatch, make_task
from plastic_envs.stream import trial_returns
from plastic_envs.tasks import CueChoice, CueReward, FewShotRegression, SequenceReproduction, cue_posterior


def mean_and_error(values):
    return values.mean(), values.std() / np.sqrt(len(values))


def midpoints(low, high, n_intervals):
    return low + (high - low) * (np.arange(n_intervals) + 0.5) / n_intervals


def density(views, grid, noise):
    """Return the density of noisy views [V, D] of one cue, for each component of the cue on a grid [G]: [G, D]."""
    z = (views[:, None, :] - grid[None, :, None]) / noise
    return np.exp(-0.5 * (z**2).sum(axis=0)) / (noise * np.sqrt(2 * np.pi)) ** len(views)


def brute_force_likelihoods(views_of_known_cues, view, n_cues, grid, noise):
    """Return the densities of a view [D] under each known cue and under all novel cues together.

    This is the specification of `plastic_envs.tasks.cue_posterior`: it sums over a grid of all possible cues.
    """
    view = view[None]
    known = [
        np.prod(density(np.concatenate([views, view]), grid, noise).sum(0) / density(views, grid, noise).sum(0))
        for views in views_of_known_cues
    ]
    return np.array(known), (n_cues - len(known)) * np.prod(density(view, grid, noise).mean(axis=0))


def sample_trial(task, batch_size, n_episodes, seed=4):
    rng = np.random.default_rng(seed)
    episodes = [task.sample(rng, batch_size)]
    return episodes + [task.sample_same_world(rng, episodes[0]) for _ in range(n_episodes - 1)]


@pytest.mark.parametrize("noise", [0.1, 0.2, 0.3, 1.0])
@pytest.mark.parametrize("cue_size", [2, 14])
def test_cue_reward_oracle_is_the_posterior_mean(noise, cue_size):
    # At the first query; later ones also depend on what queries show, as the next test checks.
    task = CueReward(n_cues=4, cue_size=cue_size, noise=noise, n_support=5, n_queries=1)
    episode = task.sample(np.random.default_rng(0), 120)
    oracle = task.oracle(episode)
    grid = midpoints(0, 1, 500)
    ambiguous = 0
    for b in range(120):
        cue = episode.observation[b, :, :cue_size].astype(float)
        reward = episode.observation[b, :5, cue_size]
        rewards = np.unique(reward)
        views = [cue[:5][reward == value] for value in rewards]
        known, novel = brute_force_likelihoods(views, cue[5], 4, grid, noise)
        exact = np.dot(known, rewards) / (known.sum() + novel)
        # With narrow noise the oracle ignores the cube's bounds if the posterior is decisive.
        assert oracle[b, 5, 0] == pytest.approx(exact, abs=2e-4 if noise > 0.12 else 0.05)
        ambiguous += 0.1 < max(known.max(), novel) / (known.sum() + novel) < 0.9
    assert ambiguous > 30 or (cue_size == 14 and noise < 0.3), "the comparison must include uncertain identities"


def bayesian_filter(task, episode, learns_from_queries):
    """Answer with the exact posterior mean for two cues of one component, on a grid of both cues."""
    grid = midpoints(0, 1, 100)
    answers = np.zeros(episode.target.shape, dtype=np.float32)
    for observation, answer in zip(episode.observation.astype(float), answers, strict=True):
        likelihoods = np.exp(-0.5 * ((observation[:, :1] - grid) / task.noise) ** 2)
        belief, rewards = np.ones((100, 100)), [0.0, 0.0]  # of novel cues
        for likelihood, (_, reward, is_query), step in zip(likelihoods, observation, range(len(answer)), strict=True):
            first, second = likelihood[:, None], likelihood[None, :]
            if is_query:
                weights = np.array([(belief * first).sum(), (belief * second).sum()])
                answer[step] = weights @ rewards / weights.sum()
                belief *= first + second if learns_from_queries else 1
            else:
                is_second = rewards[0] not in (0, reward)
                rewards[is_second] = reward
                belief *= second if is_second else first
            belief /= belief.sum()
    return answers


@pytest.mark.parametrize(("n_support", "noise"), [(2, 0.1), (3, 0.2), (10, 0.1)])
def test_cue_reward_oracle_learns_from_queries_nearly_as_an_exact_filter(n_support, noise):
    task = CueReward(n_cues=2, cue_size=1, noise=noise, n_support=n_support, n_queries=20)
    episode = task.sample(np.random.default_rng(0), 300)
    score = task.score(episode, task.oracle(episode))
    exact, forgetful = (task.score(episode, bayesian_filter(task, episode, learns)) for learns in (True, False))
    gap, error = mean_and_error(exact - score)
    assert -3 * error < gap < 0.004
    gap, error = mean_and_error(score - forgetful)
    assert gap > (3 * error if n_support < 10 else -2 * error)


@pytest.mark.parametrize(("n_support", "n_queries", "noise"), [(1, 4, 0.1), (2, 4, 0.05), (2, 10, 0.1)])
def test_cue_reward_oracle_of_a_trial_is_nearly_an_exact_filter(n_support, n_queries, noise):
    task = CueReward(n_cues=2, cue_size=1, noise=noise, n_support=n_support, n_queries=n_queries)
    episodes = sample_trial(task, 300, 3)
    trial = EpisodeBatch.join(episodes, axis=1)
    score, exact, forgetful = (
        task.score(trial, answers)
        for answers in (
            np.concatenate(task.trial_oracle(episodes), axis=1),
            bayesian_filter(task, trial, learns_from_queries=True),
            np.concatenate([task.oracle(episode) for episode in episodes], axis=1),
        )
    )
    gap, error = mean_and_error(exact - score)
    # It would be 0.0013 to 0.0033 without the queries of earlier episodes.
    assert -3 * error < gap < 0.0012
    gap, error = mean_and_error(score - forgetful)
    assert gap > 5 * error


def test_cue_reward_oracle_of_a_trial_knows_all_rewards_that_were_shown():
    task = CueReward(noise=0.0, n_support=2, n_queries=3, score_support=True)
    episodes = sample_trial(task, 200, 3)
    shown = np.zeros((200, 5), dtype=np.bool_)
    lanes = np.arange(200)
    for episode, actions in zip(episodes, task.trial_oracle(episodes), strict=True):
        for step in range(task.episode_length):
            if step < task.n_support:
                shown[lanes, episode.item[:, step]] = True
            expected = np.where(shown[lanes, episode.item[:, step]], episode.target[:, step, 0], 0)
            np.testing.assert_allclose(actions[:, step, 0], expected, atol=1e-6)
    assert 0.1 < shown.mean() < 0.9


@pytest.mark.parametrize("arguments", [{"noise": 0.3, "n_queries": 40}, {"n_cues": 8, "noise": 0.2}])
def test_learning_from_queries_helps_the_cue_reward_oracle(arguments):
    task = CueReward(**arguments)
    episode = task.sample(np.random.default_rng(0), 1000)
    # The same episodes with one query each, of which the oracle cannot learn from others.
    short = CueReward(**{**arguments, "n_queries": 1})
    answers = np.zeros_like(episode.target)
    for step in range(task.n_support, task.episode_length):
        steps = [*range(task.n_support), step]
        part = replace(
            episode,
            observation=episode.observation[:, steps],
            target=episode.target[:, steps],
            scored=episode.scored[:, steps],
            item=episode.item[:, steps],
        )
        answers[:, step] = short.oracle(part)[:, -1]
    gap, error = mean_and_error(task.score(episode, task.oracle(episode)) - task.score(episode, answers))
    assert gap > 5 * error


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), n_labels=st.integers(1, 6), n_views=st.integers(1, 8), n_cues=st.integers(1, 9))
def test_unique_cues_have_the_mean_and_the_number_of_their_views(seed, n_labels, n_views, n_cues):
    rng = np.random.default_rng(seed)
    views = rng.random((5, n_views, 3), dtype=np.float32)
    label = rng.random(n_labels, dtype=np.float32)[rng.integers(n_labels, size=(5, n_views))]
    entry_label, mean_view, count, is_cue = cue_posterior.unique_cues(views, label, n_cues)
    assert is_cue.shape[1] == max(min(n_cues, n_views), *(len(set(row)) for row in label))
    for b in range(5):
        entries = np.flatnonzero(is_cue[b])
        assert sorted(entry_label[b, entries]) == sorted(set(label[b]))
        for entry in entries:
            shown = label[b] == entry_label[b, entry]
            assert count[b, entry] == shown.sum()
            np.testing.assert_allclose(mean_view[b, entry], views[b, shown].mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("cue_size", [2, 14])
@pytest.mark.parametrize("noise", [0.05, 0.1, 0.12])
def test_ignoring_the_bounds_of_a_decisive_posterior_does_not_change_the_score(monkeypatch, cue_size, noise):
    task = CueReward(noise=noise, cue_size=cue_size)
    episode = task.sample(np.random.default_rng(1), 2000)
    oracle = task.oracle(episode)
    monkeypatch.setattr(cue_posterior, "_NARROW_NOISE", 0.0)
    exact = task.oracle(episode)
    assert (oracle != exact).any()
    # Small differences at a query carry over to later ones, which learn from it.
    assert np.sqrt(np.mean((oracle - exact) ** 2)) < 1e-2
    assert abs(task.score(episode, oracle).mean() - task.score(episode, exact).mean()) < 1e-4


@pytest.mark.parametrize("noise", [0.2, 0.5, 1.0, 30.0])
def test_oracle_beats_memoryless_under_strong_noise(noise):
    for task in (CueReward(noise=noise), CueChoice(noise=noise)):
        episode = task.sample(np.random.default_rng(9), 4000)
        gap, error = mean_and_error(
            task.score(episode, task.oracle(episode)) - task.score(episode, task.memoryless(episode))
        )
        assert gap > 4 * error if isinstance(task, CueReward) else gap > -4 * error
    task = CueReward(noise=noise)
    episode = task.sample(np.random.default_rng(10), 4000)
    oracle = task.score(episode, task.oracle(episode))
    for shrink in (0.5, 10 / 14, 1.0):
        gap, error = mean_and_error(oracle - task.score(episode, shrink * mean_support_reward(task, episode)))
        assert gap > -2 * error


@pytest.mark.parametrize(("noise", "n_support"), [(0.3, 1), (0.3, 3), (0.1, 6)])
def test_regression_oracle_is_the_posterior_mean_by_numerical_integration(noise, n_support):
    task = FewShotRegression(input_size=1, noise=noise, n_support=n_support, n_queries=4)
    episode = task.sample(np.random.default_rng(2), 5)
    oracle = 4 * task.oracle(episode)[..., 0]
    slope, later_sum = np.meshgrid(np.linspace(-12, 12, 1601), np.linspace(-3, 3, 801), indexing="ij")
    length = task.episode_length
    for b in range(5):
        x, y = episode.observation[b, :, 0].astype(float), episode.observation[b, :n_support, 1].astype(float)
        for step in range(n_support, length):
            # The values of an episode sum to 0, so the values of later points determine the intercept.
            intercept = -slope * x[: step + 1].sum() / length - later_sum
            later_variance = max((length - 1 - step) / length**2, 1e-5)
            log_density = -(slope**2) / (2 * 3) - later_sum**2 / (2 * later_variance)
            log_density -= sum((y[i] - slope * x[i] - intercept) ** 2 / (2 * noise**2) for i in range(n_support))
            weight = np.exp(log_density - log_density.max())
            exact = (weight * (slope * x[step] + intercept)).sum() / weight.sum()
            assert oracle[b, step] == pytest.approx(np.clip(exact, -4, 4), abs=2e-3)


@pytest.mark.parametrize("arguments", [{}, {"n_support": 10, "n_queries": 1}, {"n_support": 3, "noise": 0.5}])
@pytest.mark.parametrize("hidden_size", [0, 2])
def test_regression_oracle_is_the_conditional_mean_of_a_gaussian(arguments, hidden_size):
    """The reference conditions the covariances of values, instead of a distribution of weights."""
    task = FewShotRegression(input_size=6, hidden_size=hidden_size, **arguments)
    episode = task.sample(np.random.default_rng(12), 4)
    oracle = 4 * task.oracle(episode)[..., 0]
    length, n = task.episode_length, task.n_support
    for b in range(4):
        x, y = episode.observation[b, :, :6].astype(float), episode.observation[b, :n, 6].astype(float)
        for step in range(n, length):
            # f(x) = w (x - c) - (later values), where w is normal with variance 3 / 6.
            offset = x - x[: step + 1].sum(axis=0) / length
            covariance = offset @ offset.T * 3 / 6 + (length - 1 - step) / length**2
            support_covariance = covariance[:n, :n] + task.noise**2 * np.eye(n)
            exact = covariance[step, :n] @ np.linalg.solve(support_covariance, y)
            assert oracle[b, step] == pytest.approx(np.clip(exact, -4, 4), abs=1e-4)


@pytest.mark.parametrize("score_support", [False, True])
@pytest.mark.parametrize(("n_support", "n_queries"), [(10, 1), (20, 1), (5, 1), (10, 3), (5, 5)])
def test_completing_the_sum_to_zero_does_not_beat_the_regression_oracle(n_support, n_queries, score_support):
    task = FewShotRegression(n_support=n_support, n_queries=n_queries, score_support=score_support)
    episode = task.sample(np.random.default_rng(13), 3000)
    oracle = task.oracle(episode)
    answers = oracle.copy()
    completion = -episode.observation[:, :n_support, task.input_size].sum(axis=1) / n_queries
    answers[:, n_support:, 0] = np.clip(completion / 4, -1, 1)[:, None]
    gap, error = mean_and_error(task.score(episode, oracle) - task.score(episode, answers))
    assert gap > 2 * error


@pytest.mark.parametrize("name", ["FewShotRegression", "FewShotRegressionMLP"])
@pytest.mark.parametrize("n_support", [10, 20])
def test_no_other_ridge_beats_the_regression_oracle(name, n_support):
    """The penalties of the other ridge regressions are chosen in hindsight."""
    task = make_task(f"PlasticRNN/{name}-v0", n_support=n_support)
    episode = task.sample(np.random.default_rng(3), 1500)
    oracle = -task.score(episode, task.oracle(episode)).mean()
    x = episode.observation[..., : task.input_size].astype(float)
    x = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2)
    y = episode.observation[:, :n_support, task.input_size].astype(float)
    best = np.inf
    for weight_penalty in np.geomspace(0.003, 1, 9):
        for intercept_penalty in np.geomspace(0.03, 10, 5):
            penalty = np.diag([weight_penalty] * task.input_size + [intercept_penalty])
            support = x[:, :n_support].swapaxes(1, 2)
            weights = np.linalg.solve(support @ support.swapaxes(1, 2) + penalty, support @ y[:, :, None])
            answers = np.clip((x[:, n_support:] @ weights)[:, :, 0] / 4, -1, 1)
            actions = np.zeros(episode.target.shape)
            actions[:, n_support:, 0] = answers
            best = min(best, -task.score(episode, actions).mean())
    assert oracle < best * 1.05


@pytest.mark.parametrize(("n_cues", "n_trials", "n_episodes"), [(1, 3, 1), (2, 4, 1), (3, 4, 1), (2, 2, 2), (3, 1, 4)])
def test_cue_choice_oracle_matches_exhaustive_search(n_cues, n_trials, n_episodes):
    """Without noise, the search over all policies tracks the known values and enumerates the futures of each choice."""
    # Midpoints of equal intervals with a boundary at 0 give exact means of values and of their positive parts.
    values = (-0.75, -0.25, 0.25, 0.75)

    @cache
    def best(known, trials):
        if trials == 0:
            return 0.0
        total = 0.0
        for cue in range(n_cues):
            avoid = best(known, trials - 1)
            if known[cue] is None:
                futures = [(*known[:cue], value, *known[cue + 1 :]) for value in values]
                approach = sum(
                    value + best(future, trials - 1) for value, future in zip(values, futures, strict=True)
                ) / len(values)
            else:
                approach = known[cue] + best(known, trials - 1)
            total += max(avoid, approach)
        return total / n_cues

    task = CueChoice(n_cues=n_cues, n_trials=n_trials, noise=0.0)
    episodes = sample_trial(task, 40_000, n_episodes)
    returns = trial_returns(task, episodes)[0]
    earned, error = mean_and_error(returns.sum(axis=1))
    assert abs(earned - best((None,) * n_cues, n_episodes * n_trials)) < 4 * error
    # The oracle of an episode finds out everything again.
    forgetful = np.stack([task.rewards(each, task.oracle(each)).sum(axis=1) for each in episodes], axis=1)
    np.testing.assert_array_equal(returns[:, 0], forgetful[:, 0])
    gap, error = mean_and_error((returns - forgetful).sum(axis=1))
    assert gap > 5 * error if n_episodes > 1 else gap == 0


@pytest.mark.parametrize("noise", [0.1, 0.35, 1.0])
def test_cue_choice_oracle_identifies_cues_by_bayes_rule(noise):
    """The test compares the choice in the last trial, after the oracle has played all others, under strong noise."""
    task = CueChoice(n_cues=3, cue_size=2, noise=noise, n_trials=6)
    episode = task.sample(np.random.default_rng(8), 400)
    oracle = task.oracle(episode)
    cue = episode.observation[..., :2].astype(float)
    grid = midpoints(-1, 1, 500)
    compared = 0
    for b in range(400):
        approached = [trial for trial in range(5) if oracle[b, 2 * trial]]
        values = sorted({float(episode.stake[b, 2 * trial]) for trial in approached})
        steps = [
            [2 * t + k for t in approached if float(episode.stake[b, 2 * t]) == value for k in (0, 1)]
            for value in values
        ]
        views = [cue[b, steps_of_cue] for steps_of_cue in steps]
        likelihoods, novel = brute_force_likelihoods(views, cue[b, 10], task.n_cues, grid, noise)
        expected, known = np.dot(likelihoods, values), likelihoods.sum()
        # Skip choices that rounding may decide.
        if abs(expected) > 1e-2 * (known + novel) and abs(known - novel) > 1e-2 * (known + novel):
            compared += 1
            assert oracle[b, 10] == (expected > 0 or novel > known)
    assert compared > 300


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (CueReward(), "oracle"),
        (CueReward(noise=0.3), "reference"),
        (CueReward(cue_size=7), "reference"),
        (CueChoice(), "oracle"),
        # The cube is twice as wide.
        (CueChoice(cue_size=7), "oracle"),
        (CueChoice(cue_size=2), "reference"),
        (CueChoice(noise=0.4), "reference"),
    ],
    ids=str,
)
def test_the_name_oracle_needs_cues_that_are_certain_to_be_identified(task, name):
    assert task.oracle_name == name


def test_a_task_with_the_name_oracle_rarely_has_cues_that_are_alike():
    noise = np.sqrt(0.001 / (12 * np.pi))  # at the threshold for two components
    names = [cue_posterior.name_of_oracle(2, factor * noise, (0, 1)) for factor in (0.99, 1.01)]
    assert names == ["oracle", "reference"]
    one, other = np.random.default_rng(0).random((2, 1_000_000, 2))
    squared_distance = ((one - other) ** 2).sum(axis=1)
    # Given one view of a cue, the next one has twice the variance of the noise.
    log_ratio = squared_distance / (4 * noise**2)
    assert 0.0009 < np.mean(log_ratio < 3) < 0.001


def test_default_noise_does_not_lower_the_reward_of_the_cue_choice_oracle():
    """The mean reward is that of perfect identification: 1/4 for each view of a cue after the first."""
    task = CueChoice()
    episode = task.sample(np.random.default_rng(5), 20_000)
    earned, error = mean_and_error(task.rewards(episode, task.oracle(episode)).sum(axis=1))
    revisits = 12 - 4 * (1 - 0.75**12)
    assert abs(earned - revisits / 4) < 4 * error


def test_default_tasks_have_the_theoretical_errors():
    """The table has the mean squared errors of the memoryless policy and, if known, of the oracle."""
    errors = {
        # A query has a novel cue with probability (4/5)^10, at the cost of the variance 1/3.
        "CueReward": (1 / 3, 0.8**10 / 3),
        "SequenceReproduction": (1 / 3, 0.0),
        # Values have sample variance 1, so their squares sum to 39 over 40 steps.
        "FewShotRegression": (39 / 40, None),
        "FewShotRegressionMLP": (39 / 40, None),
    }
    for name, (memoryless_error, oracle_error) in errors.items():
        task = make_task(f"PlasticRNN/{name}-v0")
        episode = task.sample(np.random.default_rng(6), 4000)
        mean, error = mean_and_error(-task.score(episode, task.memoryless(episode)))
        assert abs(mean - memoryless_error) < 4 * error, name
        if oracle_error is not None:
            mean, error = mean_and_error(-task.score(episode, task.oracle(episode)))
            assert abs(mean - oracle_error) <= 4 * error + 1e-3, name


def nearest_support_reward(task, episode):
    cue = episode.observation[..., : task.cue_size]
    distance = ((cue[:, :, None] - cue[:, None, : task.n_support]) ** 2).sum(axis=-1)
    return np.take_along_axis(episode.observation[..., task.cue_size], distance.argmin(axis=2), axis=1)[:, :, None]


def mean_support_reward(task, episode):
    reward = episode.observation[:, : task.n_support, task.cue_size].mean(axis=1)
    return np.broadcast_to(reward[:, None, None], episode.target.shape)


def test_simple_policies_do_not_beat_the_oracle_nor_constants_the_memoryless_policy():
    rng = np.random.default_rng(7)
    tasks = [CueReward(), CueReward(noise=0.4), CueChoice(), SequenceReproduction(), FewShotRegression()]
    for task in tasks:
        episode = task.sample(rng, 2000)
        oracle = task.score(episode, task.oracle(episode))
        memoryless = task.score(episode, task.memoryless(episode))
        if isinstance(task, CueChoice):
            levels = [np.full(episode.target.shape, action) for action in (0, 1)]
        else:
            levels = [np.full(episode.target.shape, level) for level in (-0.3, -0.1, 0.1, 0.3)]
        for constant in levels:
            gap, error = mean_and_error(memoryless - task.score(episode, constant))
            assert gap >= -4 * error
        policies = [*levels, task.memoryless(episode)]
        if isinstance(task, CueReward):
            policies += [nearest_support_reward(task, episode), mean_support_reward(task, episode)]
        for actions in policies:
            gap, error = mean_and_error(oracle - task.score(episode, actions))
            assert gap > 4 * error, f"{task}: the oracle's lead is only {gap:.4f} ± {error:.4f}"


def test_reproduction_with_delays_that_differ():
    task = SequenceReproduction(length=3, delay=6, delay_range=4, value_size=2)
    episode = task.sample(np.random.default_rng(0), 200)
    assert np.array_equal(task.oracle(episode), episode.target)
    is_support = episode.observation[..., 2] == 1
    last = task.episode_length - 1 - is_support[:, ::-1].argmax(axis=1)
    assert (is_support.sum(axis=1) == 3).all()
    assert set(task.query_start - 1 - last) == {2, 3, 4, 5, 6}
    assert np.array_equal(episode.observation[is_support][:, :2].reshape(200, 3, 2), episode.latent["values"])
    with pytest.raises(ValueError, match="delay_range must be between 0 and 6"):
        SequenceReproduction(delay=6, delay_range=7)
