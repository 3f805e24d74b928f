"""SB3VecEnv: it returns what DummyVecEnv of the same environments returns, also inside stable-baselines3's wrappers."""

import csv
import json
import subprocess
import sys
import warnings
from inspect import signature
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st
from plastic_agents import SB3VecEnv, make_sb3_vec_env
from plastic_agents.actor_critic.vec_env import split_infos
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecMonitor, VecNormalize

from plastic_envs.env import TaskEnv
from plastic_envs.tasks import CueReward
from plastic_envs.vector_env import TaskVectorEnv
from plastic_envs.wrappers import PreviousActionReward, VectorPreviousActionReward

SAME_STEP = AutoresetMode.SAME_STEP
GOAL = 6


class Counter(gymnasium.Env):
    """Adds up actions from a start given by the seed; terminates at GOAL, and is truncated after `limit` steps."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = spaces.Box(0, GOAL + 2, (2,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, limit=4, render_mode=None):
        self.limit, self.render_mode = limit, render_mode

    def reset(self, *, seed=None, options=None):
        self.steps, self.total = 0, 0 if seed is None else seed % 3
        self.total += (options or {}).get("more", 0)
        return self._observe(), {"start": self.total}

    def step(self, action):
        self.steps, self.total = self.steps + 1, self.total + int(action)
        terminated, truncated = self.total >= GOAL, self.steps >= self.limit
        info = {"total": np.float32(self.total), "pair": np.array([self.steps, self.total])}
        if terminated:
            info["reached"] = {"after": self.steps}
        return self._observe(), float(action), terminated, truncated, info

    def _observe(self):
        return np.array([self.steps, self.total], np.float32)

    def render(self):
        return np.full((4, 4, 3), self.steps, np.uint8)

    def double(self, number):
        return 2 * number


class Counters(VectorEnv):
    """A native vector environment of `Counter`, with infos of ended lanes only."""

    metadata = {"render_modes": [], "autoreset_mode": SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs, limit=4):
        self.num_envs, self.limit = num_envs, limit
        self.single_observation_space, self.single_action_space = Counter.observation_space, Counter.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed=None, options=None):
        self.steps = np.zeros(self.num_envs, int)
        self.total = self.steps.copy() if seed is None else (seed + np.arange(self.num_envs)) % 3
        self.total = self.total + (options or {}).get("more", 0)
        return self._observe(), {"start": self.total.copy()}

    def step(self, actions):
        self.steps, self.total = self.steps + 1, self.total + actions
        terminated, truncated = self.total >= GOAL, self.steps >= self.limit
        ended = terminated | truncated
        infos = {}
        if ended.any():
            final_obs = np.full(self.num_envs, None, object)
            for lane in np.flatnonzero(ended):
                final_obs[lane] = self._observe()[lane]
            final_info = {
                "total": self.total.astype(np.float32),
                "pair": np.stack([self.steps, self.total], axis=1),
                "reached": {"after": self.steps.copy()},
                "_reached": terminated,
            }
            self.steps, self.total = np.where(ended, 0, self.steps), np.where(ended, 0, self.total)
            infos = {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended}
            infos |= {"start": self.total, "_start": ended}
        return self._observe(), actions.astype(float), terminated, truncated, infos

    def _observe(self):
        return np.stack([self.steps, self.total], axis=1).astype(np.float32)

    def action_masks(self):
        return self.total[:, None] + np.arange(3) <= GOAL


class DictObservations(gymnasium.Env):
    """Dict observations and a given action space; checks the type of each action."""

    observation_space = spaces.Dict({"number": spaces.Box(-1, 1, (2,), np.float32), "choice": spaces.Discrete(3)})

    def __init__(self, action_space):
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        assert action.dtype == self.action_space.dtype
        self.steps += 1
        return self._observe(), float(np.sum(action)), self.np_random.random() < 0.3, self.steps == 4, {}

    def _observe(self):
        number = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return {"number": number, "choice": self.np_random.integers(3)}


ACTION_SPACES = {
    "box": spaces.Box(-1, 1, (2,), np.float32),
    "discrete": spaces.Discrete(3),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(3),
}


def sync(make, lanes):
    return SyncVectorEnv([make] * lanes, autoreset_mode=SAME_STEP)


def assert_same(a, b):
    """Check that nested values are equal bit by bit; numbers may have types of Python or numpy."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert_same(value, b[key])
    else:
        np.testing.assert_array_equal(a, b)
        if isinstance(a, np.ndarray):
            assert a.dtype == np.asarray(b).dtype


