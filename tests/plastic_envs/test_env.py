"""Tests of TaskEnv: errors, seeding, registration, worker processes and rendering."""

import subprocess
import sys
import warnings
from itertools import pairwise

import gymnasium
import numpy as np
import pytest

import plastic_envs
from plastic_envs import registration, rendering
from plastic_envs.env import TaskEnv
from plastic_envs.registration import register_all
from plastic_envs.stream import EpisodeStream
from plastic_envs.tasks import CueChoice, CueReward, FewShotClassification, FewShotRegression, SequenceReproduction
from plastic_envs.vector_env import TaskVectorEnv

CUE_REWARD = "PlasticRNN/CueReward-v0"


def reset_env(task):
    env = TaskEnv(task)
    env.reset(seed=0)
    return env


WRONG_BOX_ACTIONS = [
    (np.array([np.nan], dtype=np.float32), ValueError, "must be finite numbers, got [nan]"),
    (np.array([np.inf]), ValueError, "must be finite numbers, got [inf]"),
    (np.array([np.longdouble("1e400")]), ValueError, "must be finite numbers, got [inf]"),
    ([[1], [1, 2]], ValueError, "must have shape (1,), got [[1], [1, 2]]"),
    (np.zeros(2, dtype=np.float32), ValueError, "must have shape (1,), got (2,): array([0., 0.]"),
    (np.float32(0.5), ValueError, f"must have shape (1,), got (): {np.float32(0.5)!r}"),
    (np.array(["a"]), TypeError, "must be finite numbers, got array(['a']"),
    ([10**30], TypeError, "must be finite numbers, got [1000000000"),
    ([True], TypeError, "must be finite numbers, got [True]"),
    (None, TypeError, "must be finite numbers, got None"),
]
WRONG_CHOICES = [
    (2, ValueError, "got [2]"),
    (-1, ValueError, "got [-1]"),
    (np.array([1]), ValueError, "must have shape (), got (1,): array([1])"),
    (0.5, TypeError, "got 0.5"),
    (np.float32(1), TypeError, f"got {np.float32(1)!r}"),
    (True, TypeError, "got True"),
    (np.True_, TypeError, f"got {np.True_!r}"),
    (10**30, TypeError, "got 1000000000"),
    ("a", TypeError, "got 'a'"),
    (None, TypeError, "got None"),
]


@pytest.mark.parametrize(("action", "error", "words"), WRONG_BOX_ACTIONS)
def test_invalid_box_actions_raise(action, error, words):
    env = reset_env(CueReward())
    with pytest.raises(error) as raised, warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(action)
    assert f"action {words}" in str(raised.value)
    # The invalid action did not advance the episode.
    assert env.step(np.zeros(1, dtype=np.float32))[3] is False
    assert env._step == 1


@pytest.mark.parametrize(("action", "error", "words"), WRONG_CHOICES)
def test_invalid_discrete_actions_raise(action, error, words):
    with pytest.raises(error) as raised:
        reset_env(CueChoice()).step(action)
    words = words if "shape" in words else f"must be whole numbers from 0 to 1, {words}"
    assert f"action {words}" in str(raised.value)


@pytest.mark.parametrize(
    ("task", "action", "error"),
    [
        *((CueReward(), action, error) for action, error, _ in WRONG_BOX_ACTIONS if action is not None),
        *((CueChoice(), action, error) for action, error, _ in WRONG_CHOICES if np.ndim(action) == 0),
    ],
    ids=str,
)
def test_single_and_vector_environment_raise_the_same_errors_for_actions(task, action, error):
    single, vector = reset_env(task), TaskVectorEnv(task, 1)
    vector.reset(seed=0)
    for env, step_action in ((single, action), (vector, [action])):
        with pytest.raises(error, match=r"actions? must"):
            env.step(step_action)


@pytest.mark.parametrize("value", [7.5, -1e200, np.longdouble(3), 2**40])
def test_box_actions_are_clipped_to_their_bounds(value):
    """In both environments, in scores and in tables; rewards are within `reward_range`, and there is no warning."""
    task = FewShotRegression(n_support=1, n_queries=2)
    action_beyond, clipped_action = np.array([value]), np.clip(np.array([value], dtype=np.float64), -1, 1)
    runs = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for action in (action_beyond, clipped_action):
            single, vector = TaskEnv(task, render_mode="ansi"), TaskVectorEnv(task, 2, render_mode="ansi")
            single.reset(seed=0)
            vector.reset(seed=0)
            results = [(*single.step(action)[1:], *vector.step(np.stack([action] * 2))[1:]) for _ in range(3)]
            runs.append((results, single.render(), vector.render()))
        np.testing.assert_equal(runs[0], runs[1])
        rewards = np.array([result[0] for result in runs[0][0]])
        episode = task.sample(np.random.default_rng(0), 3)
        actions = np.broadcast_to(action_beyond, episode.target.shape)
        np.testing.assert_array_equal(task.score(episode, actions), task.score(episode, np.clip(actions, -1, 1)))
    low, high = task.reward_range
    assert (rewards >= low).all()
    assert (rewards <= high).all()
    assert rewards.any()


