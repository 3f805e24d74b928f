"""Reports: access to results, JSON, and means over training seeds."""

import json
import pickle

import numpy as np
import pytest
import torch
from plastic_agents import (
    Estimate,
    InterventionResult,
    NetworkConfig,
    SupervisedAgent,
    held_out_rng,
    over_seeds,
    probe,
)
from plastic_agents.analysis.report import BY_STEP

from plastic_envs import StepValues, make_task
from plastic_envs.tasks import CueChoice

TASK = "PlasticRNN/CueReward-v0"


@pytest.fixture(scope="module")
def reports():
    """Reports of three networks on the same episodes."""
    task = make_task(TASK)
    reports = []
    for seed in range(3):
        torch.manual_seed(seed)
        reports.append(probe(SupervisedAgent(task, NetworkConfig(hidden_size=4)), episodes=20))
    return reports


def test_a_report_is_a_mapping_of_results(reports):
    report = reports[0]
    assert list(report) == list(report.results)
    assert len(report) == 6
    assert report["fast_erased"] is report.results["fast_erased"]
    assert "fast_erased" in report
    assert report.get("lobotomy") is None
    with pytest.raises(KeyError, match=r"the report has results for intact, no_writing, .*, got 'lobotomy'"):
        report["lobotomy"]


def test_error_of_box_actions_is_the_metric(reports):
    report = reports[0]
    assert report.metric_is_error
    assert report["intact"].error == report["intact"].metric
    assert report["intact"].twin_error == report["intact"].twin_metric != report["intact"].metric


def test_a_reward_or_an_accuracy_is_no_error():
    result = InterventionResult("label", "black", False, Estimate(1, 0, 2), Estimate(3, 2, 4), 0.5, {})
    with pytest.raises(AttributeError, match=r"not an error: use metric$"):
        _ = result.error
    with pytest.raises(AttributeError, match=r"not an error: use twin_metric$"):
        _ = result.twin_error
    assert not hasattr(result, "error")


@pytest.mark.parametrize(
    ("env_id", "metric_name", "is_error"),
    [
        (TASK, "mean squared error", True),
        ("PlasticRNN/FewShotClassification-v0", "accuracy", False),
        ("PlasticRNN/CueChoice-v0", "reward per scored step from step 12 on", False),
    ],
)
def test_metric_follows_from_the_task(env_id, metric_name, is_error):
    agent = SupervisedAgent(make_task(env_id), NetworkConfig(hidden_size=4))
    report = probe(agent, episodes=4, interventions=("intact",))
    assert report.metric_name == metric_name
    assert report.metric_is_error == report["intact"].metric_is_error == is_error


def test_report_is_json_without_nan():
    report = probe(SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4)), episodes=1)
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["metric_is_error"] is True
    assert content["results"]["intact"]["metric"] == {"mean": report["intact"].metric.mean, "low": None, "high": None}
    assert content["results"]["fast_erased"]["label"] == "fast weights erased"


def test_reports_can_be_pickled(reports):
    assert pickle.loads(pickle.dumps(reports[0])) == reports[0]


def test_over_seeds_gives_means_and_ranges(reports):
    joint = over_seeds(reports)
    means = [report["fast_transplant"].twin_error.mean for report in reports]
    assert joint["fast_transplant"].twin_error == (pytest.approx(np.mean(means)), min(means), max(means))
    means = [report["fast_transplant"].error.mean for report in reports]
    assert joint["fast_transplant"].error == (pytest.approx(np.mean(means)), min(means), max(means))
    scores = [report["intact"].normalised_score for report in reports]
    assert len(set(scores)) == 3
    assert joint["intact"].normalised_score == pytest.approx(np.mean(scores))
    curves = [report["intact"].curves[BY_STEP].mean for report in reports]
    assert joint["intact"].curves[BY_STEP].mean == pytest.approx(np.mean(curves, axis=0))
    assert joint["intact"].curves[BY_STEP].low == pytest.approx(np.min(curves, axis=0))
    assert (joint["intact"].normalised.low, joint["intact"].normalised.high) == (min(scores), max(scores))
    assert (joint.spread, joint.n_seeds) == ("lowest and highest of 3 training seeds", 3)
    assert joint.oracle == reports[0].oracle


def test_over_seeds_refuses_reports_on_other_episodes(reports):
    agent = SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4))
    with pytest.raises(ValueError, match="on the same episodes"):
        over_seeds([reports[0], probe(agent, episodes=21)])
    with pytest.raises(ValueError, match="on the same episodes and interventions"):
        over_seeds([reports[0], probe(agent, episodes=20, interventions=("intact",))])


def test_a_single_seed_has_no_range_and_keeps_its_intervals(reports):
    assert over_seeds(reports[:1]) == reports[0]


def test_over_seeds_refuses_an_empty_list():
    with pytest.raises(ValueError, match="got none"):
        over_seeds([])


