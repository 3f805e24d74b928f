"""Oracles against brute force, and against every policy that comes to mind."""

from functools import cache
from statistics import NormalDist

import numpy as np
import pytest

from plastic_envs import make_task
from plastic_envs.tasks import CueChoice, CueReward, FewShotRegression, SequenceReproduction


def mean_and_error(values):
    return values.mean(), values.std() / np.sqrt(len(values))


def cue_posterior(task, episode, b, step, low, high):
    """The mean reward of the cue at a query, by summing over where each cue shown before may lie in [low, high]."""
    places = np.linspace(low, high, 4001)
    cue = episode.observation[b, :, : task.cue_size].astype(float)
    shown = episode.observation[b, : task.n_presentations, task.cue_size]

    def density(views):
        """Density of views of one thing, each with its own noise, for every place it may be at; [places, D]."""
        z = (views[:, None, :] - places[None, :, None]) / task.noise
        return np.exp(-0.5 * (z**2).sum(axis=0)) / (task.noise * np.sqrt(2 * np.pi)) ** len(views)

    rewards = sorted(set(shown.tolist()))
    weights = []
    for reward in rewards:
        views = cue[: task.n_presentations][shown == reward]
        both = density(np.concatenate([views, cue[step : step + 1]])).sum(axis=0)
        weights.append(np.prod(both / density(views).sum(axis=0)))
    weights = np.array(weights)
    return rewards, weights


def expected_reward(task, rewards, weights, density_unseen):
    unseen = (task.n_cues - len(rewards)) * density_unseen
    return float(np.dot(weights, rewards) / (weights.sum() + unseen))


def test_cue_reward_oracle_is_the_posterior_mean():
    """With cues that may lie anywhere, as the oracle takes it, it is exact."""
    task = CueReward(n_cues=4, cue_size=2, noise=0.2, n_presentations=5, n_queries=3)
    episode = task.sample(np.random.default_rng(0), 60)
    oracle = task.oracle(episode)
    ambiguous = 0
    for b in range(60):
        for step in range(5, 8):
            rewards, weights = cue_posterior(task, episode, b, step, -4, 5)
            exact = expected_reward(task, rewards, weights, 1.0)
            assert oracle[b, step, 0] == pytest.approx(exact, abs=2e-4)
            share = weights / (weights.sum() + task.n_cues - len(rewards))
            ambiguous += 0.1 < share.max() < 0.9
    assert ambiguous > 30, "the comparison has to be made where recognition is uncertain"


def test_bounds_that_the_cue_reward_oracle_ignores_hardly_matter():
    """The exact posterior, with cues in the unit cube, gains next to nothing at the default noise."""
    task = CueReward(n_presentations=5, n_queries=4)
    episode = task.sample(np.random.default_rng(1), 40)
    normal = NormalDist()
    exact = task.oracle(episode).copy()
    for b in range(40):
        for step in range(5, 9):
            rewards, weights = cue_posterior(task, episode, b, step, 0, 1)
            query = episode.observation[b, step, :14].astype(float) / task.noise
            unseen = np.prod([normal.cdf(z) - normal.cdf(z - 1 / task.noise) for z in query])
            exact[b, step, 0] = expected_reward(task, rewards, weights, unseen)
    gain = task.score(episode, exact) - task.score(episode, task.oracle(episode))
    assert abs(gain.mean()) < 1e-3


@pytest.mark.parametrize(("noise", "shown"), [(0.3, 1), (0.3, 3), (0.1, 6)])
def test_regression_oracle_is_the_posterior_mean_by_numerical_integration(noise, shown):
    task = FewShotRegression(input_size=1, noise=noise, n_support=shown, n_query=4)
    episode = task.sample(np.random.default_rng(2), 5)
    oracle = 4 * task.oracle(episode)[..., 0]
    slope, intercept = np.meshgrid(np.linspace(-12, 12, 1601), np.linspace(-3, 3, 801), indexing="ij")
    prior = -(slope**2) / (2 * 3) - intercept**2 * task.episode_length / 2
    for b in range(5):
        x, y = episode.observation[b, :, 0].astype(float), episode.observation[b, :shown, 1].astype(float)
        log_density = prior - sum((y[i] - slope * x[i] - intercept) ** 2 / (2 * noise**2) for i in range(shown))
        weight = np.exp(log_density - log_density.max())
        weight /= weight.sum()
        for step in range(shown, shown + 4):
            exact = (weight * (slope * x[step] + intercept)).sum()
            assert oracle[b, step] == pytest.approx(np.clip(exact, -4, 4), abs=2e-3)


@pytest.mark.parametrize("name", ["FewShotRegression", "FewShotRegressionMLP"])
@pytest.mark.parametrize("n_support", [10, 20])
def test_no_other_ridge_beats_the_regression_oracle(name, n_support):
    """Not even with penalties chosen in hindsight."""
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
            shown = x[:, :n_support].swapaxes(1, 2)
            weights = np.linalg.solve(shown @ shown.swapaxes(1, 2) + penalty, shown @ y[:, :, None])
            answers = np.clip((x[:, n_support:] @ weights)[:, :, 0] / 4, -1, 1)
            actions = np.zeros(episode.target.shape)
            actions[:, n_support:, 0] = answers
            best = min(best, -task.score(episode, actions).mean())
    assert oracle < best * 1.05


