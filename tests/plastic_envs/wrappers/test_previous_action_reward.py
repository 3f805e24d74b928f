"""Tests of PreviousActionReward and VectorPreviousActionReward."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from plastic_envs import registered_ids
from plastic_envs.env import TaskEnv
from plastic_envs.tasks import CueChoice, CueReward, FewShotRegression
from plastic_envs.testing import parts
from plastic_envs.vector_env import TaskVectorEnv
from plastic_envs.wrappers import PreviousActionReward, VectorPreviousActionReward

TASKS = [CueReward(n_support=2, n_queries=2), CueChoice(n_trials=2), FewShotRegression(n_support=1, n_queries=2)]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)


def test_wrapper_appends_last_action_reward_and_start_flag():
    env = PreviousActionReward(TaskEnv(CueChoice(n_trials=2)))
    assert env.observation_space.shape == (8 + 3 + 2 + 1 + 1,)
    observation, _ = env.reset(seed=0)
    assert observation[11:].tolist() == [0, 0, 0, 1]
    observation, reward, *_ = env.step(1)
    assert observation[11:].tolist() == [0, 1, np.float32(reward), 0]
    assert reward != 0
    observation, reward, *_ = env.step(0)
    assert observation[11:].tolist() == [1, 0, 0, 0]
    assert env.reset()[0][11:].tolist() == [0, 0, 0, 1]


def test_wrapper_appends_clipped_box_actions():
    env = PreviousActionReward(TaskEnv(CueReward(n_support=1, n_queries=2)))
    env.reset(seed=0)
    env.step(np.array([0.25]))
    observation, reward, *_ = env.step(np.array([2.0]))
    # Values outside their range are clipped.
    assert observation[16:].tolist() == [1, np.float32(max(reward, -4)), 0]
    assert observation in env.observation_space


def test_first_observation_is_in_the_space_if_actions_cannot_be_0():
    class Positive(CueReward):
        def __init__(self):
            super().__init__()
            self.action_space = spaces.Box(np.float32([1]), np.float32([2]))

    env, envs = PreviousActionReward(TaskEnv(Positive())), VectorPreviousActionReward(TaskVectorEnv(Positive(), 2))
    assert env.reset(seed=0)[0] in env.observation_space
    assert envs.reset(seed=0)[0] in envs.observation_space
    # The bounds of actions stay the same.
    assert [env.step(np.array([action]))[0][16] for action in (0.0, 3.0)] == [1, 2]
    assert envs.step(np.array([[0.0], [3.0]]))[0][:, 16].tolist() == [1, 2]


@every_task
def test_wrapped_environments_pass_gymnasium_and_stable_baselines3_env_checkers(task):
    env = PreviousActionReward(TaskEnv(task))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Gymnasium warns that this is a wrapper.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env, skip_render_check=True)
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(env)


@every_task
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_wrapper_equals_the_single_wrapper_in_each_autoreset_mode(task, mode):
    env = VectorPreviousActionReward(TaskVectorEnv(task, autoreset_mode=mode))
    sync_env = SyncVectorEnv([lambda: PreviousActionReward(TaskEnv(task))], autoreset_mode=mode)
    assert env.observation_space == sync_env.observation_space
    np.testing.assert_array_equal(env.reset(seed=1)[0], sync_env.reset(seed=1)[0])
    env.action_space.seed(0)
    for _ in range(4 * task.episode_length):
        actions = env.action_space.sample()
        result, expected = env.step(actions), sync_env.step(actions)
        for array, expected_array in zip(result[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(array, expected_array)
        assert (
            ("final_obs" in result[-1])
            == ("final_obs" in expected[-1])
            == (mode is AutoresetMode.SAME_STEP and result[2][0])
        )
        if "final_obs" in result[-1]:
            np.testing.assert_array_equal(result[-1]["final_obs"][0], expected[-1]["final_obs"][0])
        if mode is AutoresetMode.DISABLED and result[2].any():
            reset = (each.reset(options={"reset_mask": result[2].copy()})[0] for each in (env, sync_env))
            np.testing.assert_array_equal(next(reset), next(reset))


@pytest.mark.parametrize("mask", [[False, True], np.array([False, True])], ids=["list", "array"])
def test_masked_reset_keeps_the_observations_of_other_lanes(mask):
    env = VectorPreviousActionReward(TaskVectorEnv(CueChoice(), 2, autoreset_mode=AutoresetMode.DISABLED))
    env.reset(seed=0)
    before, *_ = env.step(np.array([1, 1]))
    after, _ = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[0], before[0])
    assert after[1, 11:].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("task", [CueChoice(n_trials=1), CueReward(n_support=1, n_queries=1)])
def test_actions_of_lanes_that_reset_are_ignored(task):
    plain, env = TaskVectorEnv(task, 2), VectorPreviousActionReward(TaskVectorEnv(task, 2))
    actions = np.zeros_like(env.action_space.sample())
    for each in (plain, env):
        each.reset(seed=0)
        for _ in range(2):
            each.step(actions)
    invalid = np.full_like(actions, 7) if actions.ndim == 1 else np.full_like(actions, np.nan)
    observation, _, terminated, *_ = env.step(invalid)
    size = task.observation_space.shape[0]
    np.testing.assert_array_equal(observation[:, :size], plain.step(invalid)[0])
    assert (observation[:, size:-1] == 0).all()
    assert (observation[:, -1] == 1).all()
    assert not terminated.any()
    observation, *_ = env.step(actions)
    assert (observation[:, -1] == 0).all()


def test_nan_rewards_raise():
    class NanReward(TaskEnv):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, float("nan"), *rest

    env = PreviousActionReward(NanReward(CueChoice()))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="rewards must be numbers, got nan"):
        env.step(0)


@pytest.mark.parametrize("env_id", registered_ids())
def test_numpy_to_torch_wrapper_works_for_a_whole_episode(env_id):
    torch = pytest.importorskip("torch")
    if tuple(map(int, gymnasium.__version__.split(".")[:2])) >= (1, 2):
        pytest.importorskip("array_api_compat")
    from gymnasium.wrappers import NumpyToTorch

    env = NumpyToTorch(gymnasium.make(env_id))
    observation, info = env.reset(seed=0)
    terminated = False
    while not terminated:
        assert isinstance(parts(observation).popitem()[1], torch.Tensor)
        assert info["scored"] in (True, False)
        observation, _, terminated, _, info = env.step(torch.as_tensor(info["target"]))
    assert info["normalised_score"] == 1 or info["regret"] <= 0


class DictEnv(gymnasium.Env):
    """An environment without a task, with a Dict of an image and a flag."""

    observation_space = spaces.Dict(
        {"image": spaces.Box(0, 1, (2, 3), np.float32), "query": spaces.Box(0, 1, (1,), np.float32)}
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 5.0, True, False, {}


def test_reward_range_is_found_in_sync_but_not_async_vector_environments():
    task = CueReward()
    env = VectorPreviousActionReward(TaskVectorEnv(task, 2))
    sync_env = VectorPreviousActionReward(SyncVectorEnv([lambda: TaskEnv(task)] * 2))
    assert env.observation_space == sync_env.observation_space
    async_env = AsyncVectorEnv([lambda: TaskEnv(task)] * 2, context="spawn")
    try:
        with pytest.raises(ValueError, match=r"reward_range must be two numbers, got None: .* in other processes"):
            VectorPreviousActionReward(async_env)
        assert VectorPreviousActionReward(async_env, (-4, 0)).observation_space == env.observation_space
    finally:
        async_env.close()


@pytest.mark.parametrize(
    ("reward_range", "error"),
    [(3, TypeError), ("ab", TypeError), ((1, 2, 3), TypeError), ((-np.inf, 0), ValueError), ((0, np.nan), ValueError)],
)
def test_invalid_reward_ranges_raise(reward_range, error):
    with pytest.raises(error, match=r"reward_range must be two .*got"):
        PreviousActionReward(TaskEnv(CueReward()), reward_range=reward_range)


def test_environments_without_a_task_need_a_reward_range_and_flat_observations():
    with pytest.raises(TypeError, match="one-dimensional Boxes"):
        PreviousActionReward(DictEnv(), reward_range=(0, 2))
    flat = gymnasium.wrappers.FlattenObservation(DictEnv())
    with pytest.raises(ValueError, match=r"reward_range must be two numbers, got None: .* have no task"):
        PreviousActionReward(flat)
    with pytest.raises(ValueError, match=r"in ascending order, got \(2, 0\)"):
        PreviousActionReward(flat, reward_range=(2, 0))
    env = PreviousActionReward(flat, reward_range=(0, 2))
    env.reset(seed=0)
    observation, *_ = env.step(2)
    assert observation.shape == (7 + 3 + 1 + 1,)
    assert observation[7:].tolist() == [0, 0, 1, 2, 0]
    envs = gymnasium.wrappers.vector.FlattenObservation(SyncVectorEnv([DictEnv] * 2))
    assert VectorPreviousActionReward(envs, reward_range=(0, 2)).reset(seed=0)[0].shape == (2, 12)
