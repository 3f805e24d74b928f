"""Sweeps without Ray Tune: plans, invalid arguments, single trials, tables and figures."""

import csv
import json
import re
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from plastic_agents import (
    REINFORCEMENT_RECIPES,
    SUPERVISED_RECIPES,
    ReinforcementLearner,
    SupervisedLearner,
    write_json,
)
from plastic_agents.analysis.colours import NETWORK_STYLES
from plastic_agents.cli.main import main
from plastic_agents.sweep import run as sweep_run
from plastic_agents.sweep.plan import plan_sweep, read_json
from plastic_agents.sweep.results import group_trials, read_results, sweep_figure, sweep_table, write_results
from plastic_agents.sweep.run import SweepOptions, run_sweep, run_trial, trial_status
from plastic_agents.training.supervised_config import Curriculum

from tests.plastic_agents.sweeps import TINY

RATE = "training.learning_rate=log:1e-3,1e-2"
HEBBIAN, NONE = SUPERVISED_RECIPES["cue-reward-hebbian"], SUPERVISED_RECIPES["cue-reward-rnn"]


def tiny(recipes=None, **arguments):
    return plan_sweep(recipes or {"hebbian": HEBBIAN}, settings=TINY, **arguments)


def begin(out, trials):
    """Write the files that `run_sweep` writes before it starts Ray Tune."""
    write_json(out / "sweep.json", {"trials": [trial.to_json() for trial in trials]})
    for trial in trials:
        (out / "trials" / trial.name).mkdir(parents=True)


def test_every_recipe_is_planned_with_every_combination_and_seed():
    grid = {"training.learning_rate": [1e-3, 3e-3], "task.noise": [0.0, 0.1]}
    trials = tiny({"hebbian": HEBBIAN, "none": NONE}, seeds=(3, 5), grid=grid)
    expected = [
        (name, recipe.network.rule, rate, noise, seed)
        for name, recipe in (("hebbian", HEBBIAN), ("none", NONE))
        for rate in (1e-3, 3e-3)
        for noise in (0.0, 0.1)
        for seed in (3, 5)
    ]
    planned = [
        (
            trial.recipe_name,
            recipe.network.rule,
            recipe.training.learning_rate,
            recipe.task_arguments["noise"],
            recipe.training.seed,
        )
        for trial in trials
        for recipe in [trial.recipe]
    ]
    assert planned == expected
    assert len({trial.name for trial in trials}) == len(trials)
    for trial in trials:
        assert trial.recipe.network.hidden_size == 8
        assert trial.recipe.task_arguments["n_cues"] == 2
        assert trial.settings["training.learning_rate"] == trial.recipe.training.learning_rate
        assert "/" not in trial.name
        assert len(trial.name) <= 100


def test_only_given_settings_differ_from_the_recipe():
    (trial,) = plan_sweep(
        {"reproduction": SUPERVISED_RECIPES["reproduction-hebbian"]},
        settings={"network.plasticity.decay": 0.5, "training.curriculum.growth": 0.25, "task.length": 3},
    )
    recipe = SUPERVISED_RECIPES["reproduction-hebbian"]
    assert trial.recipe == replace(
        recipe,
        task_arguments={**recipe.task_arguments, "length": 3},
        network=replace(recipe.network, plasticity=replace(recipe.network.plasticity, decay=0.5)),
        training=replace(recipe.training, curriculum=replace(recipe.training.curriculum, growth=0.25)),
    )
    (trial,) = plan_sweep({"reproduction": recipe}, settings={"training.curriculum": None})
    assert trial.recipe == replace(recipe, training=replace(recipe.training, curriculum=None))