def test_clipping_uses_the_bounds_of_the_action_space():
    class Skewed(CueReward):
        def __init__(self):
            super().__init__()
            self.action_space = gymnasium.spaces.Box(np.float32([-0.5]), np.float32([2.0]))

    for action, clipped in ((3.0, 2.0), (-3.0, -0.5), (1.5, 1.5)):
        env = reset_env(Skewed())
        for _ in range(11):
            target, reward = env._target_values[env._step][0], env.step(np.array([action]))[1]
        assert reward == pytest.approx(-((clipped - target) ** 2))


def test_rewards_are_python_floats_for_all_action_types():
    for action in (np.array([0.5], dtype=np.longdouble), np.array([1]), [0.25], np.array([0.5], dtype=np.float16)):
        env = reset_env(CueReward(n_support=1))
        env.step(action)
        assert type(env.step(action)[1]) is float


def test_zero_rewards_have_a_positive_sign():
    task = CueChoice()
    env, envs = reset_env(task), TaskVectorEnv(task, 8)
    envs.reset(seed=0)
    for _ in range(task.episode_length):
        assert np.copysign(1, env.step(0)[1]) == 1
        assert (np.copysign(1, envs.step(np.zeros(8, int))[1]) == 1).all()


@pytest.mark.parametrize("action", [1, np.int64(1), np.uint8(1), np.array(1)])
def test_discrete_actions_can_be_any_integer_type(action):
    assert reset_env(CueChoice()).step(action)[1] == reset_env(CueChoice()).step(1)[1]


def test_box_actions_can_be_lists():
    assert reset_env(CueReward()).step([0.5])[2] is False


def test_step_and_render_raise_before_reset_and_step_after_the_end():
    env = TaskEnv(CueReward(n_support=1, n_queries=1), render_mode="ansi")
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


@pytest.mark.parametrize("kind", [TaskEnv, TaskVectorEnv])
def test_step_and_render_raise_between_close_and_reset(kind):
    env = kind(CueReward(), render_mode="ansi")
    env.reset(seed=0)
    action = env.action_space.sample()
    for _ in range(2):
        env.step(action)
        env.close()
        for call in (lambda: env.step(action), env.render):
            with pytest.raises(RuntimeError, match="before reset, or after close: call reset first"):
                call()
        env.reset()


def test_str_and_repr_of_environments_contain_the_task():
    assert str(TaskEnv(CueChoice(n_trials=2))) == "TaskEnv(CueChoice(n_cues=4, cue_size=8, noise=0.1, n_trials=2))"
    assert "TaskEnv(CueReward(n_cues=5," in str(gymnasium.make(CUE_REWARD))
    assert repr(gymnasium.make_vec(CUE_REWARD, num_envs=3)).endswith("score_support=False), num_envs=3)")


@pytest.mark.parametrize("kind", [TaskEnv, TaskVectorEnv])
def test_invalid_options_raise(kind):
    env = kind(CueReward())
    for options in ({}, None):
        env.reset(options=options)
    with pytest.raises(TypeError, match="options must be a dict or None, got 5"):
        env.reset(options=5)
    with pytest.raises(ValueError, match=r"options must be .*, got 'reset_masks'"):
        env.reset(options={"reset_masks": np.array([True])})
    with pytest.raises(TypeError, match="reference_scores must be True or False, got 1"):
        kind(CueReward(), reference_scores=1)


def test_invalid_constructor_arguments_raise():
    with pytest.raises(ValueError, match="n_cues must be at least 1, got 0"):
        gymnasium.make(CUE_REWARD, n_cues=0)
    with pytest.raises(ValueError, match="render_mode must be None or one of rgb_array, ansi, got 'human'"):
        TaskEnv(CUE_REWARD, render_mode="human")
    with pytest.raises(TypeError, match="must be passed without arguments, got n_cues"):
        TaskEnv(CueReward(), n_cues=3)
    with pytest.raises(TypeError, match="task must be a Task or an environment id, got 3"):
        TaskEnv(3)
    # Libraries with a frame-skip argument search for this text.
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
def test_invalid_seeds_raise(seed, error):
    with pytest.raises(error, match=f"seed must be .*got {seed!r}"):
        TaskEnv(CUE_REWARD).reset(seed=seed)


