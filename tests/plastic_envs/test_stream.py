"""Tests of the scores of the oracle and of the memoryless policy on finished episodes."""

import copy
import pickle
import tracemalloc

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import plastic_envs
from plastic_envs import stream
from plastic_envs.env import TaskEnv
from plastic_envs.stream import reference_scores
from plastic_envs.tasks import CueChoice, CueReward, FewShotRegression
from plastic_envs.vector_env import TaskVectorEnv

REFERENCES = {"oracle_score", "memoryless_score", "regret", "normalised_score"}


class CountingTask(CueReward):
    """Records the batch size of each call of the oracle."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.batch_sizes = []

    def oracle(self, episode):
        self.batch_sizes.append(len(episode))
        return super().oracle(episode)


def play(env, episodes=1):
    env.action_space.seed(0)
    finals = []
    for episode in range(episodes):
        env.reset(seed=0 if episode == 0 else None)
        for _ in range(env.unwrapped.task.episode_length):
            result = env.step(env.action_space.sample())
        finals.append(result[-1])
    return finals


def test_unfinished_episodes_are_not_scored_by_the_oracle():
    task = CountingTask()
    single, vector = TaskEnv(task), TaskVectorEnv(task, 3)
    for env in (single, vector):
        for _ in range(150):
            env.reset()
            env.step(env.action_space.sample())
    assert task.batch_sizes == []
    for env in (single, vector):
        play(env)
    assert task.batch_sizes == [128, 3]


def test_short_episodes_are_scored_ahead_and_long_ones_in_small_chunks(monkeypatch):
    task = CountingTask()
    env = TaskEnv(task)
    finals = play(env, episodes=130)
    assert task.batch_sizes == [128, 2 + 126]
    entries = task.oracle_entries(task.sample(np.random.default_rng(0), 1))
    monkeypatch.setattr(stream, "_ENTRIES_AT_ONCE", 3 * entries)
    task.batch_sizes.clear()
    finals_of_small_chunks = play(env, episodes=130)
    assert task.batch_sizes[:2] == [3, 3]
    assert len(task.batch_sizes) == 43 + 1
    np.testing.assert_equal(finals_of_small_chunks, finals)


def test_aborted_episodes_are_not_scored(monkeypatch):
    monkeypatch.setattr(stream, "_ENTRIES_AT_ONCE", 1)
    task = CountingTask()
    env = TaskEnv(task)
    finals = play(env, episodes=3)
    env.reset(seed=0)
    env.reset()
    env.action_space.seed(0)
    for _ in range(20):
        *_, info = env.step(env.action_space.sample())
    assert info["oracle_score"] == finals[1]["oracle_score"]
    assert task.batch_sizes == [1] * 4


@pytest.mark.parametrize("task", [CueReward(), CueChoice(n_trials=3), FewShotRegression(score_support=True)])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_chunks_have_the_scores_of_the_whole_batch(task, size, monkeypatch):
    episode = task.sample(np.random.default_rng(0), 7)
    whole_batch = reference_scores(task, episode)
    assert [len(scores) for scores in whole_batch] == [7, 7]
    entries = max(task.episode_length, episode.observation.shape[-1]) ** 2
    monkeypatch.setattr(stream, "_ENTRIES_AT_ONCE", size * entries)
    np.testing.assert_allclose(reference_scores(task, episode), whole_batch, rtol=1e-6)
    expected = [task.score(episode, policy(episode)) for policy in (task.oracle, task.memoryless)]
    np.testing.assert_allclose(whole_batch, expected, rtol=1e-6)


def test_memory_of_reference_scores_does_not_grow_with_the_number_of_lanes():
    """Some oracles compare all pairs of steps, which for 64 lanes at once would need 64 times the memory."""
    task = CueChoice(n_trials=250)
    episode = task.sample(np.random.default_rng(0), 64)
    peaks = []
    for lanes in (1, 64):
        tracemalloc.start()
        reference_scores(task, episode[:lanes])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 8 * peaks[0]


@pytest.mark.parametrize("env_id", plastic_envs.registered_ids())
def test_reference_scores_do_not_change_other_results(env_id):
    for make in (gymnasium.make, lambda env_id, **arguments: gymnasium.make_vec(env_id, num_envs=2, **arguments)):
        with_scores, without_scores = (
            play(make(env_id, **arguments))[0] for arguments in ({}, {"reference_scores": False})
        )
        names = REFERENCES | {f"_{name}" for name in REFERENCES}
        assert set(with_scores) - set(without_scores) == {name for name in with_scores if name in names}
        assert set(with_scores) >= REFERENCES
        np.testing.assert_equal(without_scores, {name: with_scores[name] for name in without_scores})


def test_without_reference_scores_the_oracle_is_not_called():
    task = CountingTask()
    play(TaskEnv(task, reference_scores=False))
    for mode in AutoresetMode:
        play(TaskVectorEnv(task, 2, reference_scores=False, autoreset_mode=mode))
    assert task.batch_sizes == []
    final = play(TaskVectorEnv(task, 2, reference_scores=False, autoreset_mode="SameStep"))[0]["final_info"]
    assert "score" in final
    assert not REFERENCES & set(final)


def test_specs_and_copies_keep_the_reference_scores_argument():
    env = gymnasium.make("PlasticRNN/CueReward-v0", reference_scores=False)
    recreated = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    for env_copy in (recreated, copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert env_copy.unwrapped.reference_scores is False


def test_long_episodes_of_many_lanes_are_scored_together_if_the_oracle_needs_little_memory():
    task = CueReward(n_support=500, n_queries=500)
    episode = task.sample(np.random.default_rng(0), 4)
    assert CueChoice(n_trials=500).oracle_entries(episode) == 1000**2
    assert task.oracle_entries(episode) < 1000**2 / 50