def test_a_setting_may_be_a_config_object_with_settings():
    curriculum = Curriculum("delay", growth=0.5)
    settings = {"training.curriculum.first": 1, "training.curriculum": curriculum}
    (trial,) = plan_sweep({"none": NONE}, settings={**settings, "training.curriculum.argument": "n_cues"})
    assert trial.recipe.training.curriculum == Curriculum("n_cues", 1, 0.5)
    assert trial.to_json()["settings"]["training.curriculum"] == asdict(curriculum)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"recipes": {}}, "recipes must be one or more"),
        ({"seeds": ()}, "seeds must be one or more, each given once, got []"),
        ({"seeds": (1, 1)}, "seeds must be one or more, each given once, got [1, 1]"),
        ({"seeds": (-1,)}, "seed must be at least 0, got -1"),
        ({"settings": {"training.seed": 1}}, "training.seed must be given by seeds"),
        ({"grid": {"training.steps": []}}, "training.steps must be one or more"),
        ({"settings": {"training.steps": 2}, "grid": {"training.steps": [3]}}, "one value or a grid of them"),
        ({"settings": {"learning_rate": 1}}, "task., network. or training. and its name, got 'learning_rate'"),
        ({"settings": {"training.stepz": 7}}, "training has no setting 'stepz' (got 7 for it), it has: steps, "),
        ({"settings": {"network.plasticity.speed": 1}}, "network.plasticity has no setting 'speed'"),
        ({"settings": {"training.steps.first": 1}}, "training.steps is 3000 and has no settings"),
        ({"settings": {"training.curriculum": None, "training.curriculum.first": 1}}, "curriculum is None and has no"),
        ({"settings": {"training.steps": 0}}, "steps must be at least 1, got 0"),
        ({"settings": {"training.steps": True}}, "training.steps must be of type int, got True"),
        ({"settings": {"training.learning_rate": "fast"}}, "training.learning_rate must be of type float, got 'fast'"),
        ({"settings": {"network.plasticity": 3}}, "network.plasticity must be of type Plasticity, got 3"),
        ({"settings": {"network.plasticity.decay": "slow"}}, "must be of type float | None, got 'slow'"),
        ({"grid": {"network.rule": ["hebbian", "ojo"]}}, "hebbian: rule must be one of none, bcm, delta, "),
        ({"grid": {"network.rule": ["hebbian", "ojo"]}}, ", got 'ojo'"),
        ({"settings": {"network.rule": 3}}, "network.rule must be of type str, got 3"),
        (
            {"settings": {"network.cell": "gruu"}},
            "cell must be one of rnn, tanh_rnn, lstm, gru, mgu, linear, got 'gruu'",
        ),
        ({"settings": {"network.cell": "mgu", "network.rule": "none"}}, "rnn, gru, lstm, attention, got 'mgu'"),
        ({"settings": {"network.plasticity.layers": "readout"}}, "of type tuple[str, ...] | None, got 'readout'"),
        ({"settings": {"network.plasticity.layers": ("out",)}}, "layers must hold one or more of ('input', "),
        ({"settings": {"task.n_queues": 3}}, "unexpected keyword argument 'n_queues' of 3"),
        ({"grid": {"task.n_cues": [2, 0]}}, "n_cues must be"),
        (
            {"recipes": {"choice": replace(HEBBIAN, task="PlasticRNN/CueChoice-v0")}},
            "is interactive and cannot be trained by supervision",
        ),
    ],
)
def test_invalid_plans_are_refused_before_anything_runs(arguments, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        plan_sweep(**{"recipes": {"hebbian": HEBBIAN}, **arguments})


def test_an_interrupted_trial_resumes_to_the_same_bits(tmp_path):
    (trial,) = tiny()
    evaluations = []
    run_trial(trial, tmp_path / "whole", evaluations.append)
    assert [evaluation["step"] for evaluation in evaluations] == [2, 4]

    class Stopped(BaseException):
        """An error like that of a stopped process."""

    def stop(evaluation):
        raise Stopped

    with pytest.raises(Stopped):
        run_trial(trial, tmp_path / "broken", stop)
    assert trial_status(tmp_path / "broken") == "unfinished"
    assert SupervisedLearner.load(tmp_path / "broken" / "checkpoint.pt").progress.step == 1
    run_trial(trial, tmp_path / "broken", evaluations.append)
    whole, resumed = (SupervisedLearner.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "broken"))
    for a, b in zip(whole.agent.parameters(), resumed.agent.parameters(), strict=True):
        assert torch.equal(a, b)
    expected, result = (read_json(tmp_path / name / "result.json") for name in ("whole", "broken"))
    assert {**expected, "seconds": 0} == {**result, "seconds": 0}
    assert result["metric"] == evaluations[-1]["metric"]
    assert (result["steps"], result["status"]) == (4, "finished")


