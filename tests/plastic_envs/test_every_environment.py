"""Tests of every registered environment."""

import copy
import json
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import plastic_envs
from plastic_envs.env import TaskEnv
from plastic_envs.stream import episodes_ahead
from plastic_envs.testing import check_task, check_vector_env, parts

IDS = plastic_envs.registered_ids()
every_id = pytest.mark.parametrize("env_id", IDS)

SMALL = st.integers(1, 4)
NOISE = st.floats(0, 0.7)
ARGUMENTS = {
    "PlasticRNN/CueReward-v0": st.fixed_dictionaries(
        {"n_cues": SMALL, "cue_size": SMALL, "noise": NOISE, "n_support": SMALL, "n_queries": SMALL},
        optional={"score_support": st.booleans()},
    ),
    "PlasticRNN/CueChoice-v0": st.fixed_dictionaries(
        {"n_cues": SMALL, "cue_size": SMALL, "noise": NOISE, "n_trials": SMALL}
    ),
    "PlasticRNN/SequenceReproduction-v0": st.fixed_dictionaries(
        {"length": SMALL, "delay": st.integers(2, 3), "value_size": SMALL},
        optional={"delay_range": st.integers(0, 2)},
    ),
    "PlasticRNN/Harlow-v0": st.fixed_dictionaries({"object_size": SMALL, "n_trials": st.integers(2, 5)}),
    "PlasticRNN/Bandit-v0": st.fixed_dictionaries(
        {"n_arms": st.integers(2, 4), "n_trials": st.integers(2, 5)},
        optional={"distribution": st.sampled_from(["bernoulli", "gaussian"]), "noise": st.floats(0.1, 10)},
    ),
    "PlasticRNN/FewShotRegression-v0": st.fixed_dictionaries(
        {"input_size": SMALL, "noise": NOISE, "n_support": SMALL, "n_queries": SMALL},
        optional={"score_support": st.booleans(), "hidden_size": st.integers(0, 3)},
    ),
}
ARGUMENTS["PlasticRNN/FewShotClassification-v0"] = st.fixed_dictionaries(
    {"n_way": st.integers(2, 5), "k_shot": SMALL, "n_queries": SMALL, "split": st.sampled_from(["validation", "test"])},
    optional={"augmentation": st.sampled_from(["crop", "crop-flip"]), "delayed_label": st.booleans()},
)
ARGUMENTS["PlasticRNN/FewShotRegressionMLP-v0"] = ARGUMENTS["PlasticRNN/FewShotRegression-v0"]


def play(env, seed, episodes=2):
    """Play random actions and return the results of all resets and steps."""
    env.action_space.seed(seed)
    results = [env.reset(seed=seed)]
    for _ in range(episodes):
        terminated = False
        while not terminated:
            results.append(env.step(env.action_space.sample()))
            terminated = results[-1][2]
        results.append(env.reset())
    return results


def first_episode(task, seed):
    """Return the first episode of an environment after `reset(seed=seed)`, the first of its first block."""
    generator, _ = gymnasium.utils.seeding.np_random(seed)
    return task.sample(generator, episodes_ahead(task, lanes=1))[:1]


def assert_same(results, expected):
    np.testing.assert_equal(results, expected)


@every_id
def test_gymnasium_env_checker_passes(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, render_mode="rgb_array").unwrapped)
        play(gymnasium.make(env_id), seed=1)


@every_id
def test_stable_baselines3_env_checker_passes(env_id):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # This warning is about the default CNN of stable-baselines3, which images of this size cannot use.
        warnings.filterwarnings("ignore", message="The minimal resolution for an image is 36x36")
        checker.check_env(gymnasium.make(env_id))


@every_id
def test_check_task_and_check_vector_env_pass(env_id):
    check_task(plastic_envs.make_task(env_id), seed=3, batch_size=200)
    check_vector_env(env_id, seed=3)


@every_id
@settings(max_examples=15)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_observations_rewards_and_infos_are_valid_for_other_arguments(env_id, data, seed):
    arguments = data.draw(ARGUMENTS[env_id])
    task = plastic_envs.make_task(env_id, **arguments)
    batch = task.sample(np.random.default_rng(seed), 30)
    observation = parts(task.observe(batch.observation))
    for name, space in parts(task.observation_space).items():
        assert (observation[name] >= space.low).all()
        assert (observation[name] <= space.high).all()
    assert np.isfinite(task.oracle(batch)).all()
    assert (task.rewards(batch, batch.target) >= task.rewards(batch, task.oracle(batch)) - 1e-12).all() or (
        task.interactive
    )
    env = gymnasium.make(env_id, **arguments)
    for result in play(env, seed):
        assert result[0] in env.observation_space
        assert result[-1]["target"] in env.action_space
        assert type(result[-1]["scored"]) is bool


@every_id
def test_twins_differ_only_in_the_channels_of_memoranda(env_id):
    task = plastic_envs.make_task(env_id)
    episode, twin = task.sample_yoked(np.random.default_rng(0), 40)
    memoranda = {"reward", "value", "y", "label"}
    start = 0
    for name, size in task.channels:
        is_equal = episode.observation[..., start : start + size] == twin.observation[..., start : start + size]
        assert is_equal.all() != (name in memoranda), name
        start += size
    np.testing.assert_array_equal(episode.scored, twin.scored)
    np.testing.assert_array_equal(episode.item, twin.item)
    is_equal_target = episode.target[episode.scored] == twin.target[twin.scored]
    chance = 1 / task.action_space.n if isinstance(task.action_space, gymnasium.spaces.Discrete) else 0
    assert is_equal_target.mean() < 1.5 * chance + 0.01