def compare(ours, theirs, *, seed=0, steps=40, step_info=False):
    """Step both with the same actions and check that results are equal, except infos of lanes that did not end."""
    for env in (ours, theirs):
        env.seed(seed)
    ours.action_space.seed(seed)
    assert_same(ours.reset(), theirs.reset())
    assert_same(dict(enumerate(ours.reset_infos)), dict(enumerate(theirs.reset_infos)))
    ends = {"terminated": 0, "truncated": 0}
    for _ in range(steps):
        actions = np.array([ours.action_space.sample() for _ in range(ours.num_envs)])
        observations, rewards, dones, infos = ours.step(actions)
        expected = theirs.step(actions)
        assert_same(observations, expected[0])
        assert_same(rewards, expected[1])
        assert_same(dones, expected[2])
        for lane, (info, other) in enumerate(zip(infos, expected[3], strict=True)):
            if dones[lane] or step_info:
                assert_same(info, other)
            else:
                assert info == {}
            if dones[lane]:
                assert_same(ours.reset_infos[lane], theirs.reset_infos[lane])
                ends["truncated" if info["TimeLimit.truncated"] else "terminated"] += 1
    ours.close()
    theirs.close()
    return ends


@settings(max_examples=30)
@given(lanes=st.integers(1, 5), limit=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_native_environment_equals_single_environments(lanes, limit, seed):
    compare(SB3VecEnv(Counters(lanes, limit)), DummyVecEnv([lambda: Counter(limit)] * lanes), seed=seed)


def test_an_episode_that_terminates_at_its_limit_is_not_truncated():
    env = SB3VecEnv(Counters(2, limit=3))
    env.reset()
    for _ in range(3):
        _, _, dones, infos = env.step(np.array([2, 1]))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]
    # Infos have Python types, which JSON can store.
    assert [type(infos[0][key]) for key in ("TimeLimit.truncated", "total")] == [bool, float]
    assert infos[0]["reached"] == {"after": 3}
    assert "reached" not in infos[1]


@pytest.mark.parametrize("step_info", [False, True])
def test_sync_vector_env_equals_single_environments(step_info):
    ours = SB3VecEnv(sync(Counter, 3), step_info=step_info)
    ends = compare(ours, DummyVecEnv([Counter] * 3), step_info=step_info)
    assert min(ends.values()) > 0


def test_cart_pole_with_a_time_limit_equals_single_environments():
    ours = make_sb3_vec_env("CartPole-v1", 4, env_kwargs={"max_episode_steps": 20})
    theirs = DummyVecEnv([lambda: gymnasium.make("CartPole-v1", max_episode_steps=20)] * 4)
    # The monitor adds the time to infos, so compare the environment inside it.
    ends = compare(ours.venv, theirs, steps=200)
    assert min(ends.values()) > 0


def test_one_lane_of_a_task_equals_its_single_environment():
    ours = SB3VecEnv(TaskVectorEnv("PlasticRNN/CueReward-v0", autoreset_mode=SAME_STEP))
    ends = compare(ours, DummyVecEnv([lambda: TaskEnv("PlasticRNN/CueReward-v0")]), steps=100)
    assert ends == {"terminated": 5, "truncated": 0}


@pytest.mark.parametrize("name", ACTION_SPACES)
def test_dict_observations_with_each_kind_of_action(name):
    def make():
        return DictObservations(ACTION_SPACES[name])

    compare(SB3VecEnv(sync(make, 3)), DummyVecEnv([make] * 3))
    # Actions sampled by a policy pass the checks of the environment too.
    env = VecMonitor(SB3VecEnv(sync(make, 3)))
    PPO("MultiInputPolicy", env, n_steps=8, batch_size=24, n_epochs=1, device="cpu").learn(24)


def test_async_vector_env_equals_single_environments():
    ours = SB3VecEnv(AsyncVectorEnv([Counter] * 2, autoreset_mode=SAME_STEP, context="spawn"))
    assert ours.get_attr("limit") == [4, 4]
    assert ours.env_method("double", 3) == [6, 6]
    assert ours.env_is_wrapped(PreviousActionReward) == [False, False]
    compare(ours, DummyVecEnv([Counter] * 2), steps=10)


