"""Tests that the public checks reject broken tasks. test_every_environment.py tests that they accept good ones."""

import numpy as np
import pytest
from gymnasium import spaces

from plastic_envs.tasks import CueChoice, CueReward, FewShotRegression, SequenceReproduction
from plastic_envs.testing import check_task, check_vector_env
from plastic_envs.vector_env import TaskVectorEnv


class Unbounded(CueReward):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-np.inf, np.inf, (16,), np.float32)


class OutOfBounds(CueReward):
    def compose(self, stimuli, memoranda):
        episode = super().compose(stimuli, memoranda)
        episode.observation[:, 3] *= 2
        return episode


class WrongDtype(CueReward):
    def compose(self, stimuli, memoranda):
        episode = super().compose(stimuli, memoranda)
        object.__setattr__(episode, "target", episode.target.astype(np.float64))
        return episode


class Unseeded(CueReward):
    def sample_memoranda(self, rng, batch_size):
        return super().sample_memoranda(np.random.default_rng(), batch_size)


class UnrelatedTwins(CueChoice):
    def sample_yoked(self, rng, batch_size):
        return self.sample(rng, batch_size), self.sample(rng, batch_size)


class IdenticalTwins(CueReward):
    def sample_yoked(self, rng, batch_size):
        episode = self.sample(rng, batch_size)
        return episode, episode


class OracleSeesTarget(CueReward):
    def oracle(self, episode):
        return episode.target.copy()


class OracleSeesTheFuture(CueReward):
    def oracle(self, episode):
        actions = super().oracle(episode)
        actions[:, 10] = episode.observation[:, 10:, 3].mean(axis=1, keepdims=True).clip(-1, 1)
        return actions


class UnrelatedTwinsWithoutItems(FewShotRegression):
    def sample_yoked(self, rng, batch_size):
        return self.sample(rng, batch_size), self.sample(rng, batch_size)


class OracleSeesTheNextStep(CueReward):
    def oracle(self, episode):
        actions = super().oracle(episode)
        actions[:, 0, 0] = episode.observation[:, 1, 3].clip(-1, 1)
        return actions


class OracleSeesItem(CueReward):
    def oracle(self, episode):
        actions = self.memoryless(episode)
        for b in range(len(episode)):
            rewards = dict(zip(episode.item[b, :10].tolist(), actions[b, :10, 0].tolist(), strict=True))
            actions[b, 10:, 0] = [rewards.get(item, 0) for item in episode.item[b, 10:].tolist()]
        return actions


class OracleSeesLatent(CueReward):
    def oracle(self, episode):
        distance = ((episode.observation[:, :, None, :14] - episode.latent["cues"][:, None]) ** 2).sum(axis=-1)
        return np.take_along_axis(episode.latent["rewards"], distance.argmin(axis=2), axis=1)[:, :, None]


class OracleSeesStake(CueChoice):
    def oracle(self, episode):
        return ((episode.stake > 0) & episode.scored).astype(np.int64)


class OracleSeesTheNextOutcome(CueChoice):
    """Avoids the first cue if its value is negative."""

    def oracle(self, episode):
        actions = super().oracle(episode)
        actions[:, 0] = episode.stake[:, 0] > 0
        return actions


class MemorylessSeesStake(CueChoice):
    def memoryless(self, episode):
        return ((episode.stake > 0.9) & episode.scored).astype(np.int64)


class MemorylessRemembers(CueReward):
    def memoryless(self, episode):
        return CueReward().oracle(episode)

    def oracle(self, episode):
        return CueReward().oracle(episode) * np.float32(0.999)


class MemorylessRemembersOneStep(CueReward):
    def memoryless(self, episode):
        actions = super().memoryless(episode)
        actions[:, 18] = episode.observation[:, 17, 3:4].clip(-0.1, 0.1)
        return actions

    def oracle(self, episode):
        return CueReward().oracle(episode)


class MemorylessSeesTheFuture(CueReward):
    def memoryless(self, episode):
        actions = super().memoryless(episode)
        actions[:, 3] = episode.observation[:, 12, 3:4].clip(-0.1, 0.1)
        return actions

    def oracle(self, episode):
        return CueReward().oracle(episode)


class OracleIsMemoryless(CueReward):
    def oracle(self, episode):
        return self.memoryless(episode)


class BadOracle(CueReward):
    def oracle(self, episode):
        return np.ones(episode.target.shape, dtype=np.float32)


class TimidOracle(CueReward):
    def oracle(self, episode):
        return super().oracle(episode) * np.float32(0.8)


class BadMemoryless(CueReward):
    def memoryless(self, episode):
        return np.ones(episode.target.shape, dtype=np.float32)

    def oracle(self, episode):
        return np.zeros(episode.target.shape, dtype=np.float32)