def test_environments_of_one_task_have_separate_action_generators():
    task = CueReward()
    for kind in (TaskEnv, TaskVectorEnv):
        env, other_env = kind(task), kind(task)
        env.action_space.seed(0)
        other_env.action_space.seed(1)
        actions = [env.action_space.sample() for _ in range(3)]
        env.action_space.seed(0)
        repeated_actions = []
        for _ in range(3):
            other_env.action_space.sample()
            repeated_actions.append(env.action_space.sample())
        np.testing.assert_array_equal(actions, repeated_actions)


def test_observations_are_not_views_of_the_episode():
    env = TaskEnv(CUE_REWARD)
    observation, _ = env.reset(seed=0)
    assert observation.base is None
    assert env.step(np.zeros(1))[0].base is None


def test_blocks_of_long_episodes_are_small():
    short, long = EpisodeStream(CueReward(), 1), EpisodeStream(CueReward(n_support=400, n_queries=4000), 1)
    rng = np.random.default_rng(0)
    assert len(short.deal(rng)[0]) == 128
    assert len(long.deal(rng)[0]) == 3
    assert len(EpisodeStream(CueReward(n_support=1, n_queries=20_000), 1).deal(rng)[0]) == 1


@pytest.mark.parametrize(
    ("task", "lanes", "episodes"),
    [
        (SequenceReproduction(value_size=50_000, length=2, delay=0), 1, 8),
        (SequenceReproduction(value_size=50_000, length=2, delay=0), 3, 6),
        (CueReward(n_cues=100_000), 1, 2),
        (SequenceReproduction(value_size=2_000_000, length=1, delay=0), 1, 1),
        (FewShotClassification(), 1, 128),
    ],
    ids=str,
)
def test_blocks_of_large_episodes_are_small(task, lanes, episodes):
    """A block has at most 16 MiB, including latent draws."""
    block, _ = EpisodeStream(task, lanes).deal(np.random.default_rng(0))
    assert len(block) == episodes
    assert block.nbytes <= 2**24 or episodes == 1


def test_one_lane_equals_the_single_environment_for_long_episodes():
    task = CueReward(n_support=10, n_queries=6000, n_cues=3, cue_size=2)
    single, vector = TaskEnv(task), TaskVectorEnv(task, autoreset_mode="Disabled")
    for episode in range(4):
        observation, _ = single.reset(seed=5 if episode == 0 else None)
        observations, _ = vector.reset(seed=5 if episode == 0 else None)
        np.testing.assert_array_equal(observations[0], observation)
        np.testing.assert_array_equal(vector.step(np.zeros((1, 1)))[0][0], single.step(np.zeros(1))[0])


def test_keyword_arguments_reach_the_task():
    env = gymnasium.make(CUE_REWARD, n_cues=8, noise=0.2)
    assert (env.unwrapped.task.n_cues, env.unwrapped.task.noise) == (8, 0.2)
    np.testing.assert_allclose(env.observation_space.high[0], 1.8)
    envs = gymnasium.make_vec(CUE_REWARD, num_envs=2, n_cues=8)
    assert envs.unwrapped.task.n_cues == 8


def test_repeated_registration_has_no_effect():
    before = dict(gymnasium.registry)
    register_all()
    assert dict(gymnasium.registry) == before
    assert set(plastic_envs.registered_ids()) <= set(before)


def test_registering_a_taken_id_raises():
    plastic_envs.register("PlasticRNN/CueReward-v0", CueReward)
    with pytest.raises(ValueError, match="'PlasticRNN/CueReward-v0' is already taken"):
        plastic_envs.register("PlasticRNN/CueReward-v0", CueChoice)
    with pytest.raises(ValueError, match="'CartPole-v1' is already taken"):
        plastic_envs.register("CartPole-v1", CueReward)


@pytest.fixture
def registry(monkeypatch):
    """Restore the registries after the test."""
    monkeypatch.setattr(registration, "TASKS", dict(registration.TASKS))
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)


