"""The public checks: content with good tasks (see test_every_environment), and not with broken ones."""

import numpy as np
import pytest
from gymnasium import spaces

from plastic_envs.tasks import CueChoice, CueReward
from plastic_envs.testing import check_task, check_vector_env
from plastic_envs.vector_env import TaskVectorEnv


class Unbounded(CueReward):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (16,), np.float32)


class BeyondItsBounds(CueReward):
    def compose(self, stimuli, contents):
        episode = super().compose(stimuli, contents)
        episode.observation[:, 3] *= 2
        return episode


class WrongType(CueReward):
    def compose(self, stimuli, contents):
        episode = super().compose(stimuli, contents)
        object.__setattr__(episode, "target", episode.target.astype(np.float64))
        return episode


class Unseeded(CueReward):
    def contents(self, rng, batch_size):
        return super().contents(np.random.default_rng(), batch_size)


class StrangersForTwins(CueChoice):
    def sample_yoked(self, rng, batch_size):
        return self.sample(rng, batch_size), self.sample(rng, batch_size)


class IdenticalTwins(CueReward):
    def sample_yoked(self, rng, batch_size):
        episode = self.sample(rng, batch_size)
        return episode, episode


class SeesTheAnswer(CueReward):
    def oracle(self, episode):
        return episode.target.copy()


class SeesTheFuture(CueReward):
    def oracle(self, episode):
        actions = super().oracle(episode)
        actions[:, 10] = episode.observation[:, 10:, 3].mean(axis=1, keepdims=True).clip(-1, 1)
        return actions


class BadOracle(CueReward):
    def oracle(self, episode):
        return np.ones(episode.target.shape, dtype=np.float32)


class BadMemoryless(CueReward):
    def memoryless(self, episode):
        return np.ones(episode.target.shape, dtype=np.float32)

    def oracle(self, episode):
        return np.zeros(episode.target.shape, dtype=np.float32)


class UnderstatedRange(CueReward):
    reward_range = (-0.1, 0.0)


class ForgottenChannel(CueReward):
    def __init__(self):
        super().__init__()
        self.channels = (("cue", 14),)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Unbounded, "observation_space must be bounded"),
        (BeyondItsBounds, "observations leave observation_space"),
        (WrongType, "target must be float32"),
        (Unseeded, "sampling twice from one seed gave another"),
        (StrangersForTwins, "twins must share item"),
        (IdenticalTwins, "twins must differ"),
        (SeesTheAnswer, "oracle must not see targets"),
        (SeesTheFuture, "oracle must not see the future"),
        (BadOracle, "oracle's mean score .* is below"),
        (BadMemoryless, "memoryless mean score .* is below that of chance"),
        (UnderstatedRange, "rewards leave reward_range"),
        (ForgottenChannel, "channels must add up"),
    ],
)
def test_broken_tasks_are_found_out(task, words):
    with pytest.raises(AssertionError, match=words):
        check_task(task())


def test_tasks_that_workers_cannot_get_are_found_out():
    class Local(CueReward):
        pass

    with pytest.raises(AssertionError, match="must survive pickling"):
        check_task(Local())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("rewards", "rewards"),
        ("terminated", "flags"),
        ("infos", "infos have"),
        ("target", "target"),
    ],
)
def test_broken_vector_environments_are_found_out(monkeypatch, change, words):
    step = TaskVectorEnv.step

    def broken(self, actions):
        observations, rewards, terminated, truncated, infos = step(self, actions)
        if change == "rewards":
            rewards = rewards + 1e-9
        elif change == "terminated":
            terminated = np.zeros_like(terminated)
        elif change == "infos":
            infos["more"] = np.zeros(self.num_envs)
        elif change == "target":
            infos["target"] = infos["target"] * 2
        return observations, rewards, terminated, truncated, infos

    monkeypatch.setattr(TaskVectorEnv, "step", broken)
    with pytest.raises(AssertionError, match=words):
        check_vector_env(CueReward(n_presentations=1, n_queries=2))
