"""Secondary metrics of tasks: values by hand, a slow loop, clipping, reference shares and errors."""

from typing import ClassVar

import numpy as np
import pytest

from plastic_envs import EpisodeBatch, StepValues, make_task, registered_ids
from plastic_envs.tasks import CueReward, FewShotClassification, FewShotRegression
from plastic_envs.testing import check_task

METRICS = {
    "PlasticRNN/FewShotRegression-v0": ["within_0.05"],
    "PlasticRNN/FewShotRegressionMLP-v0": ["within_0.05"],
    "PlasticRNN/FewShotClassification-v0": ["first_query_accuracy"],
}


def batch(task, y):
    """Return episodes with the values y [B, T], and blank observations."""
    y = np.array(y, dtype=np.float32)
    scored = np.broadcast_to(np.arange(task.episode_length) >= (0 if task.score_support else task.n_support), y.shape)
    observation = np.zeros((*y.shape, task.input_size + 2), np.float32)
    return EpisodeBatch(observation, y[..., None] / 4, scored)


@pytest.mark.parametrize("env_id", [env_id for env_id in registered_ids() if env_id.startswith("PlasticRNN/")])
def test_only_the_few_shot_tasks_have_secondary_metrics(env_id):
    task = make_task(env_id)
    episode = task.sample(np.random.default_rng(0), 2)
    metrics = task.secondary_metrics(episode, task.oracle(episode))
    assert list(metrics) == METRICS.get(env_id, [])


@pytest.mark.parametrize("score_support", [False, True])
def test_within_counts_answers_at_queries_that_are_close_in_units_of_y(score_support):
    task = FewShotRegression(n_support=1, n_queries=3, score_support=score_support)
    episode = batch(task, [[0.0, 1.0, -1.0, 2.0], [0.0, 0.5, 0.5, 0.5]])
    # Errors of the first episode are 0, 0.04, 0.06 and 0.06; an error in action units would be four times smaller.
    answers = np.array([[0.0, 1.04, -1.06, 1.94], [9.0, 0.54, 0.46, 0.4]])
    (metric,) = task.secondary_metrics(episode, answers[..., None] / 4).values()
    assert metric.counted.tolist() == 2 * [[False, True, True, True]]
    assert metric.values[:, 1:].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert metric.per_episode() == pytest.approx([1 / 3, 2 / 3])


def test_answers_are_clipped_to_the_action_range():
    task = FewShotRegression(n_support=1, n_queries=2)
    episode = batch(task, [[0.0, 4.0, -3.98]])
    (metric,) = task.secondary_metrics(episode, np.array([[[0.0], [1.5], [-7.0]]])).values()
    assert metric.values[0, 1:].tolist() == [1, 1]


@pytest.mark.parametrize(("n_support", "share"), [(20, 0.317), (10, 0.095)])
def test_share_of_the_oracle_on_the_linear_task(n_support, share):
    """Compare with a count of errors, and with the shares on other episodes."""
    task = FewShotRegression(n_support=n_support)
    episode = task.sample(np.random.default_rng(0), 2000)
    oracle = task.oracle(episode)
    value = task.secondary_metrics(episode, oracle)["within_0.05"].per_episode().mean()
    error = 4 * (oracle[:, n_support:, 0] - episode.target[:, n_support:, 0])
    assert value == pytest.approx((np.abs(error) < 0.05).mean(), abs=1e-4)
    assert value == pytest.approx(share, abs=0.004)


def test_share_of_the_memoryless_policy():
    task = FewShotRegression()
    episode = task.sample(np.random.default_rng(0), 2000)
    value = task.secondary_metrics(episode, task.memoryless(episode))["within_0.05"].per_episode().mean()
    # The density of a standard normal value at 0, times the width of the interval.
    assert value == pytest.approx(0.1 / np.sqrt(2 * np.pi), abs=0.003)


@pytest.mark.parametrize("delayed_label", [False, True])
def test_first_query_accuracy_equals_a_slow_loop(delayed_label):
    task = FewShotClassification(n_way=3, k_shot=2, n_queries=2, delayed_label=delayed_label)
    rng = np.random.default_rng(0)
    episode = task.sample(rng, 60)
    actions = rng.integers(3, size=episode.target.shape)
    metric = task.secondary_metrics(episode, actions)["first_query_accuracy"]
    query = task.observe(episode.observation)["query"]
    expected = []
    for lane in range(60):
        for step in range(task.episode_length):
            if query[lane, step, 0] == 1:
                expected.append(float(actions[lane, step] == episode.target[lane, step]))
                break
    assert metric.per_episode().tolist() == expected
    assert 0 < np.mean(expected) < 1
    assert expected != task.score(episode, actions).tolist()


def test_invalid_actions_raise():
    task = FewShotRegression()
    episode = task.sample(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match=r"actions must have shape \(2, 40, 1\), got \(2, 40\)"):
        task.secondary_metrics(episode, np.zeros((2, 40)))
    with pytest.raises(ValueError, match=r"actions must be finite numbers, got \[nan\] in episodes \[1\]"):
        actions = task.oracle(episode)
        actions[1, 30] = np.nan
        task.secondary_metrics(episode, actions)


def test_mean_of_an_episode_without_counted_steps_is_nan():
    values = StepValues(np.array([[1.0, np.nan], [3.0, 5.0]]), np.array([[False, False], [True, True]]))
    np.testing.assert_array_equal(values.per_episode(), [np.nan, 4])


class Measured(CueReward):
    """A task with the secondary metrics of `METRICS`, which tests set: functions from episodes to `StepValues`."""

    METRICS: ClassVar = {}

    def secondary_metrics_of_valid(self, episode, actions):
        return {name: StepValues(*function(episode)) for name, function in self.METRICS.items()}


@pytest.mark.parametrize(
    ("name", "function", "words"),
    [
        ("two words", lambda e: (e.stake, e.scored), "must consist of letters, digits, .* got 'two words'"),
        ("", lambda e: (e.stake, e.scored), "got ''"),
        ("normalised_score", lambda e: (e.stake, e.scored), "be none of normalised_score, .*, got 'normalised_score'"),
        ("reward_per_scored_step", lambda e: (e.stake, e.scored), "got 'reward_per_scored_step'"),
        ("shape", lambda e: (e.stake[:, 1:], e.scored), r"shape must have values .* \(64, 20\), got \(64, 19\)"),
        ("mask", lambda e: (e.stake, e.scored.astype(int)), "mask must have values and bools .*int64"),
        ("nan", lambda e: (e.stake * np.nan, e.scored), "nan must be finite at counted steps, got .nan"),
        ("never", lambda e: (e.stake, e.scored & False), "never must count a step"),
    ],
)
def test_check_task_refuses_invalid_metrics(name, function, words, monkeypatch):
    monkeypatch.setattr(Measured, "METRICS", {name: function})
    with pytest.raises(AssertionError, match=words):
        check_task(Measured())


def test_values_at_steps_that_are_not_counted_may_be_nan(monkeypatch):
    monkeypatch.setattr(Measured, "METRICS", {"stake-2": lambda e: (np.where(e.scored, 3.0, np.nan), e.scored)})
    check_task(Measured())
    episode = Measured().sample(np.random.default_rng(0), 5)
    assert Measured().secondary_metrics(episode, episode.target)["stake-2"].per_episode().tolist() == [3.0] * 5
