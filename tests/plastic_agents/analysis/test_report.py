"""Reports: access to results, JSON, and means over training seeds."""

import json
import pickle

import numpy as np
import pytest
import torch
from plastic_agents import Estimate, InterventionResult, NetworkConfig, SupervisedAgent, over_seeds, probe
from plastic_agents.analysis.report import BY_STEP

from plastic_envs import make_task

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
    assert joint.spread == "range over 3 training seeds"
    assert joint.oracle == reports[0].oracle


def test_over_seeds_refuses_reports_on_other_episodes(reports):
    agent = SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4))
    with pytest.raises(ValueError, match="on the same episodes"):
        over_seeds([reports[0], probe(agent, episodes=21)])
    with pytest.raises(ValueError, match="on the same episodes and interventions"):
        over_seeds([reports[0], probe(agent, episodes=20, interventions=("intact",))])


def test_over_seeds_refuses_an_empty_list():
    with pytest.raises(ValueError, match="got none"):
        over_seeds([])
