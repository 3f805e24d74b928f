"""TaskEnv: what it refuses, where it runs and what it draws."""

import subprocess
import sys
from itertools import pairwise

import gymnasium
import numpy as np
import pytest

import plastic_envs
from plastic_envs import registration
from plastic_envs.env import TaskEnv
from plastic_envs.registration import register_all
from plastic_envs.stream import EpisodeStream
from plastic_envs.tasks import CueChoice, CueReward
from plastic_envs.vector_env import TaskVectorEnv

CUE_REWARD = "PlasticRNN/CueReward-v0"


def started(task):
    env = TaskEnv(task)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (np.array([np.nan], dtype=np.float32), ["finite", "nan"]),
        (np.array([np.inf]), ["finite", "inf"]),
        (np.array([1e200]), ["finite as float32", "1.e+200"]),
        ([10**30], ["(1,)", "1000000000"]),
        ([[1], [1, 2]], ["(1,)", "[[1], [1, 2]]"]),
        (np.zeros(2, dtype=np.float32), ["(1,)", "array([0., 0.]"]),
        (np.float32(0.5), ["(1,)", "0.5"]),
        (np.array(["a"]), ["(1,)", "'a'"]),
        (None, ["(1,)", "None"]),
    ],
)
def test_wrong_box_actions_are_named(action, words):
    env = started(CueReward())
    with pytest.raises(ValueError) as raised:
        env.step(action)
    assert all(word in str(raised.value) for word in ["action", *words])
    # What was refused was not played.
    assert env.step(np.zeros(1, dtype=np.float32))[3] is False and env._step == 1


@pytest.mark.parametrize(
    ("action", "error"),
    [(2, ValueError), (-1, ValueError), (0.5, TypeError), (np.float32(1), TypeError), (True, ValueError)],
)
def test_wrong_choices_are_named(action, error):
    with pytest.raises(error, match="action must be a whole number from 0 to 1, got"):
        started(CueChoice()).step(action)


@pytest.mark.parametrize("action", [1, np.int64(1), np.uint8(1), np.array(1)])
def test_choices_come_in_many_types(action):
    assert started(CueChoice()).step(action)[1] == started(CueChoice()).step(1)[1]


def test_box_actions_may_be_lists():
    assert started(CueReward()).step([0.5])[2] is False


def test_steps_out_of_turn_are_refused():
    env = TaskEnv(CueReward(n_presentations=1, n_queries=1), render_mode="ansi")
    with pytest.raises(RuntimeError, match="before reset"):
        env.step(np.zeros(1))
    with pytest.raises(RuntimeError, match="before reset"):
        env.render()
    env.reset()
    env.step(np.zeros(1))
    env.step(np.zeros(1))
    with pytest.raises(RuntimeError, match="after the end of an episode of 2 steps"):
        env.step(np.zeros(1))
    env.reset()
    env.step(np.zeros(1))