def test_a_sweep_may_train_policies(tmp_path):
    settings = {"training.total_timesteps": 24, "training.n_envs": 4, "training.evaluation_episodes": 4}
    settings |= {"training.n_epochs": 1, "training.batch_size": None}  # as A2C needs it
    task = {"task.n_cues": 2, "task.n_trials": 3, "network.hidden_size": 8}
    recipes = {"cue-choice-lstm": REINFORCEMENT_RECIPES["cue-choice-lstm"]}
    (ppo, a2c) = plan_sweep(recipes, settings=settings | task, grid={"training.algorithm": ["ppo", "a2c"]})
    begin(tmp_path, [ppo, a2c])
    run_trial(a2c, tmp_path / "trials" / a2c.name, lambda evaluation: None)
    rows = read_results(tmp_path)
    assert [row["status"] for row in rows] == ["unfinished", "finished"]
    assert rows[1]["algo"] == "a2c"
    assert rows[1]["metric_name"] == "reward per scored step"
    assert rows[1]["steps"] == 24


def test_failures_are_results_and_divergence_is_not_retried(tmp_path, monkeypatch):
    failing, diverging = tiny(seeds=(0, 1))
    begin(tmp_path, [failing, diverging])
    folder = tmp_path / "trials" / failing.name
    (folder / "checkpoint.pt").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        run_trial(failing, folder, print)
    assert "Traceback" in (folder / "error.txt").read_text()

    def diverge(self, step):
        raise FloatingPointError("the loss is nan")

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedLearner, "_train_step", diverge)
        run_trial(diverging, tmp_path / "trials" / diverging.name, print)
    first, second = read_results(tmp_path)
    assert first["status"] == "failed"
    assert first["error"].startswith("ValueError: ")
    assert (second["status"], second["error"]) == ("diverged", "FloatingPointError: the loss is nan")
    # A failed trial runs again once its obstacle is gone.
    (folder / "checkpoint.pt").unlink()
    run_trial(failing, folder, lambda evaluation: None)
    assert [row["status"] for row in read_results(tmp_path)] == ["finished", "diverged"]
    assert not (folder / "error.txt").exists()
    # All trials are finished, so the sweep does not need Ray.
    monkeypatch.setitem(sys.modules, "ray", None)
    run_sweep([failing, diverging], tmp_path)


def test_a_policy_that_diverges_has_the_status_diverged(tmp_path, monkeypatch):
    (trial,) = plan_sweep({"choice": REINFORCEMENT_RECIPES["cue-choice-lstm"]})
    begin(tmp_path, [trial])

    def diverge(self, *arguments):
        raise FloatingPointError("step 24: the policy is no longer finite")

    monkeypatch.setattr(ReinforcementLearner, "_learn", diverge)
    run_trial(trial, tmp_path / "trials" / trial.name, print)
    (row,) = read_results(tmp_path)
    expected = ("diverged", "FloatingPointError: step 24: the policy is no longer finite")
    assert (row["status"], row["error"]) == expected


def test_a_second_sweep_in_a_folder_is_refused(tmp_path, monkeypatch):
    trials, errors = tiny(), []

    def engine(train_by_name, names, **options):
        assert (tmp_path / "sweep.json").exists()
        assert not stale.exists()
        with pytest.raises(BlockingIOError, match=f"{tmp_path.name} is in use by another run") as error:
            run_sweep(trials, tmp_path)
        errors.append(error)

    monkeypatch.setitem(sys.modules, "plastic_agents.sweep.ray_tune", SimpleNamespace(run_trials=engine))
    stale = tmp_path / ".tmp-abc-sweep.json"
    stale.touch()
    run_sweep(trials, tmp_path)
    assert errors
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json", "trials"}
    run_sweep(trials, tmp_path)
    assert len(errors) == 2


def test_trials_that_finish_while_the_sweep_waits_for_the_lock_do_not_run_again(tmp_path, monkeypatch):
    trials = tiny(seeds=(0, 1))
    begin(tmp_path, trials)
    names = []

    @contextmanager
    def waiting(folder):
        write_json(tmp_path / "trials" / trials[0].name / "result.json", make_result(0.1))
        yield True

    engine = SimpleNamespace(run_trials=lambda train_by_name, waiting, **options: names.extend(waiting))
    monkeypatch.setitem(sys.modules, "plastic_agents.sweep.ray_tune", engine)
    monkeypatch.setattr(sweep_run, "locked", waiting)
    run_sweep(trials, tmp_path)
    assert names == [trials[1].name]


