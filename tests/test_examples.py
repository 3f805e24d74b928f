"""Run each example from the command line at a tiny size."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RULES = ("hebbian", "gradient", "lstm")


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "run"
    result = run("demo.py", "--steps", 4, "--episodes", 40, "--out", out)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_demo_writes_its_results(demo):
    out, _ = demo
    results = json.loads((out / "results.json").read_text())
    assert 0.02 < results["oracle"] < 0.06 < 0.28 < results["memoryless"] < 0.39
    assert tuple(results["networks"]) == RULES
    for name, network in results["networks"].items():
        low, high = network["interval"]
        assert low < network["query_mse"] < high
        assert network["steps"] == 4
        assert network["seconds"] > 0
        assert (network["no_writing"] is None) == (network["fast_erased"] is None) == (name == "lstm")
    assert (out / "adaptation.png").read_bytes().startswith(b"\x89PNG")
    assert all(list((out / name).glob("events.out.tfevents*")) for name in RULES)


def test_demo_prints_the_table(demo):
    _, printed = demo
    assert all(word in printed for word in (*RULES, "oracle", "memoryless", "no writing", "normalised"))


def test_demo_keeps_trained_networks_and_rejects_other_settings(demo):
    out, _ = demo
    results = json.loads((out / "results.json").read_text())
    again = run("demo.py", "--steps", 4, "--episodes", 40, "--out", out)
    assert again.stdout.count("4 steps, 4 already done") == 3
    assert json.loads((out / "results.json").read_text()) == results
    other = run("demo.py", "--steps", 5, "--episodes", 40, "--out", out)
    assert other.returncode == 1
    assert "holds a run with other settings" in other.stderr


def test_supervised_cue_reward(tmp_path):
    for _ in range(2):  # the second time the run resumes
        result = run("supervised_cue_reward.py", "--steps", 3, "--hidden-size", 8, "--out", tmp_path / "run")
        assert result.returncode == 0, result.stderr
        assert "CueReward, rule gradient" in result.stdout
        assert "twin's fast weights" in result.stdout


def test_actor_critic_cue_choice(tmp_path):
    arguments = ("--timesteps", 300, "--n-envs", 4, "--hidden-size", 8, "--episodes", 20, "--out", tmp_path)
    result = run("actor_critic_cue_choice.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert "reward per scored step from step 12 on" in result.stdout
    assert "twin's fast weights" in result.stdout
    assert {path.name for path in tmp_path.iterdir()} >= {"checkpoint.pt", "report.json", "adaptation.png"}


def test_your_own_core(tmp_path):
    result = run("your_own_core.py", "--timesteps", 14_000, "--out", tmp_path / "model.zip")
    assert result.returncode == 0, result.stderr
    success_percent = int(re.search(r"(\d+) %", result.stdout)[1])
    assert success_percent > 60
    assert (tmp_path / "model.zip").exists()


def test_your_own_rule():
    result = run("your_own_rule.py", "--steps", 2, "--episodes", 4)
    assert result.returncode == 0, result.stderr
    assert all(word in result.stdout for word in ("covariance", "hebbian", "fast weights erased", "oracle"))


def test_your_own_rule_has_at_most_20_lines():
    text = (ROOT / "examples" / "your_own_rule.py").read_text()
    rule = text.partition("@register_rule")[2].partition("def main")[0]
    assert len([line for line in rule.splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("model", [(), ("hebbian",), ("hebbian/checkpoint.pt",)])
def test_fast_weight_transplant(model, demo):
    out, _ = demo
    result = run("fast_weight_transplant.py", *(out / path for path in model), "--episodes", 20)
    assert result.returncode == 0, result.stderr
    assert "One pair of twins" in result.stdout
    assert "Over many pairs" in result.stdout


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("cue-reward-lstm", "model must have fast weights, got cue-reward-lstm, a TorchRNN without any"),
        ("cue-choice-hebbian", "model must be on a task with Box actions, got cue-choice-hebbian on CueChoice("),
        ("nowhere", "there is no checkpoint at nowhere"),
    ],
)
def test_fast_weight_transplant_refuses_what_it_cannot_show(model, message):
    result = run("fast_weight_transplant.py", model)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"fast_weight_transplant: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "named"), [(("--steps", "0"), "steps"), (("--step-count", "3"), "step-count")])
def test_demo_rejects_bad_arguments(arguments, named, tmp_path):
    result = run("demo.py", *arguments, "--out", tmp_path / "run")
    assert result.returncode != 0
    assert named in result.stderr