class NarrowRewardRange(CueReward):
    reward_range = (-0.1, 0.0)


class MissingChannel(CueReward):
    def __init__(self):
        super().__init__()
        self.channels = (("cue", 14),)


class WorldWithoutLatent(CueReward):
    world = ("cues", "noise")


class ChangingWorld(CueReward):
    def compose(self, stimuli, memoranda):
        return super().compose({**stimuli, "cues": np.sort(1 - stimuli["cues"])}, memoranda)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Unbounded, "observation_space must be bounded"),
        (OutOfBounds, "observations are outside observation_space"),
        (WrongDtype, "target must be float32"),
        (Unseeded, "sampling twice from one seed gave a different"),
        (UnrelatedTwins, "twins must share item"),
        (IdenticalTwins, "twins must differ"),
        (UnrelatedTwinsWithoutItems, "twins must share the observations that do not depend on the memoranda"),
        (OracleSeesTarget, "oracle must not see target"),
        (OracleSeesTheFuture, "oracle must not see the future"),
        (OracleSeesTheNextStep, "oracle must not see the future, from step 1"),
        (OracleSeesItem, "oracle must not see item"),
        (OracleSeesLatent, "oracle must not see latent"),
        (OracleSeesStake, "oracle must not see a stake"),
        (OracleSeesTheNextOutcome, "oracle must not see a stake|oracle must not see the future"),
        (MemorylessSeesStake, "memoryless must not see stake"),
        (MemorylessRemembers, "memoryless must not depend on observations of other steps"),
        (MemorylessRemembersOneStep, "memoryless must not depend on observations of other steps"),
        (MemorylessSeesTheFuture, "memoryless must not depend on observations of other steps"),
        (OracleIsMemoryless, "oracle must not be the memoryless policy"),
        (BadOracle, "oracle mean score .* is below that of memoryless"),
        (BadMemoryless, "memoryless mean score .* is below that of random"),
        (TimidOracle, "oracle must be the best player"),
        (NarrowRewardRange, "rewards are outside reward_range"),
        (MissingChannel, "channels must add up"),
        (WorldWithoutLatent, r"world must name draws .* got 'noise'"),
        (ChangingWorld, "cues changed within a world"),
    ],
)
def test_check_task_rejects_broken_tasks(task, words):
    with pytest.raises(AssertionError, match=words):
        check_task(task())


class TimidReference(TimidOracle):
    oracle_name = "reference"


def test_check_task_accepts_a_reference_that_is_not_the_best_player():
    check_task(TimidReference())


SHORT = [
    CueReward(n_support=1, n_queries=1),
    CueChoice(n_trials=1),
    SequenceReproduction(length=1, delay=0),
    FewShotRegression(n_support=1, n_queries=1),
]


@pytest.mark.parametrize("task", [*SHORT, CueChoice(n_trials=2)], ids=repr)
def test_check_task_accepts_good_tasks_for_many_seeds(task):
    for seed in range(15):
        check_task(task, seed=seed)


@pytest.mark.parametrize("task", SHORT, ids=repr)
def test_check_vector_env_accepts_short_episodes(task):
    check_vector_env(task)


def test_check_vector_env_accepts_episodes_of_one_step():
    check_vector_env(OneStep())


class OneStep(CueReward):
    """An episode of one query."""

    def __init__(self):
        super().__init__(n_support=1, n_queries=1)
        self.episode_length, self.query_start = 1, 0

    def compose(self, stimuli, memoranda):
        stimuli = {**stimuli, "item": stimuli["item"][:, :1], "noise": stimuli["noise"][:, :1]}
        return super().compose(stimuli, memoranda)

    def oracle(self, episode):
        return self.memoryless(episode)


def test_check_task_takes_an_id_and_names_other_arguments():
    check_task("PlasticRNN/Harlow-v0")
    with pytest.raises(TypeError, match=r"task must be a Task or an environment id, got <class .*CueReward"):
        check_task(CueReward)


def test_compose_must_return_an_episode_batch():
    class Tuples(CueReward):
        def compose(self, stimuli, memoranda):
            return tuple(vars(super().compose(stimuli, memoranda)).values())

    with pytest.raises(TypeError, match="compose must return an EpisodeBatch, got tuple"):
        check_task(Tuples())


def test_check_task_rejects_tasks_that_cannot_be_pickled():
    class Local(CueReward):
        pass

    with pytest.raises(AssertionError, match="must be picklable"):
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
def test_check_vector_env_rejects_broken_vector_environments(monkeypatch, change, words):
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
        check_vector_env(CueReward(n_support=1, n_queries=2))
