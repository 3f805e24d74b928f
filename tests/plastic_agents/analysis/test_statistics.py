"""Means, intervals and curves."""

import numpy as np
import pytest
from plastic_agents.analysis.statistics import Curve, Estimate, curve, estimate, mean_and_range


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