@pytest.mark.parametrize("wrap", [VecNormalize, lambda env: VecFrameStack(env, 3)], ids=["normalize", "frame-stack"])
def test_wrapped_environment_equals_wrapped_single_environments(wrap):
    ours, theirs = (wrap(VecMonitor(env)) for env in (SB3VecEnv(Counters(3)), DummyVecEnv([Counter] * 3)))
    rng = np.random.default_rng(0)
    assert_same(ours.reset(), theirs.reset())
    for _ in range(20):
        actions = rng.integers(3, size=3)
        result, expected = ours.step(actions), theirs.step(actions)
        for value, expected_value in zip(result[:3], expected[:3], strict=True):
            assert_same(value, expected_value)
        for info, other in zip(result[3], expected[3], strict=True):
            if "terminal_observation" in info:
                assert_same(info["terminal_observation"], other["terminal_observation"])
                assert (info["episode"]["r"], info["episode"]["l"]) == (other["episode"]["r"], other["episode"]["l"])


def test_learning_and_evaluation_record_whole_episodes_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make_sb3_vec_env("PlasticRNN/CueReward-v0", 8)
        model = PPO("MlpPolicy", env, n_steps=25, batch_size=100, n_epochs=1, seed=0, device="cpu").learn(400)
        env.seed(1)
        returns, lengths = evaluate_policy(model, env, n_eval_episodes=8, return_episode_rewards=True)
    assert [episode["l"] for episode in model.ep_info_buffer] == [20] * 16
    assert lengths == [20] * 8
    bare = TaskVectorEnv("PlasticRNN/CueReward-v0", 8)
    observation, _ = bare.reset(seed=1)
    expected = np.zeros(8)
    for _ in range(20):
        observation, rewards, *_ = bare.step(model.predict(observation, deterministic=True)[0])
        expected += rewards
    np.testing.assert_allclose(returns, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "env_id", ["PlasticRNN/CueReward-v0", "plastic_envs:PlasticRNN/CueReward-v0", "PlasticRNN/CueReward"]
)
def test_the_native_vector_environment_is_used_with_the_seed(env_id):
    env = make_sb3_vec_env(env_id, 3, seed=5, env_kwargs={"n_cues": 7})
    assert isinstance(env.unwrapped.env, TaskVectorEnv)
    assert env.get_attr("task")[2].n_cues == 7
    first = env.reset()
    assert_same(first, TaskVectorEnv(CueReward(n_cues=7), 3).reset(seed=5)[0])
    # A second reset does not use the seed again.
    assert not np.array_equal(first, env.reset())