@every_id
def test_observation_bounds_are_tight(env_id):
    """Loose bounds would waste the range of learners that rescale observations."""
    task = plastic_envs.make_task(env_id)
    batch = task.sample(np.random.default_rng(0), 500)
    observation = parts(task.observe(task.with_feedback(batch, task.oracle(batch))))
    for name, space in parts(task.observation_space).items():
        # Some pixels are always dark, so images are tested as a whole.
        axes = None if space.dtype == np.uint8 else (0, 1)
        top, bottom = observation[name].max(axis=axes), observation[name].min(axis=axes)
        size = space.high.astype(float) - space.low
        assert (top >= space.high - size / 4).all(), name
        assert (bottom <= space.low + size / 4).all(), name


@every_id
def test_reset_with_a_seed_repeats_the_episodes(env_id):
    env = gymnasium.make(env_id)
    results = play(env, seed=5)
    assert_same(play(gymnasium.make(env_id), seed=5), results)
    assert_same(play(env, seed=5), results)
    targets = [np.array([result[-1]["target"] for result in play(env, seed)]) for seed in (5, 6)]
    assert not np.array_equal(*targets)


@every_id
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_and_pickles_continue_equally_and_independently(env_id, clone):
    env = TaskEnv(env_id)
    env.reset(seed=7)
    env.step(env.action_space.sample())
    env_copy = clone(env)
    actions = [env.action_space.sample() for _ in range(env.task.episode_length - 1)]
    results = [env.step(action) for action in actions] + [env.reset()]
    copy_results = [env_copy.step(action) for action in actions] + [env_copy.reset()]
    assert_same(results, copy_results)


@every_id
def test_spec_recreates_the_environment(env_id):
    special_arguments = {
        "PlasticRNN/SequenceReproduction-v0": {"delay": 2},
        "PlasticRNN/FewShotClassification-v0": {"n_way": 3},
        "PlasticRNN/Harlow-v0": {"n_trials": 3},
    }
    arguments = special_arguments.get(env_id, {"noise": 0.3})
    env = gymnasium.make(env_id, **arguments)
    text = env.spec.to_json()
    json.loads(text)
    for spec in (EnvSpec.from_json(text), pickle.loads(pickle.dumps(env.spec))):
        recreated = gymnasium.make(spec)
        assert repr(recreated.unwrapped.task) == repr(env.unwrapped.task)
        assert_same(play(recreated, seed=1), play(env, seed=1))


@every_id
def test_vector_spec_recreates_the_vector_environment(env_id):
    envs = gymnasium.make_vec(env_id, num_envs=3, autoreset_mode="SameStep")
    recreated = gymnasium.make_vec(envs.spec)
    assert (recreated.num_envs, recreated.autoreset_mode) == (3, envs.autoreset_mode)
    assert_same(recreated.reset(seed=2), envs.reset(seed=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gymnasium.make_vec(env_id, num_envs=2).unwrapped.__class__.__name__ == "TaskVectorEnv"


@every_id
def test_episodes_terminate_after_episode_length_steps(env_id):
    env = gymnasium.make(env_id)
    ends = [result[2] for result in play(env, seed=0, episodes=1)[1:-1]]
    assert ends == [False] * (env.unwrapped.task.episode_length - 1) + [True]


@every_id
def test_writing_to_returned_values_does_not_change_later_ones(env_id):
    env, other = TaskEnv(env_id), TaskEnv(env_id)
    result, expected = env.reset(seed=0), other.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(2 * env.task.episode_length):
        assert_same(result, expected)
        for entry in parts(result[0]).values():
            entry[:] = 0.5
        if isinstance(result[-1]["target"], np.ndarray):
            result[-1]["target"][:] = 0.5
        result[-1].clear()
        action = env.action_space.sample()
        result, expected = env.step(action), other.step(action)
        assert type(result[1]) is float
        assert type(result[2]) is bool
        assert type(result[3]) is bool
        if result[2]:
            assert_same(result, expected)
            result, expected = env.reset(), other.reset()


@every_id
def test_final_info_contains_the_scores_of_the_episode(env_id):
    env = TaskEnv(env_id)
    task = env.task
    env.reset(seed=11)
    episode = first_episode(task, 11)
    oracle, memoryless = (task.score(episode, policy(episode))[0] for policy in (task.oracle, task.memoryless))
    env.action_space.seed(1)
    total, terminated = 0.0, False
    while not terminated:
        _, reward, terminated, _, info = env.step(env.action_space.sample())
        total += reward
    score = total / episode.scored.sum()
    np.testing.assert_allclose(info["score"], score, rtol=1e-6)
    np.testing.assert_allclose(info["oracle_score"], oracle, rtol=1e-6)
    np.testing.assert_allclose(info["memoryless_score"], memoryless, rtol=1e-6)
    np.testing.assert_allclose(info["regret"], oracle - score, rtol=1e-5, atol=1e-6)
    if oracle > memoryless:
        np.testing.assert_allclose(
            info["normalised_score"], (score - memoryless) / (oracle - memoryless), rtol=1e-5, atol=1e-6
        )
    else:
        assert np.isnan(info["normalised_score"])
    assert info.pop("scored") is False
    assert all(isinstance(value, np.generic | np.ndarray) for value in info.values())


@every_id
def test_playing_the_oracle_gives_the_oracle_score(env_id):
    env = TaskEnv(env_id)
    for seed in range(5):
        env.reset(seed=seed)
        for action in env.task.oracle(first_episode(env.task, seed))[0]:
            *_, info = env.step(action)
        assert info["regret"] == pytest.approx(0, abs=1e-6)
        assert np.isnan(info["normalised_score"]) or info["normalised_score"] == pytest.approx(1)
