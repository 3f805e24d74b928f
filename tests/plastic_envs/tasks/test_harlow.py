"""Harlow: sides, rewards, twins and the oracle."""

import numpy as np

from plastic_envs.stream import trial_returns
from plastic_envs.tasks import Harlow


def test_the_rewarded_object_is_on_the_target_side():
    episode = Harlow(object_size=3, n_trials=4).sample(np.random.default_rng(0), 100)
    rewarded = episode.latent["objects"][np.arange(100), episode.latent["rewarded"]]
    for step in range(0, 8, 2):
        sides = episode.observation[:, step, :6].reshape(100, 2, 3)
        assert np.array_equal(sides[np.arange(100), episode.target[:, step]], rewarded)
        assert np.array_equal(episode.observation[:, step, :6], episode.observation[:, step + 1, :6])
    assert 0.4 < episode.target[:, ::2].mean() < 0.6


def test_the_oracle_makes_no_mistake_after_the_first_trial():
    task = Harlow()
    episode = task.sample(np.random.default_rng(0), 2000)
    rewards = task.rewards(episode, task.oracle(episode))[:, ::2]
    assert (rewards[:, 1:] == 1).all()
    assert abs(rewards[:, 0].mean()) < 0.1
    assert set(np.unique(rewards[:, 0])) == {-1, 1}


def test_the_oracle_of_a_trial_guesses_once():
    task, rng = Harlow(n_trials=2), np.random.default_rng(0)
    episodes = [task.sample(rng, 2000)]
    episodes += [task.sample_same_world(rng, episodes[0]) for _ in range(2)]
    returns, _ = trial_returns(task, episodes)
    assert set(np.unique(returns[:, 0])) == {0, 2}
    assert (returns[:, 1:] == 2).all()


def test_the_other_object_is_rewarded_in_the_twin():
    task = Harlow()
    episode, twin = task.sample_yoked(np.random.default_rng(0), 50)
    assert np.array_equal(episode.observation, twin.observation)
    assert np.array_equal(episode.target[:, ::2], 1 - twin.target[:, ::2])
    assert np.array_equal(episode.stake, -twin.stake)