def test_failed_registration_leaves_the_registry_unchanged(registry):
    before = plastic_envs.registered_ids(), dict(gymnasium.registry)
    with pytest.raises(ValueError, match=r"env_id must have no module prefix .*got 'mine:Mine/Wrong-v0'"):
        plastic_envs.register("mine:Mine/Wrong-v0", CueReward)
    with pytest.raises(TypeError, match=r"env_id must be a str, .*got 3"):
        plastic_envs.register(3, CueReward)
    with pytest.raises(TypeError, match="keyword argument 'n_queues' of 3; its arguments are: n_cues, cue_size, noise"):
        plastic_envs.register("Mine/Wrong-v0", CueReward, n_queues=3)
    with pytest.raises(gymnasium.error.Error):
        plastic_envs.register("bad id!!", CueReward)
    for task in (CueReward(), int, "CueReward"):
        with pytest.raises(TypeError, match="task must be a class derived from Task, got"):
            plastic_envs.register("Mine/Wrong-v0", task)
    assert before == (plastic_envs.registered_ids(), dict(gymnasium.registry))


def test_a_redefined_class_replaces_the_registered_class(registry):
    def cell(size):
        class Mine(CueReward):
            def __init__(self):
                super().__init__(cue_size=size)

        plastic_envs.register("Mine/Mine-v0", Mine)

    cell(3)
    cell(5)
    assert gymnasium.make("Mine/Mine-v0").observation_space.shape == (7,)
    with pytest.raises(ValueError, match="'Mine/Mine-v0' is already taken"):
        plastic_envs.register("Mine/Mine-v0", CueReward)
    with pytest.raises(ValueError, match="'PlasticRNN/CueReward-v0' is already taken"):
        plastic_envs.register(CUE_REWARD, CueReward, n_cues=3)


def test_a_task_argument_beside_an_id_raises():
    for make in (gymnasium.make, lambda *ids, **arguments: gymnasium.make_vec(*ids, num_envs=2, **arguments)):
        with pytest.raises(TypeError, match=r"task must not be passed with the id .*, got CueChoice\("):
            make(CUE_REWARD, task=CueChoice())


def test_make_task_resolves_versions_and_module_prefixes(registry):
    plastic_envs.register("Mine/Cue-v2", CueReward, n_cues=2)
    plastic_envs.register("Mine/Cue-v10", CueReward, n_cues=10)
    for env_id, n_cues in (
        ("Mine/Cue", 10),
        ("Mine/Cue-v2", 2),
        ("elsewhere:Mine/Cue-v2", 2),
        ("elsewhere:Mine/Cue", 10),
    ):
        assert plastic_envs.make_task(env_id).n_cues == n_cues
    for env_id in ("Mine/Cu", "Mine/Cue-v", "Mine/Cue-v1"):
        with pytest.raises(ValueError, match=f"unknown environment id '{env_id}'; known ids"):
            plastic_envs.make_task(env_id)
    with pytest.raises(ValueError, match=r"unknown .*'elsewhere:Mine/Other' \(import elsewhere first .*\); known ids"):
        plastic_envs.make_task("elsewhere:Mine/Other")


def test_package_imports_wrappers_and_testing():
    run_python("import plastic_envs; plastic_envs.wrappers.PreviousActionReward; plastic_envs.testing.check_task")