def test_wrong_constructor_arguments_are_named():
    with pytest.raises(ValueError, match="n_cues must be at least 1, got 0"):
        gymnasium.make(CUE_REWARD, n_cues=0)
    with pytest.raises(ValueError, match="render_mode must be None or one of rgb_array, ansi, got 'human'"):
        TaskEnv(CUE_REWARD, render_mode="human")
    with pytest.raises(TypeError, match="takes no more arguments, got n_cues"):
        TaskEnv(CueReward(), n_cues=3)
    with pytest.raises(TypeError, match="task must be a Task or the id of one, got 3"):
        TaskEnv(3)
    # Libraries that offer a frame skip look for these words.
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip' of 1; its arguments are: n_cues, cue"):
        gymnasium.make(CUE_REWARD, frameskip=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'frameskip' of 1"):
        gymnasium.make_vec(CUE_REWARD, num_envs=2, frameskip=1)
    with pytest.raises(TypeError, match="max_episode_steps must be left out, got 5"):
        gymnasium.make_vec(CUE_REWARD, num_envs=2, max_episode_steps=5)
    assert gymnasium.make_vec(CUE_REWARD, num_envs=2, max_episode_steps=5, vectorization_mode="sync").num_envs == 2
    with pytest.raises(TypeError, match=r"env_id must be a str, such as .*, got \[1\]"):
        plastic_envs.make_task([1])


@pytest.mark.parametrize(("seed", "error"), [(True, TypeError), (1.5, TypeError), ("a", TypeError), (-1, ValueError)])
def test_wrong_seeds_are_named(seed, error):
    with pytest.raises(error, match=f"seed must be .*got {seed!r}"):
        TaskEnv(CUE_REWARD).reset(seed=seed)


def test_environments_of_one_task_share_no_generator():
    task = CueReward()
    for kind in (TaskEnv, TaskVectorEnv):
        one, other = kind(task), kind(task)
        one.action_space.seed(0)
        other.action_space.seed(1)
        actions = [one.action_space.sample() for _ in range(3)]
        one.action_space.seed(0)
        again = []
        for _ in range(3):
            other.action_space.sample()
            again.append(one.action_space.sample())
        np.testing.assert_array_equal(actions, again)


def test_observations_do_not_hold_those_to_come():
    env = TaskEnv(CUE_REWARD)
    observation, _ = env.reset(seed=0)
    assert observation.base is None
    assert env.step(np.zeros(1))[0].base is None


def test_long_episodes_are_not_sampled_far_ahead():
    short, long = EpisodeStream(CueReward(), 1), EpisodeStream(CueReward(n_presentations=400, n_queries=4000), 1)
    rng = np.random.default_rng(0)
    assert len(short.deal(rng)[0]) == 128
    assert len(long.deal(rng)[0]) == 3
    assert len(EpisodeStream(CueReward(n_presentations=1, n_queries=20_000), 1).deal(rng)[0]) == 1


def test_long_episodes_in_one_lane_equal_those_of_the_single_environment():
    task = CueReward(n_presentations=10, n_queries=6000, n_cues=3, cue_size=2)
    single, vector = TaskEnv(task), TaskVectorEnv(task, autoreset_mode="Disabled")
    for episode in range(4):
        one, _ = single.reset(seed=5 if episode == 0 else None)
        other, _ = vector.reset(seed=5 if episode == 0 else None)
        np.testing.assert_array_equal(other[0], one)
        np.testing.assert_array_equal(vector.step(np.zeros((1, 1)))[0][0], single.step(np.zeros(1))[0])


def test_keyword_arguments_reach_the_task():
    env = gymnasium.make(CUE_REWARD, n_cues=8, noise=0.2)
    assert (env.unwrapped.task.n_cues, env.unwrapped.task.noise) == (8, 0.2)
    np.testing.assert_allclose(env.observation_space.high[0], 1.8)
    envs = gymnasium.make_vec(CUE_REWARD, num_envs=2, n_cues=8)
    assert envs.unwrapped.task.n_cues == 8


def test_registering_twice_is_harmless():
    before = dict(gymnasium.registry)
    register_all()
    assert dict(gymnasium.registry) == before
    assert set(plastic_envs.registered_ids()) <= set(before)


def test_registered_ids_belong_to_one_task():
    plastic_envs.register("PlasticRNN/CueReward-v0", CueReward)
    with pytest.raises(ValueError, match="'PlasticRNN/CueReward-v0' is taken already"):
        plastic_envs.register("PlasticRNN/CueReward-v0", CueChoice)
    with pytest.raises(ValueError, match="'CartPole-v1' is taken already"):
        plastic_envs.register("CartPole-v1", CueReward)


@pytest.fixture
def registry(monkeypatch):
    """What is registered here is forgotten afterwards."""
    monkeypatch.setattr(registration, "TASKS", dict(registration.TASKS))
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)


def test_what_cannot_be_registered_leaves_nothing_behind(registry):
    before = plastic_envs.registered_ids(), dict(gymnasium.registry)
    with pytest.raises(gymnasium.error.Error):
        plastic_envs.register("bad id!!", CueReward)
    for task in (CueReward(), int, "CueReward"):
        with pytest.raises(TypeError, match="task must be a class derived from Task, got"):
            plastic_envs.register("Mine/Wrong-v0", task)
    assert before == (plastic_envs.registered_ids(), dict(gymnasium.registry))


def test_a_class_that_is_defined_again_takes_the_place_of_the_first(registry):
    def cell(size):
        class Mine(CueReward):
            def __init__(self):
                super().__init__(cue_size=size)

        plastic_envs.register("Mine/Mine-v0", Mine)

    cell(3)
    cell(5)
    assert gymnasium.make("Mine/Mine-v0").observation_space.shape == (7,)
    with pytest.raises(ValueError, match="'Mine/Mine-v0' is taken already"):
        plastic_envs.register("Mine/Mine-v0", CueReward)
    with pytest.raises(ValueError, match="'PlasticRNN/CueReward-v0' is taken already"):
        plastic_envs.register(CUE_REWARD, CueReward, n_cues=3)


def test_wrappers_and_checks_come_with_the_package():
    run_alone("import plastic_envs; plastic_envs.wrappers.PreviousActionReward; plastic_envs.testing.check_task")