def make_result(metric, **others):
    result = {
        "status": "finished",
        "split": "validation",
        "metric_name": "mean squared error",
        "metric_is_error": True,
        "metric": metric,
    }
    return {
        **result,
        "normalised_score": 0.5,
        "oracle": 0.03,
        "memoryless": 0.33,
        "steps": 4,
        "seconds": 1.5,
        "processor": "abacus",
        "parameters": 7,
        **others,
    }


@pytest.mark.parametrize("task", ["PlasticRNN/CueReward", "a_module:PlasticRNN/CueReward-v0"])
def test_workers_know_tasks_by_any_of_their_ids(task, tmp_path, engine):
    recipe = replace(HEBBIAN, task=task)
    trials = plan_sweep({"hebbian": recipe}, settings=TINY)
    run_sweep(trials, tmp_path)
    assert [row["status"] for row in read_results(tmp_path)] == ["finished"]


@pytest.fixture
def swept(tmp_path):
    """A sweep with made-up results: four groups of three seeds; one trial failed, one is unfinished."""
    trials = tiny({"hebbian": HEBBIAN, "none": NONE}, seeds=(0, 1, 2), grid={"training.learning_rate": [1e-3, 3e-3]})
    begin(tmp_path, trials)
    for number, trial in enumerate(trials):
        content = make_result(number / 100)
        if number == 4:
            content = {"status": "failed", "error": "ValueError: a reason, with a comma"}
        if number != 5:
            write_json(tmp_path / "trials" / trial.name / "result.json", content)
    return tmp_path