@pytest.mark.parametrize(("n_cues", "n_trials"), [(1, 3), (2, 4), (3, 4)])
def test_cue_choice_oracle_earns_what_exhaustive_search_finds(n_cues, n_trials):
    """Without noise, over all policies: what is known of each cue, and all that may follow either choice."""
    # Midpoints of equal intervals with an end at 0: means of values, and of their positive parts, are exact.
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
    episode = task.sample(np.random.default_rng(4), 40_000)
    earned, error = mean_and_error(task.rewards(episode, task.oracle(episode)).sum(axis=1))
    assert abs(earned - best((None,) * n_cues, n_trials)) < 4 * error


def test_cue_choice_oracle_recognises_cues_by_bayes_rule():
    """Where noise makes cues alike: the choice in the last trial, after all others were played as the oracle does."""
    task = CueChoice(n_cues=3, cue_size=2, noise=0.35, n_trials=6)
    episode = task.sample(np.random.default_rng(8), 400)
    oracle = task.oracle(episode)
    cue = episode.observation[..., :2].astype(float)
    places = np.linspace(-6, 6, 1201)

    def density(views):
        z = (views[:, None, :] - places[None, :, None]) / task.noise
        return np.exp(-0.5 * (z**2).sum(axis=0)) / (task.noise * np.sqrt(2 * np.pi)) ** len(views)

    compared = 0
    for b in range(400):
        approached = [trial for trial in range(5) if oracle[b, 2 * trial]]
        values = sorted({float(episode.worth[b, 2 * trial]) for trial in approached})
        weights = []
        for value in values:
            steps = [2 * t + k for t in approached if float(episode.worth[b, 2 * t]) == value for k in (0, 1)]
            both = density(cue[b, [*steps, 10]]).sum(axis=0)
            weights.append(np.prod(both / density(cue[b, steps]).sum(axis=0)))
        unseen = (task.n_cues - len(values)) / 4
        expected, known = np.dot(weights, values), sum(weights)
        # Leave out what rounding may decide.
        if abs(expected) > 1e-3 * (known + unseen) and abs(known - unseen) > 1e-3 * (known + unseen):
            compared += 1
            assert oracle[b, 10] == (expected > 0 or unseen > known)
    assert compared > 300


def test_noise_hardly_costs_the_cue_choice_oracle():
    """With default noise it earns what it would if it knew each cue at sight: (visits after the first) / 4."""
    task = CueChoice()
    episode = task.sample(np.random.default_rng(5), 20_000)
    earned, error = mean_and_error(task.rewards(episode, task.oracle(episode)).sum(axis=1))
    revisits = 12 - 4 * (1 - 0.75**12)
    assert abs(earned - revisits / 4) < 4 * error


def test_figures_of_the_default_tasks():
    """Mean squared errors over scored steps, from theory where there is one."""
    figures = {
        # Cues never presented, (4/5)^10 of all, cost the variance 1/3; recognition costs next to nothing.
        "CueReward": (1 / 3, 0.8**10 / 3),
        "SequenceReproduction": (1 / 3, 0.0),
        # Standardised by the sample variance, so that squares sum to 39 over 40 steps.
        "FewShotRegression": (39 / 40, None),
        "FewShotRegressionMLP": (39 / 40, None),
    }
    for name, (without, best) in figures.items():
        task = make_task(f"PlasticRNN/{name}-v0")
        episode = task.sample(np.random.default_rng(6), 4000)
        mean, error = mean_and_error(-task.score(episode, task.memoryless(episode)))
        assert abs(mean - without) < 4 * error, name
        if best is not None:
            mean, error = mean_and_error(-task.score(episode, task.oracle(episode)))
            assert abs(mean - best) <= 4 * error + 1e-3, name


def nearest_shown(task, episode):
    cue = episode.observation[..., : task.cue_size]
    distance = ((cue[:, :, None] - cue[:, None, : task.n_presentations]) ** 2).sum(axis=-1)
    return np.take_along_axis(episode.observation[..., task.cue_size], distance.argmin(axis=2), axis=1)[:, :, None]


def mean_shown(task, episode):
    shown = episode.observation[:, : task.n_presentations, task.cue_size].mean(axis=1)
    return np.broadcast_to(shown[:, None, None], episode.target.shape)


def test_no_policy_beats_the_oracle_and_no_constant_the_memoryless():
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
            policies += [nearest_shown(task, episode), mean_shown(task, episode)]
        for actions in policies:
            gap, error = mean_and_error(oracle - task.score(episode, actions))
            assert gap > 4 * error, f"{task}: the oracle is ahead by {gap:.4f} ± {error:.4f} only"
