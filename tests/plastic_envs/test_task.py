"""Tests of tasks against their documentation."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plastic_envs import make_task, normalised_score
from plastic_envs.env import TaskEnv
from plastic_envs.noise import NOISE_CLIP, normal_noise
from plastic_envs.rendering import print_episode
from plastic_envs.tasks import CueChoice, CueReward, FewShotClassification, FewShotRegression, SequenceReproduction
from plastic_envs.testing import check_task

seeds = st.integers(0, 2**32 - 1)
examples = settings(max_examples=20)


@examples
@given(seed=seeds, noise=st.floats(0, 1))
def test_cue_reward_observations_contain_cues_and_rewards(seed, noise):
    task = CueReward(noise=noise)
    episode = task.sample(np.random.default_rng(seed), 6)
    for b in range(6):
        for t in range(20):
            cue = episode.latent["cues"][b, episode.item[b, t]]
            reward = episode.latent["rewards"][b, episode.item[b, t]]
            deviation = episode.observation[b, t, :14] - cue
            assert np.abs(deviation).max() <= 4 * noise + 1e-6
            assert episode.target[b, t, 0] == reward
            query = t >= 10
            assert episode.observation[b, t, 14] == (0 if query else reward)
            assert episode.observation[b, t, 15] == query == episode.scored[b, t]
    if noise > 1e-3:
        deviation = episode.observation[..., :14] - np.take_along_axis(
            episode.latent["cues"], episode.item[:, :, None], axis=1
        )
        assert deviation.std() == pytest.approx(noise, rel=0.1)


@examples
@given(seed=seeds)
def test_box_rewards_equal_the_documented_formula(seed):
    rng = np.random.default_rng(seed)
    tasks = (CueReward(score_support=bool(seed % 2)), SequenceReproduction(value_size=3), FewShotRegression())
    for task in tasks:
        episode = task.sample(rng, 3)
        actions = rng.uniform(-1, 1, episode.target.shape)
        expected = np.zeros(episode.scored.shape)
        for b, t in zip(*np.nonzero(episode.scored), strict=True):
            error = task.action_scale * (actions[b, t] - episode.target[b, t])
            expected[b, t] = -np.mean(error**2)
        np.testing.assert_allclose(task.rewards(episode, actions), expected, rtol=1e-12)


def test_score_support_scores_support_steps():
    for task, n_support in ((CueReward(score_support=True), 10), (FewShotRegression(score_support=True), 20)):
        episode = task.sample(np.random.default_rng(0), 200)
        assert episode.scored.all()
        oracle_loss = -task.rewards(episode, task.oracle(episode))[:, :n_support].mean()
        memoryless_loss = -task.rewards(episode, task.memoryless(episode))[:, :n_support].mean()
        # Rewards are observed without noise, values of functions with noise of variance 0.01.
        variance = 0.01 if isinstance(task, FewShotRegression) else 0.0
        assert oracle_loss <= memoryless_loss <= variance * 1.05
    assert not CueReward().sample(np.random.default_rng(0), 1).scored[0, :10].any()


@examples
@given(seed=seeds)
def test_cue_choice_rewards_approach_and_shows_the_outcome_at_the_next_step(seed):
    task = CueChoice()
    rng = np.random.default_rng(seed)
    episode = task.sample(rng, 4)
    actions = rng.integers(2, size=episode.target.shape)
    rewards = task.rewards(episode, actions)
    observation = task.with_feedback(episode, actions)
    for b in range(4):
        for trial in range(12):
            t = 2 * trial
            value = episode.latent["values"][b, episode.item[b, t]]
            assert episode.item[b, t] == episode.item[b, t + 1]
            assert episode.target[b, t] == (value > 0)
            reward = value if actions[b, t] else 0.0
            assert rewards[b, t] == reward
            assert rewards[b, t + 1] == 0
            assert observation[b, t, 8:].tolist() == [0, 0, 0]
            assert observation[b, t + 1, 8:].tolist() == [np.float32(reward), 1, 1 if actions[b, t] else -1]
    assert (episode.observation[..., 8] == 0).all(), "with_feedback must write to a copy"


def test_sequence_reproduction_targets_are_the_observed_values():
    task = SequenceReproduction(length=5, delay=3, value_size=2)
    episode = task.sample(np.random.default_rng(0), 7)
    assert task.episode_length == 13
    assert task.query_start == 8
    np.testing.assert_array_equal(episode.target[:, 8:], episode.observation[:, :5, :2])
    assert (episode.observation[:, 5:, :2] == 0).all()
    np.testing.assert_array_equal(episode.observation[0, :, 2], [1] * 5 + [0] * 8)
    np.testing.assert_array_equal(episode.observation[0, :, 3], [0] * 8 + [1] * 5)
    np.testing.assert_array_equal(episode.scored[0], [False] * 8 + [True] * 5)


@pytest.mark.parametrize("hidden_size", [0, 2])
def test_few_shot_regression_standardises_a_function_of_x(hidden_size):
    task = FewShotRegression(input_size=6, hidden_size=hidden_size, noise=0.2)
    episode = task.sample(np.random.default_rng(0), 300)
    x = episode.observation[..., :6].astype(float)
    if hidden_size:
        layer_1, layer_2 = episode.latent["layer_1"], episode.latent["layer_2"]
        y = np.tanh(x @ layer_1[:, :6] + layer_1[:, 6:]) @ layer_2[:, :2] + layer_2[:, 2:]
        assert np.abs(layer_2).max() <= 1 / np.sqrt(2)
    else:
        layer_1 = episode.latent["layer_1"]
        y = x @ layer_1[:, :6] + layer_1[:, 6:]
    assert 0.95 / np.sqrt(6) < np.abs(layer_1).max() <= np.float32(1 / np.sqrt(6))
    y = y[..., 0]
    y = (y - y.mean(axis=1, keepdims=True)) / y.std(axis=1, ddof=1, keepdims=True)
    np.testing.assert_allclose(4 * episode.target[..., 0], np.clip(y, -4, 4), atol=1e-3)
    noise = episode.observation[:, :20, 6] - 4 * episode.target[:, :20, 0]
    assert noise.std() == pytest.approx(0.2, rel=0.03)
    assert (episode.observation[:, 20:, 6] == 0).all()


@pytest.mark.parametrize(
    ("task", "cues"), [(CueReward(), 14), (CueChoice(), 8), (SequenceReproduction(), 0), (FewShotRegression(), 12)]
)
def test_twins_share_stimuli_but_not_memoranda(task, cues):
    episode, twin = task.sample_yoked(np.random.default_rng(0), 50)
    np.testing.assert_array_equal(episode.observation[..., :cues], twin.observation[..., :cues])
    np.testing.assert_array_equal(episode.item, twin.item)
    np.testing.assert_array_equal(episode.observation[..., -1], twin.observation[..., -1])
    correlation = np.corrcoef(episode.target[episode.scored].ravel(), twin.target[twin.scored].ravel())[0, 1]
    assert abs(correlation) < 0.25
    assert not np.shares_memory(episode.observation, twin.observation)


def test_memoranda_of_twins_differ_even_if_few_are_possible():
    episode, twin = FewShotClassification(n_way=2).sample_yoked(np.random.default_rng(0), 50)
    np.testing.assert_array_equal(episode.latent["labels"], twin.latent["labels"][:, ::-1])
    assert set(episode.latent["labels"][:, 0]) == {0, 1}


def test_twins_of_continuous_memoranda_are_the_first_draws():
    task, rng = CueReward(), np.random.default_rng(0)
    stimuli, *memoranda = task.sample_stimuli(rng, 6), task.sample_memoranda(rng, 6), task.sample_memoranda(rng, 6)
    for twin, draws in zip(task.sample_yoked(np.random.default_rng(0), 6), memoranda, strict=True):
        np.testing.assert_array_equal(twin.observation, task.compose(stimuli, draws).observation)


def test_twins_are_equal_if_only_one_memorandum_is_possible():
    class Constant(CueReward):
        def sample_memoranda(self, rng, batch_size):
            return {"rewards": np.zeros((batch_size, self.n_cues), np.float32)}

    episode, twin = Constant().sample_yoked(np.random.default_rng(0), 3)
    np.testing.assert_array_equal(episode.observation, twin.observation)


@pytest.mark.parametrize("env_id", ["PlasticRNN/CueReward-v0", "PlasticRNN/CueChoice-v0"])
def test_item_is_the_index_of_the_observed_cue(env_id):
    task = make_task(env_id, noise=0.0)
    episode = task.sample(np.random.default_rng(0), 5)
    cue = episode.observation[..., : task.cue_size]
    same_cue = (cue[:, :, None] == cue[:, None, :]).all(axis=-1)
    np.testing.assert_array_equal(same_cue, episode.item[:, :, None] == episode.item[:, None, :])


def test_episodes_can_be_selected_and_replaced():
    task = CueReward()
    rng = np.random.default_rng(0)
    episode, new_episodes = task.sample(rng, 5), task.sample(rng, 2)
    mask = np.array([False, True, False, False, True])
    mixed = episode.copy()
    mixed.put(mask, new_episodes)
    np.testing.assert_array_equal(mixed[mask].observation, new_episodes.observation)
    np.testing.assert_array_equal(mixed[~mask].latent["cues"], episode.latent["cues"][~mask])
    np.testing.assert_array_equal(mixed[:1].scored, episode[:1].scored)
    assert len(mixed) == 5
    assert len(mixed[mask]) == 2


def test_observations_are_time_major_in_memory():
    for name in ("CueReward", "CueChoice", "SequenceReproduction", "FewShotRegression", "Bandit", "Harlow"):
        episode = make_task(f"PlasticRNN/{name}-v0").sample(np.random.default_rng(0), 3)
        assert episode.observation.swapaxes(0, 1).flags.c_contiguous


def test_noise_is_normal_within_the_clipping_bounds():
    draws = normal_noise(np.random.default_rng(0), (2000, 1000))
    assert draws.dtype == np.float32
    assert np.abs(draws).max() <= NOISE_CLIP
    assert draws.mean() == pytest.approx(0, abs=4 / np.sqrt(2e6))
    assert draws.std() == pytest.approx(1, abs=3e-3)
    exact = np.clip(np.random.default_rng(1).standard_normal(2_000_000), -NOISE_CLIP, NOISE_CLIP)
    points = np.linspace(-NOISE_CLIP, NOISE_CLIP, 101)
    cdf, exact_cdf = (np.searchsorted(np.sort(sample.ravel()), points) / 2e6 for sample in (draws, exact))
    # Bound of the Kolmogorov-Smirnov test for two samples of this size, at a significance of 1e-6.
    assert np.abs(cdf - exact_cdf).max() < 2.7 * np.sqrt(2 / 2e6)
    assert np.corrcoef(draws.ravel()[:-1], draws.ravel()[1:])[0, 1] == pytest.approx(0, abs=5 / np.sqrt(2e6))


@pytest.mark.parametrize(
    ("task", "arguments", "error", "words"),
    [
        (CueReward, {"n_cues": 0}, ValueError, ["n_cues", "0", "at least 1"]),
        (CueReward, {"n_cues": 2.5}, TypeError, ["n_cues", "2.5", "whole number"]),
        (CueReward, {"n_cues": True}, TypeError, ["n_cues", "True", "whole number"]),
        (CueReward, {"noise": -0.1}, ValueError, ["noise", "-0.1", "between 0 and 1000"]),
        (CueReward, {"noise": float("nan")}, ValueError, ["noise", "nan", "finite"]),
        (CueReward, {"noise": 1e38}, ValueError, ["noise", "1e+38", "between 0 and 1000"]),
        (CueChoice, {"noise": 1e200}, ValueError, ["noise", "1e+200", "between 0 and 1000"]),
        (FewShotRegression, {"noise": 10**400}, ValueError, ["noise", "between 0 and 1000"]),
        (CueReward, {"noise": "0.1"}, TypeError, ["noise", "'0.1'", "number"]),
        (CueReward, {"score_support": 1}, TypeError, ["score_support", "1", "True or False"]),
        (CueReward, {"n_queues": 3}, TypeError, ["n_queues"]),
        (CueChoice, {"n_trials": 0}, ValueError, ["n_trials", "0", "at least 1"]),
        (SequenceReproduction, {"delay": -1}, ValueError, ["delay", "-1", "at least 0"]),
        (FewShotRegression, {"hidden_size": -1}, ValueError, ["hidden_size", "-1", "at least 0"]),
        (FewShotRegression, {"n_support": None}, TypeError, ["n_support", "None", "whole number"]),
        (CueReward, {"n_cues": np.array([3])}, TypeError, ["n_cues", "array([3])", "whole number"]),
        (CueReward, {"n_cues": np.True_}, TypeError, ["n_cues", "True", "whole number"]),
        (CueReward, {"noise": np.True_}, TypeError, ["noise", "True", "number"]),
        (CueReward, {"noise": np.array([0.1])}, TypeError, ["noise", "array([0.1])", "number"]),
        (CueReward, {"noise": Decimal("NaN")}, ValueError, ["noise", "NaN", "finite"]),
        (CueReward, {"cue_size": 10**20}, ValueError, ["cue_size=100000000000000000000", "at most 268435456 entries"]),
        (CueReward, {"n_cues": 10**12}, ValueError, ["n_cues=1000000000000", "at most 268435456 entries"]),
        (CueReward, {"n_queries": 10**9}, ValueError, ["n_queries=1000000000", "at most 268435456 entries"]),
        (CueChoice, {"n_trials": 10**20}, ValueError, ["n_trials=100000000000000000000", "at most 268435456 entries"]),
        (CueChoice, {"n_cues": 10**12}, ValueError, ["n_cues=1000000000000", "at most 268435456 entries"]),
        (SequenceReproduction, {"delay": 10**9}, ValueError, ["delay=1000000000", "at most 268435456 entries"]),
        (
            FewShotRegression,
            {"hidden_size": 10**9},
            ValueError,
            ["hidden_size=1000000000", "at most 268435456 entries"],
        ),
        (FewShotRegression, {"n_queries": 10**8}, ValueError, ["n_queries=100000000", "at most 268435456 entries"]),
        (
            FewShotRegression,
            {"hidden_size": 10**7, "input_size": 1},
            ValueError,
            ["hidden_size=10000000", "at most 268435456 entries"],
        ),
        (FewShotRegression, {"input_size": 20_000}, ValueError, ["input_size=20000", "at most 268435456 entries"]),
    ],
)
def test_invalid_task_arguments_raise(task, arguments, error, words):
    with pytest.raises(error) as raised:
        task(**arguments)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize("kind", [CueReward, CueChoice, FewShotRegression])
def test_the_largest_noise_gives_finite_observations_and_actions(kind):
    task = kind(noise=1000.0)
    episode = task.sample(np.random.default_rng(0), 50)
    assert task.observation_space.is_bounded()
    assert np.isfinite(episode.observation).all()
    oracle = task.oracle(episode)
    assert np.isfinite(oracle).all()
    assert np.abs(oracle).max() <= 1


@pytest.mark.parametrize(
    ("rng", "batch_size", "error", "words"),
    [
        (0, 4, TypeError, "rng must be a numpy.random.Generator, .*got 0"),
        (np.random.default_rng(0), 0, ValueError, "batch_size must be at least 1, got 0"),
        (np.random.default_rng(0), 2.5, TypeError, "batch_size must be a whole number"),
    ],
)
def test_invalid_sample_arguments_raise(rng, batch_size, error, words):
    for draw in (CueReward().sample, CueReward().sample_yoked):
        with pytest.raises(error, match=words):
            draw(rng, batch_size)


def test_task_arguments_can_be_numpy_numbers_decimals_and_fractions():
    for three, half, true in ((np.int64(3), np.float32(0.5), np.True_), (np.array(3), np.array(0.5), np.array(True))):
        task = CueReward(n_cues=three, noise=half, score_support=true)
        assert (task.n_cues, task.noise, task.score_support) == (3, 0.5, True)
        assert (type(task.n_cues), type(task.noise), type(task.score_support)) == (int, float, bool)
    assert CueReward(noise=Decimal("0.25")).noise == CueReward(noise=Fraction(1, 4)).noise == 0.25


@pytest.mark.parametrize(
    ("task", "actions", "error", "words"),
    [
        (CueReward(), np.zeros((2, 20)), ValueError, r"actions must have shape \(2, 20, 1\), got "),
        (CueReward(), np.zeros((2, 10, 1)), ValueError, r"actions must have shape \(2, 20, 1\), got "),
        (CueReward(), np.full((2, 20, 1), np.nan), ValueError, r"finite numbers, got \[nan, .* in episodes \[0, 1\]"),
        (CueReward(), np.full((2, 20, 1), "a"), TypeError, "actions must be finite numbers, got"),
        (CueChoice(), np.full((2, 24), 7), ValueError, r"whole numbers from 0 to 1, got \[7, .* in episodes \[0, 1\]"),
        (CueChoice(), np.full((2, 24), 0.5), TypeError, "whole numbers from 0 to 1, got"),
    ],
)
def test_invalid_actions_raise(task, actions, error, words):
    episode = task.sample(np.random.default_rng(0), 2)
    for method in (task.rewards, task.score, task.with_feedback):
        with pytest.raises(error, match=words):
            method(episode, actions)


def test_composing_the_wrong_number_of_episodes_raises():
    class WrongNumber(CueReward):
        def compose(self, stimuli, memoranda):
            return super().compose(stimuli, memoranda)[:5]

    for draw in (WrongNumber().sample, WrongNumber().sample_yoked):
        with pytest.raises(ValueError, match=r"compose must make 8 episodes .*, got 5"):
            draw(np.random.default_rng(0), 8)
    assert len(WrongNumber().sample(np.random.default_rng(0), 5)) == 5


def test_normalised_score():
    assert normalised_score(-0.5, -1.0, 0.0) == 0.5
    assert normalised_score(-1.0, -1.0, -0.2) == 0
    assert normalised_score(-0.2, -1.0, -0.2) == 1
    assert np.isnan(normalised_score(-0.2, -1.0, -1.0))
    np.testing.assert_array_equal(normalised_score(np.array([-2.0, 0.0]), -1, 0), [-1, 1])


def test_the_error_for_an_unknown_id_lists_the_known_ids():
    with pytest.raises(ValueError, match=r"PlasticRNN/Nothing-v0.*PlasticRNN/CueReward-v0"):
        make_task("PlasticRNN/Nothing-v0")
    assert make_task("plastic_envs:PlasticRNN/CueReward-v0", n_cues=3).n_cues == 3


def test_eval_of_repr_gives_an_equal_task():
    for task in (CueReward(n_cues=3), CueChoice(), SequenceReproduction(delay=0), FewShotRegression(hidden_size=2)):
        assert repr(eval(repr(task))) == repr(task)


class KeywordTask(CueReward):
    def __init__(self, *more, extra=3, **kw):
        super().__init__(**kw)
        self.extra = extra


class RenamingTask(CueChoice):
    def __init__(self, trials):
        super().__init__(n_trials=trials)


class NoArgumentTask(CueChoice):
    def __init__(self):
        super().__init__(n_trials=1)


def test_repr_never_raises():
    base_arguments = "n_cues=2, cue_size=14, noise=0.1, n_support=10, n_queries=10, score_support=False"
    assert repr(KeywordTask(n_cues=2)) == f"KeywordTask(extra=3, {base_arguments})"
    assert repr(RenamingTask(3)) == "RenamingTask()"
    assert repr(NoArgumentTask()) == "NoArgumentTask()"
    assert repr(CueReward.__new__(CueReward)) == "CueReward()"
    check_task(KeywordTask(n_cues=2))
    assert "RenamingTask()" in print_episode(
        RenamingTask(1), RenamingTask(1).sample(np.random.default_rng(0), 1), np.zeros(0)
    )
    with pytest.raises(TypeError, match="must be passed without arguments, got trials"):
        TaskEnv(RenamingTask(3), trials=3)
