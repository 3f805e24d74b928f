"""Tests of TaskVectorEnv: equality with the single environment, distribution of lanes, resets and errors."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FlattenObservation
from hypothesis import given, settings
from hypothesis import strategies as st

import plastic_envs
from plastic_envs.env import TaskEnv
from plastic_envs.tasks import CueChoice, CueReward
from plastic_envs.testing import check_vector_env, parts
from plastic_envs.vector_env import TaskVectorEnv
from plastic_envs.wrappers import VectorFlattenObservation

IDS = plastic_envs.registered_ids()
DISABLED, NEXT_STEP, SAME_STEP = AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP


@pytest.mark.parametrize("env_id", IDS)
def test_one_lane_equals_the_single_environment_bit_for_bit(env_id):
    single, vector = TaskEnv(env_id), TaskVectorEnv(env_id, autoreset_mode=SAME_STEP)
    single.action_space.seed(0)
    observation, _ = single.reset(seed=42)
    observations, _ = vector.reset(seed=42)
    # More episodes than a block has.
    for _ in range(140):
        for _ in range(single.task.episode_length):
            for name, entry in parts(observation).items():
                np.testing.assert_array_equal(parts(observations)[name][0], entry)
            action = single.action_space.sample()
            observation, reward, terminated, _, info = single.step(action)
            observations, rewards, terminations, _, infos = vector.step(np.array([action]))
            assert (rewards[0], terminations[0]) == (reward, terminated)
        final = {key: value for key, value in infos["final_info"].items() if not key.startswith("_")}
        assert set(final) == set(info)
        for key, value in info.items():
            np.testing.assert_array_equal(final[key][0], value)
        observation, info = single.reset()


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    lanes=st.integers(2, 5),
    task=st.sampled_from([CueReward(n_support=2, n_queries=3), CueChoice(n_trials=3)]),
)
def test_autoreset_modes_equal_those_of_gymnasium(seed, lanes, task):
    check_vector_env(task, num_envs=lanes, seed=seed)


@pytest.mark.parametrize("env_id", IDS)
def test_many_lanes_have_the_distribution_of_the_single_environment(env_id):
    task = plastic_envs.make_task(env_id)
    lanes, rounds = 50, 20

    def features(observation, target):
        numbers = np.concatenate([observation.ravel(), np.asarray(target, dtype=float).ravel()])
        return np.concatenate([numbers, numbers**2])

    single, vector = FlattenObservation(TaskEnv(task)), VectorFlattenObservation(TaskVectorEnv(task, lanes))
    action, actions = np.zeros_like(single.action_space.sample()), np.zeros_like(vector.action_space.sample())
    step = task.query_start
    single_features, lane_features = [], []
    for episode in range(lanes * rounds):
        observation, info = single.reset(seed=0 if episode == 0 else None)
        for _ in range(step):
            observation, *_, info = single.step(action)
        single_features.append(features(observation, info["target"]))
    for episode in range(rounds):
        observations, infos = vector.reset(seed=1 if episode == 0 else None)
        for _ in range(step):
            observations, *_, infos = vector.step(actions)
        lane_features += [features(*lane) for lane in zip(observations, infos["target"], strict=True)]
    single_sample, lane_sample = np.array(single_features), np.array(lane_features)
    error = np.sqrt((single_sample.var(axis=0) + lane_sample.var(axis=0)) / len(single_sample)) + 1e-9
    assert np.abs((single_sample.mean(axis=0) - lane_sample.mean(axis=0)) / error).max() < 5
    # Lanes have different episodes, as far as these differ in their features.
    columns = slice(None) if isinstance(task.action_space, gymnasium.spaces.Discrete) else slice(-1, None)
    lane_rows, single_rows = (sample[: lanes * 2, columns] for sample in (lane_sample, single_sample))
    assert len(np.unique(lane_rows, axis=0)) == len(np.unique(single_rows, axis=0))


def test_reset_mask_leaves_other_lanes_unchanged():
    env = TaskVectorEnv(CueChoice(), 3, autoreset_mode=DISABLED)
    env.reset(seed=0)
    for _ in range(5):
        before, *_ = env.step(np.ones(3, dtype=int))
    mask = np.array([False, True, False])
    after, infos = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).any()
    np.testing.assert_array_equal(infos["_target"], mask)
    assert infos["target"][0] == infos["target"][2] == 0
    assert not infos["scored"][~mask].any()
    # The other lanes continue and end on time.
    for _ in range(5, 24):
        _, _, terminated, _, infos = env.step(np.ones(3, dtype=int))
    assert terminated.tolist() == [True, False, True]
    assert infos["_score"].tolist() == [True, False, True]
    with pytest.raises(RuntimeError, match=r"lanes \[0, 2\]"):
        env.step(np.ones(3, dtype=int))
    env.reset(options={"reset_mask": terminated})
    env.step(np.ones(3, dtype=int))


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_lanes_out_of_phase_get_the_rewards_of_their_own_episodes(mode):
    """A masked reset brings the lanes out of phase."""
    task = CueReward()
    env = TaskVectorEnv(task, 2, autoreset_mode=mode)
    observations, infos = env.reset(seed=3)
    rng = np.random.default_rng(0)
    target, scored = infos["target"], infos["scored"]
    earned = np.zeros(2)
    for step in range(60):
        if step == 7:
            observations, infos = env.reset(options={"reset_mask": np.array([True, False])})
            infos["target"][1], infos["scored"][1] = target[1], scored[1]
            earned[0] = 0
        target, scored = infos["target"], infos["scored"]
        actions = rng.uniform(-1, 1, (2, 1)).astype(np.float32)
        expected = np.where(scored, -((actions - target)[:, 0].astype(float) ** 2), 0)
        query = observations[:, -1] == 1
        np.testing.assert_array_equal(query, scored)
        observations, rewards, terminated, _, infos = env.step(actions)
        np.testing.assert_allclose(rewards, expected, rtol=1e-6)
        earned += expected
        final = infos["final_info"] if mode is SAME_STEP and terminated.any() else infos
        if terminated.any():
            assert final["_score"].tolist() == terminated.tolist()
            np.testing.assert_allclose(final["score"], np.where(terminated, earned / 10, 0), rtol=1e-5)
            earned[terminated] = 0
        if mode is DISABLED and terminated.any():
            _, reset_infos = env.reset(options={"reset_mask": terminated})
            infos["target"] = np.where(terminated[:, None], reset_infos["target"], infos["target"])
            infos["scored"] = np.where(terminated, reset_infos["scored"], infos["scored"])
            observations = env._observation.copy()


def test_returned_arrays_belong_to_the_caller():
    env, other_env = (TaskVectorEnv(CueChoice(), 3) for _ in range(2))
    result, expected = env.reset(seed=0), other_env.reset(seed=0)
    for _ in range(60):
        np.testing.assert_equal(result, expected)
        result[0][:] = 7
        for value in result[-1].values():
            value[:] = 1
        actions = np.array([0, 1, 1])
        result, expected = env.step(actions), other_env.step(actions)


def test_metadata_and_attribute_contain_the_autoreset_mode():
    same_step, default = TaskVectorEnv(CueReward(), 2, autoreset_mode="SameStep"), TaskVectorEnv(CueReward(), 2)
    assert same_step.metadata["autoreset_mode"] is same_step.autoreset_mode is SAME_STEP
    assert default.metadata["autoreset_mode"] is default.autoreset_mode is NEXT_STEP
    with pytest.raises(ValueError, match=r"autoreset_mode.*'NextStep'.*got 'never'"):
        TaskVectorEnv(CueReward(), 2, autoreset_mode="never")


def test_gymnasium_vector_wrappers_work():
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(gymnasium.make_vec(IDS[0], num_envs=4))
    envs.reset(seed=0)
    for _ in range(envs.unwrapped.task.episode_length):
        *_, infos = envs.step(envs.action_space.sample())
    assert infos["episode"]["l"].tolist() == [envs.unwrapped.task.episode_length] * 4


@pytest.mark.parametrize(
    ("actions", "error", "words"),
    [
        (np.zeros(2), ValueError, r"shape \(2, 1\), got \(2,\)"),
        (np.zeros((3, 1)), ValueError, r"shape \(2, 1\), got \(3, 1\)"),
        (np.array([[0.0], [np.nan]]), ValueError, r"finite numbers, got \[nan\] in lanes \[1\]"),
        (np.array([["a"], ["b"]]), TypeError, "numbers"),
        (np.array([[np.inf], [-np.inf]]), ValueError, r"finite numbers, got \[inf, -inf\] in lanes \[0, 1\]"),
        ([[1], [1, 2]], ValueError, r"actions must have shape \(2, 1\)"),
    ],
)
def test_invalid_box_actions_raise(actions, error, words):
    env = TaskVectorEnv(CueReward(), 2)
    env.reset()
    with pytest.raises(error, match=words):
        env.step(actions)


@pytest.mark.parametrize(
    ("actions", "error"),
    [(np.array([0, 2]), ValueError), (np.array([-1, 0]), ValueError), (np.array([0.0, 1.0]), TypeError)],
)
def test_invalid_discrete_actions_raise(actions, error):
    env = TaskVectorEnv(CueChoice(), 2)
    env.reset()
    with pytest.raises(error, match="whole numbers from 0 to 1"):
        env.step(actions)


@pytest.mark.parametrize("task", [CueReward(n_support=1, n_queries=1), CueChoice(n_trials=1)])
def test_actions_of_lanes_that_reset_are_ignored(task):
    env = TaskVectorEnv(task, 2)
    env.reset(seed=0)
    actions = np.zeros_like(env.action_space.sample())
    env.step(actions)
    env.reset(options={"reset_mask": np.array([True, False])})
    assert env.step(actions)[2].tolist() == [False, True]
    invalid = actions.astype(float) if actions.ndim == 2 else actions.copy()
    invalid[1] = np.nan if actions.ndim == 2 else 7
    _, rewards, terminated, _, infos = env.step(invalid)
    assert terminated.tolist() == [True, False]
    assert rewards[1] == 0
    assert np.isfinite(infos["score"]).all()
    # The action of the other lane is not ignored.
    invalid[0] = invalid[1]
    with pytest.raises(ValueError, match=r"in lanes \[1\]"):
        env.step(invalid)


def test_masked_resets_do_not_write_to_the_stream():
    env = TaskVectorEnv(CueReward(), 2)
    env.reset(seed=0)
    block = env._stream._block
    before = block.observation.copy()
    for _ in range(3):
        env.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_array_equal(block.observation, before)
    assert not np.shares_memory(env._episode.observation, block.observation)


def test_invalid_resets_raise():
    env = TaskVectorEnv(CueReward(), 2, render_mode="ansi")
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(np.zeros((2, 1)))
    with pytest.raises(RuntimeError, match="before reset"):
        env.render()
    with pytest.raises(RuntimeError, match="before the first reset"):
        env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(TypeError, match=r"seed must be a whole number of at least 0, got \[1, 2\]"):
        env.reset(seed=[1, 2])
    env.reset()
    for mask, error in (
        ([1, 0], TypeError),
        (np.array([1, 0], dtype=np.uint8), TypeError),
        (None, TypeError),
        (np.array([True]), ValueError),
        (np.array([False, False]), ValueError),
    ):
        with pytest.raises(error, match=r"options\['reset_mask'\]"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        TaskVectorEnv(CueReward(), 0)


def test_reset_masks_can_be_lists():
    env, other_env = (TaskVectorEnv(CueChoice(), 2) for _ in range(2))
    env.reset(seed=0)
    other_env.reset(seed=0)
    mask = np.array([False, True])
    result = other_env.reset(options={"reset_mask": mask})
    np.testing.assert_equal(env.reset(options={"reset_mask": [False, True]}), result)
    mask[:] = True
    assert result[1]["_target"].tolist() == [False, True], "infos must not be views of the mask"


def test_unsigned_actions_equal_signed_actions():
    env, other_env = (TaskVectorEnv(CueChoice(), 2) for _ in range(2))
    env.reset(seed=0)
    other_env.reset(seed=0)
    np.testing.assert_equal(env.step(np.array([0, 1], dtype=np.uint8)), other_env.step(np.array([0, 1])))


def test_rendered_lanes_equal_the_single_environment():
    single = TaskEnv(CueReward(), render_mode="rgb_array")
    vector = TaskVectorEnv(CueReward(), render_mode="rgb_array")
    single.reset(seed=0)
    vector.reset(seed=0)
    for _ in range(12):
        single.step(np.full(1, 0.3))
        vector.step(np.full((1, 1), 0.3))
    (frame,) = vector.render()
    np.testing.assert_array_equal(frame, single.render())
    assert TaskVectorEnv(CueReward(), 2).render() is None