def test_the_table_has_a_row_for_each_trial_and_a_column_for_each_setting(swept):
    rows = write_results(swept)
    assert json.loads((swept / "results.json").read_text()) == rows
    assert len(rows) == 12
    assert rows[1] == {
        "trial": "001_hebbian_seed=1_learning_rate=0.001",
        **{"recipe": "hebbian", "split": "validation", "algo": "supervised", "task": "PlasticRNN/CueReward-v0"},
        **{"rule": "hebbian", "cell": "tanh_rnn", "seed": 1},
        **TINY,
        "training.learning_rate": 1e-3,
        **make_result(0.01),
        "oracle_name": None,
        "error": None,
    }
    assert [row["status"] for row in rows[3:6]] == ["finished", "failed", "unfinished"]
    with (swept / "results.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [list(row) for row in read] == [list(row) for row in rows]
    for csv_row, row in zip(read, rows, strict=True):
        assert csv_row == {name: "" if value is None else str(value) for name, value in row.items()}


def test_groups_differ_in_their_seeds_only(swept):
    groups = group_trials(read_results(swept))
    assert [(group.task, group.network, group.variant) for group in groups] == [
        ("CueReward-v0", rule, f"learning_rate={rate}") for rule in ("hebbian", "none") for rate in (0.001, 0.003)
    ]
    assert [(len(group.finished), len(group.rows)) for group in groups] == [(3, 3), (1, 3), (3, 3), (3, 3)]
    assert groups[2].spread("metric") == pytest.approx((0.07, 0.06, 0.08))


def test_network_names_are_distinct():
    recipes = {name: SUPERVISED_RECIPES[name] for name in ("cue-reward-rnn", "cue-reward-hebbian", "regression-rnn")}
    trials = plan_sweep(recipes, settings={"network.hidden_size": 8}, grid={"task.noise": [0.1, 0.2]})
    rows = [
        {"recipe": t.recipe_name, "task": t.recipe.task, "rule": t.recipe.network.rule, "cell": t.recipe.network.cell}
        | {"status": "unfinished", **t.settings}
        for t in trials
    ]
    assert [group.network for group in group_trials(rows)] == ["none", "none", "hebbian", "hebbian", "none", "none"]
    assert [group.task for group in group_trials(rows)][:2] == ["CueReward-v0\nnoise=0.1", "CueReward-v0\nnoise=0.2"]
    rows.append({**rows[0], "cell": "lstm"})
    assert [group.network for group in group_trials(rows)][-1] == "none lstm"
    rows.append({**rows[0], "recipe": "other"})
    assert [group.network for group in group_trials(rows)][-1] == "none rnn other"


def test_recipes_with_different_tasks_have_separate_panels(tmp_path):
    noisy = replace(NONE, task_arguments={"noise": 0.3})
    recipes = {"none": NONE, "noisy": noisy, "regression": SUPERVISED_RECIPES["regression-rnn"]}
    trials = plan_sweep(recipes, settings={"training.steps": 4})
    begin(tmp_path, trials)
    for trial, oracle in zip(trials, (0.0, 0.1, 0.2), strict=True):
        write_json(tmp_path / "trials" / trial.name / "result.json", make_result(0.3, oracle=oracle))
    rows = write_results(tmp_path)
    assert [row["task.noise"] for row in rows] == [None, 0.3, None]
    figure = sweep_figure(rows)
    levels = [line.get_ydata()[0] for panel in figure.axes for line in panel.lines if line.get_label() == "oracle"]
    assert [panel.get_title() for panel in figure.axes] == [
        "CueReward-v0",
        "CueReward-v0\nnoise=0.3",
        "FewShotRegression-v0",
    ]
    assert levels == [0.0, 0.1, 0.2]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() != figure.axes[2].get_ylim()


def test_figure_has_the_colours_of_the_networks_and_the_name_of_the_oracle(tmp_path):
    recipes = {name: SUPERVISED_RECIPES[f"regression-{name}"] for name in ("hebbian", "delta")}
    trials = plan_sweep(recipes, seeds=(0, 1), settings={"training.steps": 4})
    begin(tmp_path, trials)
    for trial in trials:
        result = {**make_result(0.3), "oracle_name": "reference"}
        write_json(tmp_path / "trials" / trial.name / "result.json", result)
    figure = sweep_figure(read_results(tmp_path))
    (panel,) = figure.axes
    assert [line.get_color() for line in panel.lines if line.get_marker() == "o"] == [
        NETWORK_STYLES[name].colour for name in recipes
    ]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["reference", "memoryless"]
    assert figure.get_suptitle() == "mean and range over 2 seeds"


def test_figure_shows_seeds_means_ranges_oracle_and_memoryless(swept):
    figure = sweep_figure(read_results(swept))
    (panel,) = figure.axes
    assert panel.get_ylabel() == "mean squared error, validation episodes"
    assert panel.get_ylim()[0] == 0
    assert [label.get_text() for label in panel.get_xticklabels()] == ["hebbian\n(4 of 6)", "none"]
    levels = {line.get_label(): line.get_ydata()[0] for line in panel.lines}
    assert (levels["oracle"], levels["memoryless"]) == pytest.approx((0.03, 0.33))
    seeds = [list(line.get_ydata()) for line in panel.lines if line.get_marker() == "o"]
    assert seeds == [[0.0, 0.01, 0.02], [0.03], [0.06, 0.07, 0.08], [0.09, 0.1, 0.11]]
    means = [bar.lines[0].get_ydata()[0] for bar in panel.containers]
    assert means == pytest.approx([0.01, 0.03, 0.07, 0.1])
    ranges = [bar.lines[2][0].get_segments()[0][:, 1].tolist() for bar in panel.containers]
    assert ranges[2] == pytest.approx([0.06, 0.08])
    write_results(swept)
    assert (swept / "results.png").stat().st_size > 10_000


def test_the_printed_table_has_means_with_the_lowest_and_the_highest_seed(swept):
    columns = {column.header: list(column.cells) for column in sweep_table(read_results(swept)).columns}
    assert columns["metric"] == ["0.010 [0.000,0.020]", "0.030", "0.070 [0.060,0.080]", "0.100 [0.090,0.110]"]
    assert columns["seeds"] == ["3 of 3", "1 of 3", "3 of 3", "3 of 3"]


def test_secondary_metrics_have_columns_beside_older_results(tmp_path):
    settings = {"training.steps": 2, "training.batch_size": 4, "training.evaluation_episodes": 8}
    recipes = {name: SUPERVISED_RECIPES[f"{name}-rnn"] for name in ("regression", "cue-reward")}
    measured, *older, other = trials = [
        trial
        for recipe, seeds in (("regression", (0, 1)), ("cue-reward", (0,)))
        for trial in plan_sweep({recipe: recipes[recipe]}, seeds=seeds, settings=settings)
    ]
    begin(tmp_path, trials)
    run_trial(measured, tmp_path / "trials" / measured.name, lambda evaluation: None)
    for trial in (*older, other):
        write_json(tmp_path / "trials" / trial.name / "result.json", make_result(0.3))
    (values,) = read_json(tmp_path / "trials" / measured.name / "result.json")["secondary_metrics"].values()
    rows = write_results(tmp_path)
    columns = [f"{column}.within_0.05" for column in ("metric", "oracle", "memoryless")]
    assert list(rows[0])[-3:] == columns
    assert [rows[0][column] for column in columns] == [values[name] for name in ("metric", "oracle", "memoryless")]
    assert values["memoryless"] < values["oracle"]
    assert all(row[column] is None for row in rows[1:] for column in columns)
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [row["metric.within_0.05"] for row in csv.DictReader(file)] == [str(values["metric"]), "", ""]
    printed = {column.header: list(column.cells) for column in sweep_table(rows).columns}
    assert printed["within 0.05"] == ["-", "-"], "a mean over some of the seeds would be misleading"
    printed = {column.header: list(column.cells) for column in sweep_table(rows[::2]).columns}
    assert printed["within 0.05"] == [f"{values['metric']:.3f}", "-"]
    assert [group.variant for group in group_trials(rows)] == ["", ""]


def test_sweeps_without_secondary_metrics_have_no_columns_for_them(swept):
    rows = read_results(swept)
    assert not [path for path in rows[0] if path.startswith(("metric.", "oracle.", "memoryless."))]
    headers = [column.header for column in sweep_table(rows).columns]
    assert headers == ["task", "network", "settings", "metric", "normalised", "oracle", "memoryless", "seeds"]


def test_an_unfinished_sweep_has_a_table_and_no_figure(tmp_path):
    begin(tmp_path, tiny())
    assert [row["status"] for row in write_results(tmp_path)] == ["unfinished"]
    written = {"results.csv", "results.json", "results.md", "comparison.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json", "trials", *written}


def test_a_folder_with_another_sweep_is_refused(tmp_path):
    trials = tiny(seeds=(0, 1))
    begin(tmp_path, trials)
    extra = (
        f"{tmp_path} holds another sweep: it has trial 001_hebbian_seed=1, which this call does not plan. Use another"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(extra)} --out or delete the folder.$"):
        run_sweep(trials[:1], tmp_path)
    with pytest.raises(
        ValueError, match=r"another sweep: it lacks trial 002_hebbian_seed=2, which this call plans\. Use"
    ):
        run_sweep(tiny(seeds=(0, 1, 2)), tmp_path)
    with pytest.raises(ValueError, match=r"it has trial 001_hebbian_seed=1, which this call does not plan"):
        run_sweep(tiny(seeds=(0, 2)), tmp_path)
    changed = plan_sweep({"hebbian": HEBBIAN}, settings={**TINY, "training.steps": 5}, seeds=(0, 1))
    difference = (
        r"settings of trial 000_hebbian_seed=0 is .*'training.steps': 4.* there, and this call plans .*steps': 5"
    )
    with pytest.raises(ValueError, match=f"holds another sweep: {difference}"):
        run_sweep(changed, tmp_path)
    (tmp_path / "sweep.json").write_text("rubbish")
    with pytest.raises(ValueError, match=r"sweep.json cannot be read: .* Delete it"):
        run_sweep(trials, tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no sweep"):
        read_results(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"concurrent": 0}, "concurrent must be at least 1, got 0"),
        ({"concurrent": 1.5}, "concurrent must be a whole number of at least 1, got 1.5"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"threads": None}, "threads must be a whole number of at least 1, got None"),
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"gpus_per_trial": -1}, "gpus_per_trial must be a finite number of at least 0, got -1"),
        ({"device": "cuda:0"}, "gpus_per_trial must be more than 0 for device 'cuda:0', got 0"),
    ],
)
def test_invalid_options_are_refused(arguments, named):
    with pytest.raises((ValueError, TypeError)) as refused:
        SweepOptions(**arguments)
    assert named in str(refused.value)


