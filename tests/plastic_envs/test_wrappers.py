"""PreviousActionReward, single and vector."""

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


def test_last_action_reward_and_start_are_appended():
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


def test_box_actions_are_appended_as_they_are():
    env = PreviousActionReward(TaskEnv(CueReward(n_support=1, n_queries=2)))
    env.reset(seed=0)
    env.step(np.array([0.25]))
    observation, reward, *_ = env.step(np.array([2.0]))
    # What leaves its range is shown at the bound.
    assert observation[16:].tolist() == [1, np.float32(max(reward, -4)), 0]
    assert observation in env.observation_space


@every_task
def test_checkers_are_content(task):
    env = PreviousActionReward(TaskEnv(task))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Gymnasium's one thing to say is that this is a wrapper.
        warnings.filterwarnings("ignore", message=".*different from the unwrapped version")
        check_env(env, skip_render_check=True)
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(env)


@every_task
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_wrapper_equals_the_single_one_in_each_lane(task, mode):
    ours = VectorPreviousActionReward(TaskVectorEnv(task, autoreset_mode=mode))
    theirs = SyncVectorEnv([lambda: PreviousActionReward(TaskEnv(task))], autoreset_mode=mode)
    assert ours.observation_space == theirs.observation_space
    np.testing.assert_array_equal(ours.reset(seed=1)[0], theirs.reset(seed=1)[0])
    ours.action_space.seed(0)
    for _ in range(4 * task.episode_length):
        actions = ours.action_space.sample()
        result, expected = ours.step(actions), theirs.step(actions)
        for one, other in zip(result[:4], expected[:4], strict=True):
            np.testing.assert_array_equal(one, other)
        assert (
            ("final_obs" in result[-1])
            == ("final_obs" in expected[-1])
            == (mode is AutoresetMode.SAME_STEP and result[2][0])
        )
        if "final_obs" in result[-1]:
            np.testing.assert_array_equal(result[-1]["final_obs"][0], expected[-1]["final_obs"][0])
        if mode is AutoresetMode.DISABLED and result[2].any():
            reset = (env.reset(options={"reset_mask": result[2].copy()})[0] for env in (ours, theirs))
            np.testing.assert_array_equal(next(reset), next(reset))


@pytest.mark.parametrize("mask", [[False, True], np.array([False, True])], ids=["list", "array"])
def test_masked_reset_keeps_what_other_lanes_saw(mask):
    env = VectorPreviousActionReward(TaskVectorEnv(CueChoice(), 2, autoreset_mode=AutoresetMode.DISABLED))
    env.reset(seed=0)
    before, *_ = env.step(np.array([1, 1]))
    after, _ = env.reset(options={"reset_mask": mask})
    np.testing.assert_array_equal(after[0], before[0])
    assert after[1, 11:].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("task", [CueChoice(n_trials=1), CueReward(n_support=1, n_queries=1)])
def test_actions_of_lanes_that_begin_anew_mean_nothing(task):
    plain, env = TaskVectorEnv(task, 2), VectorPreviousActionReward(TaskVectorEnv(task, 2))
    actions = np.zeros_like(env.action_space.sample())
    for each in (plain, env):
        each.reset(seed=0)
        for _ in range(2):
            each.step(actions)
    wrong = np.full_like(actions, 7) if actions.ndim == 1 else np.full_like(actions, np.nan)
    observation, _, terminated, *_ = env.step(wrong)
    size = task.observation_space.shape[0]
    np.testing.assert_array_equal(observation[:, :size], plain.step(wrong)[0])
    assert (observation[:, size:-1] == 0).all()
    assert (observation[:, -1] == 1).all()
    assert not terminated.any()
    observation, *_ = env.step(actions)
    assert (observation[:, -1] == 0).all()


def test_rewards_that_are_no_numbers_are_named():
    class Broken(TaskEnv):
        def step(self, action):
            observation, _, *rest = super().step(action)
            return observation, float("nan"), *rest

    env = PreviousActionReward(Broken(CueChoice()))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="rewards must be numbers, got nan"):
        env.step(0)


@pytest.mark.parametrize("env_id", registered_ids())
def test_torch_reads_whole_episodes(env_id):
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


class Elsewhere(gymnasium.Env):
    """An environment of somebody else, with a Dict of an image and a flag."""

    observation_space = spaces.Dict(
        {"image": spaces.Box(0, 1, (2, 3), np.float32), "query": spaces.Box(0, 1, (1,), np.float32)}
    )
    action_space = spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 5.0, True, False, {}


def test_ranges_are_found_in_vector_environments_of_gymnasium():
    task = CueReward()
    ours = VectorPreviousActionReward(TaskVectorEnv(task, 2))
    theirs = VectorPreviousActionReward(SyncVectorEnv([lambda: TaskEnv(task)] * 2))
    assert ours.observation_space == theirs.observation_space
    elsewhere = AsyncVectorEnv([lambda: TaskEnv(task)] * 2, context="spawn")
    try:
        with pytest.raises(ValueError, match=r"reward_range must be two numbers, got None: .* in other processes"):
            VectorPreviousActionReward(elsewhere)
        assert VectorPreviousActionReward(elsewhere, (-4, 0)).observation_space == ours.observation_space
    finally:
        elsewhere.close()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(3, TypeError), ("ab", TypeError), ((1, 2, 3), TypeError), ((-np.inf, 0), ValueError), ((0, np.nan), ValueError)],
)
def test_wrong_ranges_are_named(wrong, error):
    with pytest.raises(error, match=r"reward_range must be two .*got"):
        PreviousActionReward(TaskEnv(CueReward()), reward_range=wrong)


def test_other_environments_need_a_range_and_flat_observations():
    with pytest.raises(TypeError, match="one-dimensional Boxes"):
        PreviousActionReward(Elsewhere(), reward_range=(0, 2))
    flat = gymnasium.wrappers.FlattenObservation(Elsewhere())
    with pytest.raises(ValueError, match=r"reward_range must be two numbers, got None: .* have no task"):
        PreviousActionReward(flat)
    with pytest.raises(ValueError, match=r"in ascending order, got \(2, 0\)"):
        PreviousActionReward(flat, reward_range=(2, 0))
    env = PreviousActionReward(flat, reward_range=(0, 2))
    env.reset(seed=0)
    observation, *_ = env.step(2)
    assert observation.shape == (7 + 3 + 1 + 1,)
    assert observation[7:].tolist() == [0, 0, 1, 2, 0]
    envs = gymnasium.wrappers.vector.FlattenObservation(SyncVectorEnv([Elsewhere] * 2))
    assert VectorPreviousActionReward(envs, reward_range=(0, 2)).reset(seed=0)[0].shape == (2, 12)