@pytest.fixture(scope="module")
def regression_reports():
    """Reports of two networks on the same episodes of a task with a secondary metric."""
    task = make_task("PlasticRNN/FewShotRegression-v0")
    reports = []
    for seed in range(2):
        torch.manual_seed(seed)
        reports.append(probe(SupervisedAgent(task, NetworkConfig(hidden_size=4)), episodes=40, batch_size=15))
    return reports


def test_every_intervention_has_secondary_metrics_with_intervals(regression_reports):
    report = regression_reports[0]
    estimates = [report.oracle_secondary_metrics, report.memoryless_secondary_metrics]
    estimates += [result.secondary_metrics for result in report.values()]
    assert len(estimates) == 8
    for metrics in estimates:
        assert list(metrics) == ["within_0.05"]
        assert metrics["within_0.05"].low < metrics["within_0.05"].mean < metrics["within_0.05"].high
    assert report.oracle_secondary_metrics["within_0.05"].mean == pytest.approx(0.32, abs=0.1)
    assert report.memoryless_secondary_metrics["within_0.05"].mean == pytest.approx(0.04, abs=0.02)


def test_secondary_metric_of_a_probe_equals_a_count_of_answers():
    torch.manual_seed(0)
    task = make_task("PlasticRNN/FewShotRegression-v0", score_support=True)
    agent = SupervisedAgent(task, NetworkConfig(hidden_size=4))
    rng = held_out_rng(3)
    n_close = 0
    for batch_size in (15, 15, 10):
        episode, _ = task.sample_yoked(rng, batch_size)
        error = 4 * (agent.play(episode)[0] - episode.target)[:, 20:, 0]
        n_close += int((np.abs(error) < 0.05).sum())
    report = probe(agent, episodes=40, seed=3, batch_size=15, interventions=("intact",))
    assert n_close > 0
    assert report["intact"].secondary_metrics["within_0.05"].mean == pytest.approx(n_close / 800)


class MeasuredChoice(CueChoice):
    """An interactive task whose secondary metric is the accuracy of the actions."""

    def secondary_metrics_of_valid(self, episode, actions):
        return {"accuracy": StepValues((actions == episode.target).astype(float), episode.scored)}


def test_secondary_metrics_of_an_interactive_task_count_the_steps_from_the_intervention_on():
    torch.manual_seed(0)
    task = MeasuredChoice(n_cues=2, n_trials=6)
    agent = SupervisedAgent(task, NetworkConfig(hidden_size=4))
    step = task.query_start
    episode, _ = task.sample_yoked(held_out_rng(0), 60)
    is_correct = agent.play(episode)[0] == episode.target
    for first in (0, step):
        report = probe(agent, episodes=60, step=first, interventions=("intact",))
        counted = episode.scored & (np.arange(task.episode_length) >= first)
        assert report["intact"].secondary_metrics["accuracy"].mean == pytest.approx(is_correct[counted].mean())
    assert is_correct[episode.scored].mean() != pytest.approx(is_correct[counted].mean())


def test_an_unknown_secondary_metric_is_an_error_that_lists_the_known_ones(regression_reports, reports):
    with pytest.raises(KeyError, match=r"the known names are within_0\.05, got 'within'"):
        regression_reports[0]["intact"].secondary_metrics["within"]
    with pytest.raises(KeyError, match=r"the known names are none, got 'within_0\.05'"):
        reports[0].oracle_secondary_metrics["within_0.05"]


def test_secondary_metrics_survive_json_and_pickle(regression_reports, reports):
    report = regression_reports[0]
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    for name, result in report.items():
        expected = result.secondary_metrics["within_0.05"]._asdict()
        assert content["results"][name]["secondary_metrics"] == {"within_0.05": expected}
    for policy in ("oracle", "memoryless"):
        expected = getattr(report, f"{policy}_secondary_metrics")["within_0.05"]
        assert Estimate(**content[f"{policy}_secondary_metrics"]["within_0.05"]) == expected
    assert reports[0].to_json()["results"]["intact"]["secondary_metrics"] == {}
    clone = pickle.loads(pickle.dumps(report))
    assert clone == report
    with pytest.raises(KeyError, match=r"the known names are within_0\.05"):
        clone.oracle_secondary_metrics["within"]


def test_over_seeds_gives_means_and_ranges_of_secondary_metrics(regression_reports):
    joint = over_seeds(regression_reports)
    means = [report["fast_erased"].secondary_metrics["within_0.05"].mean for report in regression_reports]
    assert means[0] != means[1]
    value = joint["fast_erased"].secondary_metrics["within_0.05"]
    assert value == (pytest.approx(np.mean(means)), min(means), max(means))
    assert joint.oracle_secondary_metrics == regression_reports[0].oracle_secondary_metrics
    with pytest.raises(KeyError, match=r"the known names are within_0\.05"):
        joint["intact"].secondary_metrics["within"]