def test_trials_train_on_cuda_if_they_have_gpus():
    assert SweepOptions().trial_device == "cpu"
    assert SweepOptions(gpus_per_trial=0.5).trial_device == "cuda"
    assert SweepOptions(gpus_per_trial=1, device="cuda:1").trial_device == "cuda:1"


def test_a_device_that_this_machine_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="got 'abacus'"):
        run_sweep(tiny(), tmp_path, SweepOptions(device="abacus"))
    assert not list(tmp_path.iterdir())


def test_without_ray_the_command_names_the_extra_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "plastic_agents.sweep.ray_tune", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "cue-reward-rnn", "--out", str(tmp_path / "sweep")])
    assert stop.value.code == 2
    assert not list(tmp_path.iterdir())
    assert "run pip install -e '.[sweep]' in the project's folder" in capsys.readouterr().err


def test_the_command_plans_the_sweep_of_its_arguments(tmp_path, monkeypatch, capsys):
    calls = []

    def fake_run_sweep(trials, out, options):
        calls.append((trials, options))
        begin(out, trials)
        for trial in trials[1:]:
            write_json(out / "trials" / trial.name / "result.json", make_result(0.1))
        write_json(out / "trials" / trials[0].name / "result.json", {"status": "failed", "error": "OSError: full"})

    monkeypatch.setattr(sweep_run, "run_sweep", fake_run_sweep)
    settings = [f"{path}={value}" for path, value in TINY.items()]
    words = ["sweep", "cue-reward-rnn", "cue-reward-hebbian", "--seeds", "4", "2", "--set", *settings]
    words += ["--set", "training.schedule=constant", "--grid", "training.learning_rate=1e-3,3e-3"]
    words += ["--grid", "network.cell=rnn,lstm", "task.noise=0.1", "--concurrent", "3", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 1
    recipes = {name: SUPERVISED_RECIPES[name] for name in ("cue-reward-rnn", "cue-reward-hebbian")}
    grid = {"training.learning_rate": [1e-3, 3e-3], "network.cell": ["rnn", "lstm"], "task.noise": [0.1]}
    expected = plan_sweep(recipes, seeds=(4, 2), settings={**TINY, "training.schedule": "constant"}, grid=grid)
    assert calls == [(expected, SweepOptions(concurrent=3))]
    printed = capsys.readouterr()
    assert "1 of 2" in printed.out
    assert "none lstm" in printed.out
    assert "results.png" in printed.out
    assert printed.err == f"plastic-rnn: {expected[0].name} failed: OSError: full\n"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "RECIPE must be one or more names"),
        (["no-such-recipe"], "recipe 'no-such-recipe' is unknown to --algo supervised, which has cue-reward-hebbian"),
        (["cue-choice-lstm"], "recipe 'cue-choice-lstm' is for --algo ppo or a2c, not supervised"),
        (["cue-reward-rnn", "--set", "training.steps"], "--set must be pairs such as training.steps=2000, got"),
        (["cue-reward-rnn", "--grid", "training.steps"], "--grid must be pairs such as training.learning_rate=1e-3"),
        (["cue-reward-rnn", "--grid", "task.noise=0", "task.noise=0.1"], "--grid must give task.noise once, got [0]"),
        (["cue-reward-rnn", "--set", "task.noise=0", "--set", "task.noise=1"], "--set must give task.noise once"),
        (["cue-reward-rnn", "--grid", "training.steps=10,ten"], "training.steps must be of type int, got 'ten'"),
        (["cue-reward-rnn", "--set", "task.n_queues=3"], "cue-reward-rnn: CueReward got an unexpected keyword"),
        (
            ["cue-reward-rnn", "--trials", "3"],
            "--trials must be given with --search, such as training.learning_rate=log",
        ),
        (["cue-reward-rnn", "--search", RATE], "--trials must be the number of settings that --search draws"),
        (["cue-reward-rnn", "--search", RATE, "--trials", "0"], "trials must be at least 1, got 0"),
        (["cue-reward-rnn", "--search", "training.learning_rate", "--trials", "1"], "--search must be pairs such as"),
        (
            ["cue-reward-rnn", "--search", RATE, RATE, "--trials", "1"],
            "--search must give training.learning_rate once",
        ),
        (
            ["cue-reward-rnn", "--final-seeds", "1", "1"],
            "final_seeds must be one or more, each given once, got [1, 1]",
        ),
        (["cue-reward-rnn", "--final-seeds", "-1"], "final_seeds must be at least 0, got -1"),
    ],
)
def test_bad_arguments_of_the_command_print_one_line_and_exit_with_code_2(words, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", *words, "--out", "x"])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert named in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
