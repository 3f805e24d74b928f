"""Sweeps on Ray Tune: failures, retries, resumption and clusters."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("ray.tune", exc_type=ImportError)

import ray
from plastic_agents import SUPERVISED_RECIPES, NetworkConfig, PlasticityRule, SupervisedLearner, Update
from plastic_agents.models.plastic.rule import RULES
from plastic_agents.sweep import run as sweep_run
from plastic_agents.sweep.plan import plan_sweep, read_json
from plastic_agents.sweep.results import read_results
from plastic_agents.sweep.run import SweepOptions, run_sweep, run_trial

from plastic_envs.registration import TASKS
from plastic_envs.tasks import FewShotRegression
from tests.plastic_agents.sweeps import TINY

pytestmark = pytest.mark.integrations


def tiny(seeds, **settings):
    return plan_sweep({"hebbian": SUPERVISED_RECIPES["cue-reward-hebbian"]}, settings={**TINY, **settings}, seeds=seeds)


def same_parameters(*run_dirs):
    agents = [SupervisedLearner.load(run_dir / "checkpoint.pt").agent for run_dir in run_dirs]
    return all(torch.equal(a, b) for a, b in zip(*(agent.parameters() for agent in agents), strict=True))


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_failed_trial_is_retried_reported_and_does_not_stop_others(tmp_path, monkeypatch, capfd):
    failing_once, failing_always, _ = trials = tiny((0, 1, 2))

    def failing(trial, folder, on_evaluation, **options):
        """Run in a worker; Ray pickles this function by value."""
        tries = folder / "tries"
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if trial.recipe.training.seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if trial.recipe.training.seed == 1 or tries.read_text() == "x":
            raise OSError(f"the disk\nis full {tries.read_text()}")
        run_trial(trial, folder, on_evaluation, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sweep_run, "run_trial", failing)
        run_sweep(trials, tmp_path, SweepOptions(concurrent=2, retries=1))
    printed = capfd.readouterr().err
    assert f"{failing_once.name}: failed, and is tried again: is full x\n" in printed
    assert f"{failing_once.name}: step 4, normalised score" in printed
    assert f"{failing_always.name}: failed: is full xx\n" in printed
    rows = read_results(tmp_path)
    assert [row["status"] for row in rows] == ["finished", "failed", "failed"]
    assert "is full" in rows[1]["error"]
    assert "died" in rows[2]["error"]
    assert {path.read_text() for path in tmp_path.rglob("tries")} == {"xx"}
    # Ray leaves no files.
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json", "trials"}
    assert not ray.is_initialized()
    # The same call runs the failed trials only.
    finished = files(tmp_path / "trials" / failing_once.name)
    run_sweep(trials, tmp_path, SweepOptions(concurrent=2))
    assert [row["status"] for row in read_results(tmp_path)] == ["finished"] * 3
    assert files(tmp_path / "trials" / failing_once.name) == finished
    everything = files(tmp_path)
    run_sweep(trials, tmp_path)
    assert files(tmp_path) == everything


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interrupted_sweep_resumes_to_the_same_bits(number, error, tmp_path, monkeypatch):
    trials = tiny((0, 1))
    broken = {trial.name: tmp_path / "trials" / trial.name for trial in trials}

    def stopping(trial, folder, on_evaluation, **options):
        def wait(evaluation):
            (folder / "waiting").touch()
            time.sleep(600)

        run_trial(trial, folder, wait, **options)

    def interrupt():
        while not (ended.is_set() or all((folder / "waiting").exists() for folder in broken.values())):
            time.sleep(0.05)
        if not ended.is_set():
            os.kill(os.getpid(), number)

    ended = threading.Event()
    watch = threading.Thread(target=interrupt)
    watch.start()
    try:
        with monkeypatch.context() as patch, pytest.raises(error) as raised:
            patch.setattr(sweep_run, "run_trial", stopping)
            run_sweep(trials, tmp_path, SweepOptions(concurrent=2))
        assert error is KeyboardInterrupt or raised.value.code == 143
    finally:
        ended.set()
        watch.join()
    assert {row["status"] for row in read_results(tmp_path)} == {"unfinished"}
    assert all(SupervisedLearner.load(folder / "checkpoint.pt").progress.step == 1 for folder in broken.values())
    run_sweep(trials, tmp_path, SweepOptions(concurrent=2))
    for trial in trials:
        whole = tmp_path / "whole" / trial.name
        run_trial(trial, whole, lambda evaluation: None)
        assert same_parameters(whole, broken[trial.name])
        expected, result = (read_json(folder / "result.json") for folder in (whole, broken[trial.name]))
        assert {**expected, "seconds": 0} == {**result, "seconds": 0}
        assert result["status"] == "finished"


def test_trials_support_tasks_and_rules_of_your_own_and_relative_paths(tmp_path, monkeypatch):
    class Anti(PlasticityRule):
        """Against the Hebbian rule; Ray pickles this class by value."""

        def update(self, step):
            return Update(step.pre, -step.post)

    class Reading(FewShotRegression):
        """A task that reads a file; Ray pickles this class by value."""

        def __init__(self, path="none"):
            super().__init__(n_support=2, n_queries=2)
            self.path = path
            assert Path(path).read_text() == "a file"

    monkeypatch.chdir(tmp_path)
    Path("here.txt").write_text("a file")
    monkeypatch.setitem(TASKS, "Mine/Reading-v0", (Reading, {}))
    monkeypatch.setitem(RULES, "anti", Anti)
    settings = {path: value for path, value in TINY.items() if not path.startswith("task.")}
    recipe = replace(SUPERVISED_RECIPES["regression-rnn"], task="Mine/Reading-v0", network=NetworkConfig("anti"))
    run_sweep(
        plan_sweep({"reading": recipe}, settings={**settings, "task.path": "here.txt"}),
        tmp_path / "out",
        SweepOptions(retries=0),
    )
    (row,) = read_results(tmp_path / "out")
    assert (row["rule"], row["status"], row["error"]) == ("anti", "finished", None)
    assert {path.name for path in tmp_path.iterdir()} == {"here.txt", "out"}


def test_more_cores_than_this_machine_has_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a trial needs 100000 CPUs, and this machine has"):
        run_sweep(tiny((0,)), tmp_path, SweepOptions(threads=100_000))


def test_a_cluster_runs_a_sweep(tmp_path):
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        run_sweep(tiny((0, 1)), tmp_path, SweepOptions(address=cluster.address))
    finally:
        cluster.shutdown()
    assert [row["status"] for row in read_results(tmp_path)] == ["finished"] * 2
