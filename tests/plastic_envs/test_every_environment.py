"""What holds for every registered id."""

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
        {"length": SMALL, "delay": st.integers(0, 3), "value_size": SMALL}
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
    """All that an environment returns when it is played at random."""
    env.action_space.seed(seed)
    seen = [env.reset(seed=seed)]
    for _ in range(episodes):
        terminated = False
        while not terminated:
            seen.append(env.step(env.action_space.sample()))
            terminated = seen[-1][2]
        seen.append(env.reset())
    return seen


def first_episode(task, seed):
    """The episode that an environment plays first under a seed: the first of the block that it samples."""
    generator, _ = gymnasium.utils.seeding.np_random(seed)
    return task.sample(generator, episodes_ahead(task, lanes=1))[:1]


def assert_same(one, other):
    np.testing.assert_equal(one, other)


@every_id
def test_gymnasium_checker_is_content(env_id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gymnasium.make(env_id, render_mode="rgb_array").unwrapped)
        play(gymnasium.make(env_id), seed=1)


@every_id
def test_stable_baselines3_checker_is_content(env_id):
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Said of stable-baselines3's own convolutions; pictures of this size want others.
        warnings.filterwarnings("ignore", message="The minimal resolution for an image is 36x36")
        checker.check_env(gymnasium.make(env_id))


@every_id
def test_task_and_vector_environment_keep_their_promises(env_id):
    check_task(plastic_envs.make_task(env_id), seed=3, batch_size=200)
    check_vector_env(env_id, seed=3)


@every_id
@settings(max_examples=15)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_promises_hold_for_other_arguments(env_id, data, seed):
    arguments = data.draw(ARGUMENTS[env_id])
    task = plastic_envs.make_task(env_id, **arguments)
    batch = task.sample(np.random.default_rng(seed), 30)
    shown = parts(task.observe(batch.observation))
    for name, space in parts(task.observation_space).items():
        assert (shown[name] >= space.low).all()
        assert (shown[name] <= space.high).all()
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
def test_twins_share_all_that_is_drawn_as_stimulus(env_id):
    """And differ only where what has to be remembered is shown."""
    task = plastic_envs.make_task(env_id)
    one, other = task.sample_yoked(np.random.default_rng(0), 40)
    memoranda = {"reward", "value", "y", "label"}
    start = 0
    for name, size in task.channels:
        same = one.observation[..., start : start + size] == other.observation[..., start : start + size]
        assert same.all() != (name in memoranda), name
        start += size
    np.testing.assert_array_equal(one.scored, other.scored)
    np.testing.assert_array_equal(one.item, other.item)
    rights = one.target[one.scored] == other.target[other.scored]
    by_chance = 1 / task.action_space.n if isinstance(task.action_space, gymnasium.spaces.Discrete) else 0
    assert rights.mean() < 1.5 * by_chance + 0.01


@every_id
def test_bounds_are_near_what_is_emitted(env_id):
    """Bounds that nothing comes near would waste the range that learners rescale."""
    task = plastic_envs.make_task(env_id)
    batch = task.sample(np.random.default_rng(0), 500)
    played = parts(task.observe(task.with_feedback(batch, task.oracle(batch))))
    for name, space in parts(task.observation_space).items():
        # Not every pixel is ever bright; the brightest is.
        axes = None if space.dtype == np.uint8 else (0, 1)
        top, bottom = played[name].max(axis=axes), played[name].min(axis=axes)
        size = space.high.astype(float) - space.low
        assert (top >= space.high - size / 4).all(), name
        assert (bottom <= space.low + size / 4).all(), name


@every_id
def test_same_seed_same_bits_and_other_seed_others(env_id):
    env = gymnasium.make(env_id)
    first = play(env, seed=5)
    assert_same(play(gymnasium.make(env_id), seed=5), first)
    assert_same(play(env, seed=5), first)
    targets = [np.array([result[-1]["target"] for result in play(env, seed)]) for seed in (5, 6)]
    assert not np.array_equal(*targets)


@every_id
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_go_on_alike_and_apart(env_id, clone):
    env = TaskEnv(env_id)
    env.reset(seed=7)
    env.step(env.action_space.sample())
    twin = clone(env)
    rest = env.task.episode_length - 1
    actions = [env.action_space.sample() for _ in range(rest)]
    ours = [env.step(action) for action in actions] + [env.reset()]
    theirs = [twin.step(action) for action in actions] + [twin.reset()]
    assert_same(ours, theirs)


@every_id
def test_spec_makes_the_environment_again(env_id):
    others = {"PlasticRNN/SequenceReproduction-v0": {"delay": 2}, "PlasticRNN/FewShotClassification-v0": {"n_way": 3}}
    arguments = others.get(env_id, {"noise": 0.3})
    env = gymnasium.make(env_id, **arguments)
    text = env.spec.to_json()
    json.loads(text)
    for spec in (EnvSpec.from_json(text), pickle.loads(pickle.dumps(env.spec))):
        again = gymnasium.make(spec)
        assert repr(again.unwrapped.task) == repr(env.unwrapped.task)
        assert_same(play(again, seed=1), play(env, seed=1))


@every_id
def test_vector_spec_makes_the_vector_environment_again(env_id):
    envs = gymnasium.make_vec(env_id, num_envs=3, autoreset_mode="SameStep")
    again = gymnasium.make_vec(envs.spec)
    assert (again.num_envs, again.autoreset_mode) == (3, envs.autoreset_mode)
    assert_same(again.reset(seed=2), envs.reset(seed=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gymnasium.make_vec(env_id, num_envs=2).unwrapped.__class__.__name__ == "TaskVectorEnv"


@every_id
def test_episode_ends_exactly_at_its_length(env_id):
    env = gymnasium.make(env_id)
    ends = [result[2] for result in play(env, seed=0, episodes=1)[1:-1]]
    assert ends == [False] * (env.unwrapped.task.episode_length - 1) + [True]


@every_id
def test_each_call_returns_things_of_its_own(env_id):
    """Writing to what was returned changes nothing that is returned later."""
    env, other = TaskEnv(env_id), TaskEnv(env_id)
    result, expected = env.reset(seed=0), other.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(2 * env.task.episode_length):
        assert_same(result, expected)
        for part in parts(result[0]).values():
            part[:] = 0.5
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
def test_summary_at_the_end_tells_how_good_the_episode_was(env_id):
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
def test_oracle_played_in_the_environment_earns_the_oracle_score(env_id):
    env = TaskEnv(env_id)
    for seed in range(5):
        env.reset(seed=seed)
        for action in env.task.oracle(first_episode(env.task, seed))[0]:
            *_, info = env.step(action)
        assert info["regret"] == pytest.approx(0, abs=1e-6)
        assert np.isnan(info["normalised_score"]) or info["normalised_score"] == pytest.approx(1)