def run_alone(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_one_import_is_enough_and_the_id_can_name_it():
    run_alone("import gymnasium as gym, plastic_envs; gym.make('PlasticRNN/CueReward-v0').reset()")
    run_alone("import gymnasium as gym; gym.make('plastic_envs:PlasticRNN/CueReward-v0').reset()")
    run_alone("import gymnasium as gym; gym.make_vec('plastic_envs:PlasticRNN/CueReward-v0', num_envs=64).reset()")


def test_nothing_but_numpy_and_gymnasium_is_imported():
    code = """
import sys, pkgutil, importlib
before = set(sys.modules)
import numpy, gymnasium, gymnasium.vector, gymnasium.utils.env_checker
known = set(sys.modules)
import plastic_envs
for module in pkgutil.walk_packages(plastic_envs.__path__, "plastic_envs."):
    importlib.import_module(module.name)
env = plastic_envs.env.TaskEnv("PlasticRNN/CueReward-v0", render_mode="rgb_array")
env.reset()
env.render()
new = {name.partition(".")[0] for name in set(sys.modules) - known}
print(sorted(new - set(sys.stdlib_module_names)), "torch" in sys.modules)
"""
    assert run_alone(code).strip() == "['plastic_envs'] False"


def test_environments_run_in_spawned_workers(tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(
        """
import gymnasium as gym

if __name__ == "__main__":
    for env_id in ("plastic_envs:PlasticRNN/CueReward-v0", "plastic_envs:PlasticRNN/CueChoice-v0"):
        envs = gym.make_vec(env_id, 2, vectorization_mode="async", vector_kwargs={"context": "spawn"})
        envs.reset(seed=0)
        print(envs.step(envs.action_space.sample())[0].shape)
        envs.close()
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split("\n")[:2] == ["(2, 16)", "(2, 11)"], done.stderr


def test_environments_run_in_stable_baselines3_workers(tmp_path):
    pytest.importorskip("stable_baselines3")
    script = tmp_path / "workers.py"
    script.write_text(
        """
import gymnasium as gym
import plastic_envs
from stable_baselines3.common.vec_env import SubprocVecEnv

def make():
    return gym.make("plastic_envs:PlasticRNN/CueReward-v0", n_cues=3)

if __name__ == "__main__":
    spec = gym.make("PlasticRNN/CueReward-v0", n_cues=3).spec
    envs = SubprocVecEnv([make, lambda: gym.make(spec)], start_method="spawn")
    print(envs.reset().shape)
    envs.close()
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "(2, 16)", done.stderr


@pytest.mark.parametrize("env_id", plastic_envs.registered_ids())
def test_pictures_grow_with_the_episode(env_id):
    env = TaskEnv(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    frames = [env.render()]
    env.action_space.seed(0)
    for _ in range(env.task.episode_length):
        env.step(env.action_space.sample())
        frames.append(env.render())
    for frame in frames:
        assert frame.shape == (560, 760, 3) and frame.dtype == np.uint8
    assert all((one != other).any() for one, other in pairwise(frames))


def test_pictures_show_observations_answers_and_targets_where_they_belong():
    env = TaskEnv(CueReward(n_presentations=1, n_queries=1), render_mode="rgb_array")
    env.reset(seed=0)
    env.step(np.zeros(1))
    env.step(np.array([1.0]))
    frame = env.render().astype(int)
    target, answer = env._answers[1][0], 1.0

    def rows(colour):
        # Right half of the lower panel: the query's column, without the frame round it.
        panel = frame[352:499, 460:738]
        return 352 + np.nonzero((panel == colour).all(axis=-1))[0]

    def height(value):
        return 425 - value * 75 / 1.15

    assert rows((230, 120, 20)).min() == pytest.approx(height(answer), abs=5)
    ring = rows((40, 40, 40))
    assert (ring.min() + ring.max()) / 2 == pytest.approx(height(target), abs=1.5)
    shown = env._block.observation[env._lane, 0, 14]
    red, _, blue = frame[230, 300]
    assert (red > blue) == (shown > 0)


def test_pictures_name_choices():
    class Unnamed(CueChoice):
        action_names = ()

    frames = []
    for task in (CueChoice(n_trials=1), Unnamed(n_trials=1)):
        env = TaskEnv(task, render_mode="rgb_array")
        env.reset(seed=0)
        frames.append(env.render())
    changed = np.nonzero((frames[0] != frames[1]).any(axis=-1))
    beside_the_panel = changed[0] > 300
    assert beside_the_panel.any() and changed[1][beside_the_panel].max() < 150


def test_tables_list_the_episode():
    env = TaskEnv(CueChoice(n_trials=2), render_mode="ansi")
    env.reset(seed=0)
    env.step(1)
    table = env.render()
    lines = table.splitlines()
    assert lines[0].startswith("CueChoice(") and lines[0].endswith("step 1 of 4")
    assert [cell.strip() for cell in lines[2].split("|")][1:] == [
        "cue", "outcome", "outcome step", "last action", "action", "target", "reward",
    ]  # fmt: skip
    assert len(lines) == 5
    value = env._worth[0]
    assert lines[3].endswith(f"{value:.3f}")
    assert [cell.strip() for cell in lines[4].split("|")][2:5] == [f"{value:.2f}", "1", "1"]


def test_no_render_mode_no_picture():
    assert started(CueReward()).render() is None
