"""Means, intervals and curves."""

import numpy as np
import pytest
from plastic_agents.analysis.statistics import (
    Curve,
    Estimate,
    curve,
    difference,
    estimate,
    mean_and_range,
    mean_interval,
    ratio,
    t_quantile,
)


def test_interval_of_an_estimate_covers_the_true_mean_in_95_percent_of_samples():
    rng = np.random.default_rng(0)
    n_covered = 0
    for _ in range(400):
        episode_mean = rng.normal(size=(60, 1))  # steps of an episode are correlated
        counted = rng.random((60, 5)) < 0.6
        mean, low, high = estimate(episode_mean + rng.normal(size=(60, 5)) + 2, counted)
        assert low < mean < high
        n_covered += low < 2 < high
    assert 0.91 < n_covered / 400 < 0.98


def test_estimate_of_no_steps_is_nan():
    assert all(np.isnan(estimate(np.zeros((2, 2)), np.zeros((2, 2), bool))))


def test_estimate_of_a_single_episode_has_no_interval():
    values = np.array([[1.0, 3.0, 9.0], [5.0, 5.0, 5.0]])
    counted = np.array([[True, True, False], [False, False, False]])
    mean, low, high = estimate(values, counted)
    assert mean == 2
    assert np.isnan([low, high]).all()


def test_mean_and_range():
    assert mean_and_range([3.0, 1.0, 2.6]) == Estimate(pytest.approx(2.2), 1.0, 3.0)


def test_interval_of_a_mean_over_seeds_covers_the_true_mean_in_95_percent_of_samples():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(3.0, 2.0, size=5)) for _ in range(1000)]
    assert 0.93 < np.mean([low < 3 < high for _, low, high in intervals]) < 0.97
    assert np.isnan(mean_interval([0.5])[1:]).all()


def test_curve_is_the_estimate_at_each_x():
    values = np.arange(12.0).reshape(3, 4)
    x = np.array([[5, 5, 2, 2], [2, 5, 5, 2], [5, 2, 2, 2]])
    counted = np.array([[True, True, True, False], [True] * 4, [True] * 4])
    expected = [estimate(values, counted & (x == position)) for position in (2, 5)]
    assert curve(values, counted, x) == Curve([2, 5], *(list(column) for column in zip(*expected, strict=True)))


@pytest.mark.parametrize(("min_fraction", "expected"), [(0.0, [0, 1, 2]), (0.1, [0, 1, 2]), (0.11, [0, 1])])
def test_curve_leaves_out_rare_values_of_x(min_fraction, expected):
    x = np.array([[0, 0, 0, 0, 1], [0, 0, 1, 1, 2]])
    assert curve(np.zeros((2, 5)), np.ones((2, 5), bool), x, min_fraction).x == expected


def test_interval_of_a_ratio_covers_the_true_ratio_in_95_percent_of_samples():
    rng = np.random.default_rng(0)
    n_covered = 0
    for _ in range(2000):
        denominators = rng.normal(1, 0.5, size=100)
        numerators = 0.8 * denominators + rng.normal(0, 0.3, size=100)
        _, low, high = ratio(numerators, denominators)
        n_covered += low < 0.8 < high
    assert 0.93 < n_covered / 2000 < 0.96


@pytest.mark.parametrize(("share", "least"), [(0.5, 0.92), (0.95, 0.92), (0.99, 0.92)])
def test_intervals_of_shares_cover_the_true_share(share, least):
    rng = np.random.default_rng(0)
    counted = np.ones((100, 5), bool)
    covered = []
    for _ in range(400):
        values = (rng.random((100, 5)) < share).astype(float)
        mean, low, high = estimate(values, counted, is_share=True)
        assert mean == values.mean()
        assert 0 <= low <= mean <= high <= 1
        covered.append(low < share < high)
    assert least < np.mean(covered) < 0.99


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_share_of_all_or_none_has_an_interval(value):
    values = np.full((50, 4), value)
    mean, low, high = estimate(values, np.ones((50, 4), bool), is_share=True)
    assert mean == value
    # Wilson's interval for 50 independent values.
    assert high - low == pytest.approx(1.96**2 / (50 + 1.96**2))
    assert (high if value else low) == value


def test_a_share_depends_on_episodes_and_not_on_their_equal_steps():
    rng = np.random.default_rng(0)
    once = (rng.random((200, 1)) < 0.7).astype(float)
    intervals = [estimate(np.repeat(once, n, axis=1), np.ones((200, n), bool), is_share=True) for n in (1, 8)]
    np.testing.assert_allclose(*intervals)


# From a table of Student's t distribution.
@pytest.mark.parametrize(("degrees", "expected"), [(1, 12.706), (2, 4.303), (4, 2.776), (8, 2.306), (30, 2.042)])
def test_quantiles_of_the_t_distribution(degrees, expected):
    assert t_quantile(degrees) == pytest.approx(expected, abs=5e-4)


def test_interval_of_a_difference_covers_the_true_difference_in_95_percent_of_samples():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        mean, low, high = difference(rng.normal(3, 1, size=5), rng.normal(1, 3, size=5))
        assert low < mean < high
        covered.append(low < 2 < high)
    assert 0.925 < np.mean(covered) < 0.975


def test_a_difference_of_single_seeds_has_no_interval():
    mean, low, high = difference([3.0], [1.0, 2.0])
    assert mean == 1.5
    assert np.isnan([low, high]).all()
    assert difference([2.0, 2.0], [1.0, 1.0]) == Estimate(1.0, 1.0, 1.0)