def test_a_module_before_the_id_is_imported(tmp_path, monkeypatch):
    (tmp_path / "module_of_mine.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine/Imported-v0', 'plastic_envs.env:TaskEnv',\n"
        "    vector_entry_point='plastic_envs.vector_env:TaskVectorEnv', kwargs={'task': 'PlasticRNN/CueReward-v0'})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    env = make_sb3_vec_env("module_of_mine:Mine/Imported-v0", 2)
    assert isinstance(env.unwrapped.env, TaskVectorEnv)


def test_without_a_native_one_a_sync_vector_env_is_used():
    env = make_sb3_vec_env("CartPole-v1", 2)
    assert isinstance(env.unwrapped.env, SyncVectorEnv)
    assert env.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [True, True]
    assert env.env_is_wrapped(PreviousActionReward, indices=[1]) == [False]


@pytest.mark.parametrize("make", [Counters, lambda lanes: sync(Counter, lanes)], ids=["native", "sync"])
def test_attributes_methods_and_options(make):
    env = SB3VecEnv(make(3))
    assert env.get_attr("limit", indices=[0, 2]) == [4, 4]
    assert env.get_attr("limit", indices=1) == [4]
    env.set_attr("limit", 1)
    env.set_options({"more": 2})
    assert env.reset()[:, 1].tolist() == [2, 2, 2]
    assert env.step(np.zeros(3, int))[2].all()
    assert env.reset()[:, 1].tolist() == [0, 0, 0]
    assert env.has_attr("limit")
    assert not env.has_attr("limits")
    env.close()


def test_env_method_of_native_and_sync_environments():
    native = SB3VecEnv(Counters(2))
    native.seed(2)
    native.reset()
    native.step(np.array([2, 2]))
    native.step(np.array([1, 1]))
    masks = native.env_method("action_masks")
    assert [mask.tolist() for mask in masks] == [[True, True, False], [True, True, True]]
    assert native.env_method("close") == [None, None]
    assert SB3VecEnv(sync(Counter, 2)).env_method("double", number=4) == [8, 8]


def test_render_tiles_the_images_of_lanes():
    env = SB3VecEnv(sync(lambda: Counter(render_mode="rgb_array"), 2))
    env.reset()
    env.step(np.array([1, 1]))
    assert env.render_mode == "rgb_array"
    picture = env.render()
    assert picture.shape[2] == 3
    assert (picture == 1).sum() == 2 * 4 * 4 * 3
    assert SB3VecEnv(Counters(2)).get_images() == [None, None]


def test_split_infos_follows_masks():
    infos = {
        "score": np.array([1.5, 0, 2.5], np.float32),
        "_score": np.array([True, False, True]),
        "name": np.array(["a", None, "c"], object),
        "nested": {"x": np.arange(6).reshape(3, 2), "_x": np.array([False, False, True])},
        "version": 3,
    }
    first, last = split_infos(infos, np.array([0, 2]))
    assert first == {"score": 1.5, "name": "a", "nested": {}, "version": 3}
    assert_same(last.pop("nested"), {"x": np.array([4, 5])})
    assert last == {"score": 2.5, "name": "c", "version": 3}


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"SAME_STEP, got AutoresetMode.NEXT_STEP from CartPoleVectorEnv"):
        SB3VecEnv(gymnasium.make_vec("CartPole-v1", 2))
    with pytest.raises(TypeError, match=r"env must be a gymnasium.vector.VectorEnv.*got <.*Counter"):
        SB3VecEnv(Counter())
    tuples = Counters(2)
    tuples.single_action_space = spaces.Tuple([spaces.Discrete(2)])
    with pytest.raises(TypeError, match=r"env must have Box, Discrete.*got Tuple"):
        SB3VecEnv(tuples)
    with pytest.raises(
        TypeError, match=r"env_id must be an id or a function that makes an environment, got <.*Counter"
    ):
        make_sb3_vec_env(Counter(), 2)
    env = SB3VecEnv(Counters(2))
    env.reset()
    with pytest.raises(ValueError, match=r"actions must have shape \(2,\), got \(3,\)"):
        env.step(np.zeros(3, int))
    with pytest.raises(TypeError, match=r"options must be one dict for all lanes.*got \[{}, {}\]"):
        env.set_options([{}, {}])
    with pytest.raises(ValueError, match=r"indices must be None.*got \[0\]"):
        env.set_attr("limit", 3, indices=[0])
    with pytest.raises(ValueError, match=r"indices must be None.*got 1"):
        env.env_method("action_masks", indices=1)
    with pytest.raises(ValueError, match="n_envs must be at least 1, got 0"):
        make_sb3_vec_env("CartPole-v1", 0)
    with pytest.raises(TypeError, match=r"seed must be a whole number of at least 0, got 1.5"):
        make_sb3_vec_env("CartPole-v1", 1, seed=1.5)
    with pytest.raises(gymnasium.error.Error, match="NoSuch"):
        make_sb3_vec_env("PlasticRNN/NoSuch-v0", 1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'cues' of 3"):
        make_sb3_vec_env("PlasticRNN/CueReward-v0", 1, env_kwargs={"cues": 3})


def test_benchmark_runs_and_writes_its_results(tmp_path):
    script, file = Path(__file__).parents[3] / "benchmarks" / "vector_environments.py", tmp_path / "figures.json"
    command = [sys.executable, script, "--lanes", "2", "--seconds", "0.001", "--rounds", "1", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())["figures"]
    assert len(figures) == 12
    assert all(figure["rate"] > 0 for figure in figures)


def test_arguments_of_make_vec_env(tmp_path):
    env = make_sb3_vec_env(
        lambda limit: Counter(limit),
        n_envs=2,
        env_kwargs={"limit": 9},
        wrapper_class=gymnasium.wrappers.TimeLimit,
        wrapper_kwargs={"max_episode_steps": 3},
        monitor_dir=tmp_path / "logs",
    )
    env.reset()
    ends = [env.step(np.zeros(2, int))[2].all() for _ in range(6)]
    assert ends == [False, False, True] * 2
    env.close()
    # The first line of a monitor's file is a comment.
    lines = [line for path in (tmp_path / "logs").iterdir() for line in path.read_text().splitlines()[1:]]
    assert [row["l"] for row in csv.DictReader(lines) if row["l"] != "l"] == ["3"] * 4


def test_the_arguments_of_make_vec_env_in_its_order():
    assert list(signature(make_sb3_vec_env).parameters) == list(signature(make_vec_env).parameters)


@pytest.mark.parametrize("vec_env_cls", [None, DummyVecEnv])
def test_seed_and_start_index_are_those_of_make_vec_env(vec_env_cls, tmp_path):
    """The action spaces have the seed plus the index, and the monitor files begin with the index."""
    arguments = {"seed": 5, "start_index": 3, "vec_env_cls": vec_env_cls}
    ours = make_sb3_vec_env("CartPole-v1", 2, monitor_dir=tmp_path / "ours", **arguments)
    theirs = make_vec_env("CartPole-v1", 2, monitor_dir=str(tmp_path / "theirs"), **arguments)
    assert type(ours) is (VecMonitor if vec_env_cls is None else DummyVecEnv)
    np.testing.assert_array_equal(ours.reset(), theirs.reset())
    assert [ours.action_space.sample() for _ in range(20)] == [theirs.action_space.sample() for _ in range(20)]
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    assert names == {"3.monitor.csv"} | ({"4.monitor.csv"} if vec_env_cls else set())
    assert ours.render_mode == theirs.render_mode == "rgb_array"
    assert make_sb3_vec_env("CartPole-v1", env_kwargs={"render_mode": None}).render_mode is None


def test_worker_processes_step_single_environments():
    env = make_sb3_vec_env(
        Counter,
        2,
        seed=0,
        env_kwargs={"limit": 3},
        wrapper_class=gymnasium.wrappers.TransformReward,
        wrapper_kwargs={"func": lambda reward: 10 * reward},
        monitor_kwargs={"info_keywords": ("total",)},
        vec_env_cls=SubprocVecEnv,
        vec_env_kwargs={"start_method": "fork"},
    )
    env.reset()
    _, rewards, dones, infos = [env.step(np.ones(2, int)) for _ in range(3)][-1]
    assert dones.all()
    assert rewards.tolist() == [10, 10]
    assert [(info["episode"]["r"], info["episode"]["total"]) for info in infos] == [(3, 3), (3, 4)]
    assert {type(process).__name__ for process in env.processes} == {"ForkProcess"}
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vec_env_cls": SubprocVecEnv}, "vec_env_cls must be None for 'PlasticRNN/CueReward-v0', whose native .*got"),
        (
            {"vec_env_cls": DummyVecEnv, "wrapper_class": VectorPreviousActionReward},
            "vec_env_cls must be None for .* leave it out, or use stable_baselines3.*make_vec_env",
        ),
        (
            {"env_id": Counter, "vec_env_cls": DummyVecEnv, "wrapper_class": VectorPreviousActionReward},
            "vec_env_cls must be None for .*VectorPreviousActionReward'>, which steps all lanes",
        ),
        ({"vec_env_kwargs": {"start_method": "fork"}}, "vec_env_kwargs must be None without vec_env_cls.*got {'start"),
        ({"start_index": -1}, "start_index must be at least 0, got -1"),
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_sb3_vec_env(**{"env_id": "PlasticRNN/CueReward-v0", "n_envs": 2, **arguments})


def test_a_vector_wrapper_keeps_the_native_environment():
    native = make_sb3_vec_env("PlasticRNN/CueChoice-v0", 2, wrapper_class=VectorPreviousActionReward)
    single = make_sb3_vec_env("PlasticRNN/CueChoice-v0", 2, wrapper_class=PreviousActionReward)
    assert isinstance(native.unwrapped.env.unwrapped, TaskVectorEnv)
    assert isinstance(single.unwrapped.env.unwrapped, SyncVectorEnv)
    assert native.observation_space == single.observation_space