def run_python(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_ids_work_after_import_or_with_a_module_prefix():
    run_python("import gymnasium as gym, plastic_envs; gym.make('PlasticRNN/CueReward-v0').reset()")
    run_python("import gymnasium as gym; gym.make('plastic_envs:PlasticRNN/CueReward-v0').reset()")
    run_python("import gymnasium as gym; gym.make_vec('plastic_envs:PlasticRNN/CueReward-v0', num_envs=64).reset()")


def test_package_imports_only_numpy_and_gymnasium():
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
    assert run_python(code).strip() == "['plastic_envs'] False"


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
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert result.stdout.split("\n")[:2] == ["(2, 16)", "(2, 11)"], result.stderr


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
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert result.stdout.strip() == "(2, 16)", result.stderr


@pytest.mark.parametrize("env_id", plastic_envs.registered_ids())
def test_pictures_change_with_each_step(env_id):
    env = TaskEnv(env_id, render_mode="rgb_array")
    env.reset(seed=0)
    frames = [env.render()]
    env.action_space.seed(0)
    for _ in range(env.task.episode_length):
        env.step(env.action_space.sample())
        frames.append(env.render())
    for frame in frames:
        assert frame.shape == (560, 760, 3)
        assert frame.dtype == np.uint8
    assert all((frame != next_frame).any() for frame, next_frame in pairwise(frames))


def test_pictures_have_observations_actions_and_targets_at_their_positions():
    env = TaskEnv(CueReward(n_support=1, n_queries=1), render_mode="rgb_array")
    env.reset(seed=0)
    env.step(np.zeros(1))
    env.step(np.array([1.0]))
    frame = env.render().astype(int)
    target, answer = env._target_values[1][0], 1.0

    def rows(colour):
        # Right half of the lower panel: the query's column without its frame.
        panel = frame[352:499, 460:738]
        return 352 + np.nonzero((panel == colour).all(axis=-1))[0]

    def height(value):
        return 425 - value * 75 / 1.15

    assert rows(rendering.ANSWER).min() == pytest.approx(height(answer), abs=5)
    ring = rows((40, 40, 40))
    assert (ring.min() + ring.max()) / 2 == pytest.approx(height(target), abs=1.5)
    reward = env._current.block.observation[env._lane, 0, 14]
    red, _, blue = frame[230, 300]
    assert (red > blue) == (reward > 0)


@pytest.mark.parametrize(
    "task",
    [
        CueReward(cue_size=3),
        CueReward(cue_size=500, n_support=3, n_queries=3),
        SequenceReproduction(length=300, delay=17, value_size=2),
        SequenceReproduction(length=400, delay=0, value_size=300),
    ],
    ids=["few", "many numbers", "many steps", "many of both"],
)
@pytest.mark.parametrize("fraction", [0.0, 0.7, 1.0])
def test_each_observed_number_has_its_position_and_colour(task, fraction):
    """Compare with single rectangles, also for more numbers and steps than pixels."""
    episode = task.sample(np.random.default_rng(0), 1)
    steps = task.episode_length
    observation = episode.observation[0, : int(fraction * (steps - 1)) + 1]
    top, height, size = 70.3, 201.7, task.channels[0][1]
    canvas, expected = (np.full((560, 760, 3), 255, dtype=np.uint8) for _ in range(2))
    rendering._draw_numbers(canvas, observation[:, :size], steps, top, height)
    edges = [150 + round(step * 590 / steps) for step in range(steps + 1)]
    for row in range(size):
        y0, y1 = (round(top + edge * height / size) for edge in (row, row + 1))
        expected[y0:y1, 150:740] = 238
        for step, value in enumerate(observation[:, row].tolist()):
            saturated = np.array(rendering.NEGATIVE if value < 0 else rendering.POSITIVE)
            expected[y0:y1, edges[step] : edges[step + 1]] = 255 + (saturated - 255) * min(abs(value), 1)
    np.testing.assert_array_equal(canvas, expected)


def test_pictures_label_actions_with_their_names():
    class Unnamed(CueChoice):
        action_names = ()

    frames = []
    for task in (CueChoice(n_trials=1), Unnamed(n_trials=1)):
        env = TaskEnv(task, render_mode="rgb_array")
        env.reset(seed=0)
        frames.append(env.render())
    changed = np.nonzero((frames[0] != frames[1]).any(axis=-1))
    is_lower_panel = changed[0] > 300
    assert is_lower_panel.any()
    assert changed[1][is_lower_panel].max() < 150


def test_tables_list_observations_actions_and_rewards():
    env = TaskEnv(CueChoice(n_trials=2), render_mode="ansi")
    env.reset(seed=0)
    env.step(1)
    table = env.render()
    lines = table.splitlines()
    assert lines[0].startswith("CueChoice(")
    assert lines[0].endswith("step 1 of 4")
    assert [cell.strip() for cell in lines[2].split("|")][1:] == [
        "cue", "outcome", "outcome step", "last action", "action", "target", "reward",
    ]  # fmt: skip
    assert len(lines) == 5
    value = env._stakes[0]
    assert lines[3].endswith(f"{value:.3f}")
    assert [cell.strip() for cell in lines[4].split("|")][2:5] == [f"{value:.2f}", "1", "1"]


def test_tables_explain_the_numbers_of_images():
    env = TaskEnv(FewShotClassification(augmentation="crop"), render_mode="ansi")
    env.reset(seed=0)
    _, _, titles, numbers = env.render().splitlines()
    assert titles.startswith("step | image: class number from 1, index in the class, augmentation | label | query |")
    class_index, index = env._current.block.observation[env._lane, 0, :2]
    assert numbers.split(" | ")[1].split()[:2] == [f"{class_index:.0f}", f"{index:.0f}"]


def test_render_without_a_mode_returns_none():
    assert reset_env(CueReward()).render() is None
