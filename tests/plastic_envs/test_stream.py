"""Scores of the oracle and of the memoryless policy: for episodes that end, in parts, or not at all."""

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


class Counting(CueReward):
    """Counts the episodes that its oracle is given."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.given = []

    def oracle(self, episode):
        self.given.append(len(episode))
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


def test_episodes_that_do_not_end_are_not_scored():
    task = Counting()
    single, vector = TaskEnv(task), TaskVectorEnv(task, 3)
    for env in (single, vector):
        for _ in range(150):
            env.reset()
            env.step(env.action_space.sample())
    assert task.given == []
    for env in (single, vector):
        play(env)
    assert task.given == [128, 3]


def test_short_episodes_are_scored_ahead_and_long_ones_one_by_one(monkeypatch):
    task = Counting()
    env = TaskEnv(task)
    ahead = play(env, episodes=130)
    assert task.given == [128, 2 + 126]
    monkeypatch.setattr(stream, "_ENTRIES_AT_ONCE", 20**2 * 3)
    task.given.clear()
    in_threes = play(env, episodes=130)
    assert task.given[:2] == [3, 3]
    assert len(task.given) == 43 + 1
    np.testing.assert_equal(in_threes, ahead)


def test_episodes_that_were_left_are_skipped(monkeypatch):
    monkeypatch.setattr(stream, "_ENTRIES_AT_ONCE", 1)
    task = Counting()
    env = TaskEnv(task)
    finals = play(env, episodes=3)
    env.reset(seed=0)
    env.reset()
    env.action_space.seed(0)
    for _ in range(20):
        *_, info = env.step(env.action_space.sample())
    assert info["oracle_score"] == finals[1]["oracle_score"]
    assert task.given == [1] * 4


@pytest.mark.parametrize("task", [CueReward(), CueChoice(n_trials=3), FewShotRegression(score_support=True)])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_parts_have_the_scores_of_the_whole(task, size, monkeypatch):
    episode = task.sample(np.random.default_rng(0), 7)
    whole = reference_scores(task, episode)
    assert [len(scores) for scores in whole] == [7, 7]
    entries = max(task.episode_length, episode.observation.shape[-1]) ** 2
    monkeypatch.setattr(stream, "_ENTRIES_AT_ONCE", size * entries)
    np.testing.assert_allclose(reference_scores(task, episode), whole, rtol=1e-6)
    expected = [task.score(episode, policy(episode)) for policy in (task.oracle, task.memoryless)]
    np.testing.assert_allclose(whole, expected, rtol=1e-6)


def test_memory_does_not_grow_with_the_lanes():
    """Recognition compares each step with each, for which 64 lanes would take 64 times what one does."""
    task = CueReward(n_support=500, n_queries=500, cue_size=2)
    episode = task.sample(np.random.default_rng(0), 64)
    peaks = []
    for lanes in (1, 64):
        tracemalloc.start()
        reference_scores(task, episode[:lanes])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 8 * peaks[0]


@pytest.mark.parametrize("env_id", plastic_envs.registered_ids())
def test_without_them_all_else_is_the_same(env_id):
    for make in (gymnasium.make, lambda env_id, **arguments: gymnasium.make_vec(env_id, num_envs=2, **arguments)):
        full, bare = (play(make(env_id, **arguments))[0] for arguments in ({}, {"reference_scores": False}))
        names = REFERENCES | {f"_{name}" for name in REFERENCES}
        assert set(full) - set(bare) == {name for name in full if name in names}
        assert set(full) >= REFERENCES
        np.testing.assert_equal(bare, {name: full[name] for name in bare})


def test_without_them_no_oracle_is_asked():
    task = Counting()
    play(TaskEnv(task, reference_scores=False))
    for mode in AutoresetMode:
        play(TaskVectorEnv(task, 2, reference_scores=False, autoreset_mode=mode))
    assert task.given == []
    final = play(TaskVectorEnv(task, 2, reference_scores=False, autoreset_mode="SameStep"))[0]["final_info"]
    assert "score" in final
    assert not REFERENCES & set(final)


def test_specs_and_copies_keep_the_choice():
    env = gymnasium.make("PlasticRNN/CueReward-v0", reference_scores=False)
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    for each in (again, copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        assert each.unwrapped.reference_scores is False
