"""Random search, the choice of settings by validation scores, and final trials on test episodes."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from plastic_agents import SUPERVISED_RECIPES, SupervisedLearner, seeding, write_json
from plastic_agents.cli.main import main
from plastic_agents.sweep.choice import choose, run_search, trials_to_compare
from plastic_agents.sweep.comparison import compare, comparison_tables, comparison_text, validation_text
from plastic_agents.sweep.plan import plan_final, plan_sweep, read_json
from plastic_agents.sweep.results import read_results, write_results
from plastic_agents.sweep.run import run_trial
from plastic_agents.sweep.search import Search

from tests.plastic_agents.sweeps import TINY

RECIPES = {name: SUPERVISED_RECIPES[f"cue-reward-{name}"] for name in ("hebbian", "rnn")}
RATE, DECAY = "training.learning_rate", "network.plasticity.decay"
SPACE = {RATE: "log:1e-3,1e-2", DECAY: "choice:0.0,0.02,0.05"}


def plan(space=SPACE, trials=3, seed=0, recipes=RECIPES, **arguments):
    return plan_sweep(recipes, settings=TINY, search=Search(space, trials, seed), **arguments)


def drawn(trials, recipe, *paths):
    return [tuple(trial.settings[path] for path in paths) for trial in trials if trial.recipe_name == recipe]


@pytest.mark.parametrize(
    ("distribution", "low", "high", "kind"),
    [("log:1e-3,1e-1", 1e-3, 1e-1, float), ("uniform:-1,0.5", -1, 0.5, float), ("int:2,4", 2, 4, int)],
)
def test_draws_have_the_distribution(distribution, low, high, kind):
    count = 3 if kind is int else 400
    values = [settings["x"] for settings in Search({"x": distribution}, count).draw(["x"])]
    assert all(type(value) is kind and low <= value <= high for value in values)
    assert len(set(values)) == count
    if kind is float:
        middle = 1e-2 if distribution.startswith("log") else (low + high) / 2
        assert 150 < sum(value < middle for value in values) < 250
        assert all(value == float(f"{value:.4g}") for value in values)


def test_a_choice_has_all_values_each_once():
    settings = Search({"cell": "choice:rnn,lstm", "decay": "choice:None,0.5"}, 4).draw(["cell", "decay"])
    expected = {("rnn", None), ("rnn", 0.5), ("lstm", None), ("lstm", 0.5)}
    assert {(each["cell"], each["decay"]) for each in settings} == expected


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    assert plan() == plan()
    assert drawn(plan(), "hebbian", RATE) != drawn(plan(seed=1), "hebbian", RATE)


def test_every_recipe_has_the_same_budget_and_the_same_draws_of_the_settings_that_it_uses():
    trials = plan(trials=5, seeds=(3, 4))
    assert [trial.recipe.training.seed for trial in trials] == [3, 4] * 10
    assert len(set(drawn(trials, "hebbian", RATE, DECAY))) == 5
    assert drawn(trials, "rnn", RATE) == drawn(trials, "hebbian", RATE)
    # A network without plasticity has no decay to search.
    assert all(
        DECAY not in trial.settings and DECAY not in trial.space for trial in trials if trial.recipe_name == "rnn"
    )
    assert trials[0].space == SPACE
    for trial in trials:
        assert trial.recipe.training.learning_rate == trial.settings[RATE]
        assert trial.split == "validation"
    assert trials[0].recipe.network.plasticity.decay == trials[0].settings[DECAY]


def test_a_grid_of_tasks_has_a_search_at_each_of_its_values():
    trials = plan(trials=2, grid={"task.noise": [0.1, 0.3], "network.cell": ["rnn", "lstm"]})
    assert len(trials) == 2 * 2 * 2 * 2
    assert len({trial.method for trial in trials}) == 4
    assert len({trial.method for trial in plan(trials=2, grid={"network.rule": ["delta", "oja"]})}) == 4
    assert trials[0].space == {"network.cell": "choice:rnn,lstm", **SPACE}


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({}, "search must have one or more settings with their distributions, got none"),
        ({RATE: "1e-3,1e-2"}, f"search of {RATE} must be log:LOW,HIGH, uniform:LOW,HIGH, int:LOW,HIGH or choice:VALUE"),
        ({RATE: "normal:0,1"}, "got 'normal:0,1'"),
        ({RATE: 0.1}, "or choice:VALUE,VALUE,..., got 0.1"),
        ({RATE: "log:0,1e-2"}, f"search of {RATE} must be log:LOW,HIGH with 0 < LOW < HIGH, got 'log:0,1e-2'"),
        ({RATE: "log:-1,1e-2"}, "with 0 < LOW < HIGH, got 'log:-1,1e-2'"),
        ({RATE: "log:1e-2,1e-3"}, "with 0 < LOW < HIGH, got 'log:1e-2,1e-3'"),
        ({RATE: "log:1e-2"}, "with 0 < LOW < HIGH, got 'log:1e-2'"),
        ({RATE: "log:1e-3,1e-2,1e-1"}, "with 0 < LOW < HIGH, got"),
        ({RATE: "uniform:1,1"}, f"search of {RATE} must be uniform:LOW,HIGH with LOW < HIGH, got 'uniform:1,1'"),
        ({RATE: "uniform:low,high"}, "must be uniform:LOW,HIGH with LOW < HIGH, got 'uniform:low,high'"),
        ({RATE: "uniform:0,1e999"}, "must be uniform:LOW,HIGH with LOW < HIGH, got 'uniform:0,1e999'"),
        ({"training.steps": "int:1,2.5"}, "must be int:LOW,HIGH with LOW < HIGH as whole numbers, got 'int:1,2.5'"),
        ({DECAY: "choice:"}, "must be choice: with one or more values, each once, got 'choice:'"),
        ({DECAY: "choice:0.1,0.1"}, "must be choice: with one or more values, each once, got 'choice:0.1,0.1'"),
        ({"training.rate": "log:1e-3,1e-2"}, "hebbian: training has no setting 'rate'"),
        ({"network.plasticity.speed": "uniform:0,1"}, "hebbian: network.plasticity has no setting 'speed'"),
        ({"network.plasticity.extra": "uniform:1,2"}, "network.plasticity.extra must be of type int, got 1."),
        ({DECAY: "uniform:-2,-1"}, "decay must be"),
        (
            {"task.noise": "uniform:0,1"},
            "search must be of settings whose scores can be compared, got task.noise=uniform:0,1",
        ),
        (
            {"training.evaluation_arguments": "choice:1,2"},
            "search must be of settings whose scores can be compared, got",
        ),
        ({"training.seed": "int:0,9"}, "training.seed must be given by seeds"),
        (
            {"training.batch_size": "choice:4,8"},
            "training.batch_size must be given by one of set, grid and search, got set 4",
        ),
        (
            {DECAY: "choice:0.0,0.02"},
            f"trials must be at most 2, the number of different values that the search has for {DECAY}",
        ),
    ],
)
def test_an_invalid_search_is_refused_by_name(space, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        plan(space)


def test_a_path_in_grid_and_search_is_refused():
    with pytest.raises(ValueError, match=r"one of set, grid and search, got grid \[0.1\] and search 'log:1e-3,1e-2'"):
        plan({RATE: "log:1e-3,1e-2"}, grid={RATE: [0.1]})


def test_a_recipe_that_uses_no_searched_setting_is_refused():
    with pytest.raises(ValueError, match=r"rnn: trials must be at most 1, .* no setting that this network uses, got 3"):
        plan({DECAY: "uniform:0,1"})


@pytest.mark.parametrize("trials", [0, -1, 1.5, None, True])
def test_a_search_has_at_least_one_trial(trials):
    with pytest.raises((ValueError, TypeError), match="trials must be "):
        Search(SPACE, trials)


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,), (0.5,)])
def test_final_seeds_are_checked_before_anything_runs(seeds, tmp_path):
    with pytest.raises((ValueError, TypeError), match="final_seeds must be "):
        run_search(plan(), seeds, tmp_path)
    grid = {"training.evaluation_episodes": [4, 8]}
    with pytest.raises(ValueError, match=r"training\.evaluation_episodes must be the same for all trials of a choice"):
        run_search(plan_sweep(RECIPES, grid=grid), (0,), tmp_path)
    assert not list(tmp_path.iterdir())


def put_results(out, trials, metrics, is_error=True, **others):
    for trial, metric in zip(trials, metrics, strict=True):
        result = {"status": "finished", "split": "validation", "metric": metric, "metric_is_error": is_error, **others}
        if metric is None:
            result = {"status": "diverged", "error": "the loss is nan"}
        write_json(out / "trials" / trial.name / "result.json", result)


def test_the_best_mean_validation_score_is_chosen(tmp_path):
    trials = plan(seeds=(0, 1))
    # The first setting has the best seed, the second the best mean; the third of each recipe diverged once.
    metrics = [0.0, 0.9, 0.3, 0.4, 0.0, None, 0.5, 0.5, 0.6, 0.6, 0.1, None]
    put_results(tmp_path, trials, metrics)
    assert choose(trials, tmp_path) == [trials[2], trials[6]]
    put_results(tmp_path, trials, metrics, is_error=False)
    assert choose(trials, tmp_path) == [trials[0], trials[8]]
    put_results(tmp_path, trials, [*[None] * 6, *metrics[6:]])
    assert choose(trials, tmp_path) == [trials[6]]


def test_validation_scores_stand_under_their_seeds(tmp_path):
    trials = plan(seeds=(11, 10))
    write_json(tmp_path / "sweep.json", {"trials": [trial.to_json() for trial in trials]})
    put_results(tmp_path, trials, [11.0, 10.0] * 6, metric_name="error")
    for method in compare(tmp_path):
        header, _, *rows = (line for line in validation_text(method) if line.startswith("|"))
        assert header.endswith("| seed 11 | seed 10 | mean |  |")
        assert all(row.endswith("| 11.0000 | 10.0000 | 10.5000 |  |") for row in rows)


def test_numbers_of_numpy_are_numbers_of_python(tmp_path):
    trials = plan_sweep(
        RECIPES, seeds=np.arange(2), settings={"network.hidden_size": np.int64(8)}, grid={RATE: np.array([0.25, 0.5])}
    )
    assert trials == plan_sweep(RECIPES, seeds=(0, 1), settings={"network.hidden_size": 8}, grid={RATE: [0.25, 0.5]})
    assert json.dumps([trial.to_json() for trial in trials])


def test_a_choice_by_test_scores_is_refused(tmp_path):
    trials = plan()
    for split in ("test", None):  # results of earlier versions name no split
        put_results(tmp_path, trials, [0.1] * 6, split=split)
        with pytest.raises(ValueError, match=f"must hold a score on validation episodes to choose by, got {split!r}"):
            choose(trials, tmp_path)


def test_final_trials_have_the_chosen_settings_and_the_final_seeds():
    chosen = plan(seeds=(7,))[4]
    finals = plan_final([chosen], (0, 1))
    assert [trial.recipe.training.seed for trial in finals] == [0, 1]
    for trial in finals:
        seed = trial.recipe.training.seed
        assert trial.recipe == replace(chosen.recipe, training=replace(chosen.recipe.training, seed=seed))
        assert (trial.split, trial.settings, trial.method) == ("test", chosen.settings, chosen.method)
    assert [trial.name[:20] for trial in finals] == ["000_rnn_seed=0_learn", "001_rnn_seed=1_learn"]


@pytest.mark.parametrize("path", ["network.hidden_size", "training.seed", "training.evaluation_episodes", RATE])
def test_settings_of_final_trials_are_those_of_training_that_nothing_else_gives(path, tmp_path):
    with pytest.raises(ValueError, match=rf"final_settings must be settings of training .* got '{path}'"):
        run_search(plan(), (0,), tmp_path, final_settings={path: 1})


def test_final_trials_can_train_for_more_steps():
    (final,) = plan_final(plan()[:1], (0,), {"training.steps": 9})
    assert (final.recipe.training.steps, final.settings["training.steps"]) == (9, 9)


def command(out, *words):
    settings = [f"{path}={value}" for path, value in TINY.items()]
    recipes = [f"cue-reward-{name}" for name in RECIPES]
    search = ["--search", *(f"{path}={distribution}" for path, distribution in SPACE.items()), "--trials", "2"]
    return ["sweep", *recipes, "--out", str(out), "--seeds", "5", "6", "--set", *settings, *search, *words]


def test_one_command_searches_on_validation_and_reports_test_episodes(tmp_path, engine, capsys):
    main(command(tmp_path, "--final-seeds", "0", "1"))
    candidates, finals = (read_json(folder / "sweep.json")["trials"] for folder in (tmp_path, tmp_path / "final"))
    assert (len(candidates), len(finals)) == (8, 4)
    assert [trial["training"]["seed"] for trial in finals] == [0, 1, 0, 1]
    # The test episodes are first used after the last evaluation of the candidates.
    evaluations = [stream for stream in engine.streams if stream in (seeding.Stream.VALIDATION, seeding.Stream.TEST)]
    n_choice = evaluations.index(seeding.Stream.TEST)
    n_of_candidate = 2 * 8
    assert n_choice >= n_of_candidate
    assert evaluations.count(seeding.Stream.TEST) == 4

    methods = json.loads((tmp_path / "comparison.json").read_text())
    assert methods == compare(tmp_path)
    assert [method["recipe"] for method in methods] == ["cue-reward-hebbian", "cue-reward-rnn"]
    for method in methods:
        assert {key: method["budget"][key] for key in ("settings", "seeds", "trials")} == {
            "settings": 2,
            "seeds": [5, 6],
            "trials": 4,
        }
        best = min(method["validation"], key=lambda entry: entry["mean"])
        assert method["chosen"] == best["settings"]
        assert method["settings"][RATE] == method["chosen"][RATE]
        assert [len(entry["metric"]) for entry in method["validation"]] == [2, 2]
        test = method["test"]
        assert test["seeds"] == [0, 1]
        assert test["metric"]["low"] <= test["metric"]["mean"] <= test["metric"]["high"]
        assert test["parameters"] > 0
        assert test["processors"]
    assert methods[0]["space"] == SPACE
    assert methods[1]["space"] == {RATE: SPACE[RATE]}

    rows = read_results(tmp_path)
    assert [row["split"] for row in rows] == ["validation"] * 8 + ["test"] * 4
    tested = [row["metric"] for row in rows[8:10]]
    assert methods[0]["test"]["metric"]["mean"] == pytest.approx(sum(tested) / 2)
    printed = capsys.readouterr().out
    text = (tmp_path / "results.md").read_text()
    for words in (printed, text):
        for expected in (
            "cue-reward-hebbian",
            "settings that differ",
            "[lowest, highest]",
            "test episodes",
            "memoryless",
        ):
            assert expected.lower() in " ".join(words.lower().split())
        assert f"{methods[0]['test']['metric']['mean']:.3f} [" in words
        assert f"learning_rate={methods[1]['chosen'][RATE]}" in words
    assert "`log:1e-3,1e-2`" in text
    assert text.count("| chosen |") == 2
    assert (tmp_path / "results.png").exists()

    # All trials are finished: the same command runs none of them again.
    engine.names.clear()
    main(command(tmp_path, "--final-seeds", "0", "1"))
    assert engine.names == []
    assert (tmp_path / "results.md").read_text() == text


def test_an_interrupted_search_resumes_to_the_same_results(tmp_path, engine):
    def result(folder, without=("seconds",)):
        return {
            str(path.relative_to(folder)): {k: v for k, v in read_json(path).items() if k not in without}
            for path in folder.rglob("result.json")
        }

    words = ("--final-seeds", "0", "1")
    main(command(tmp_path / "whole", *words))
    names = list(engine.names)
    engine.names.clear()
    for stop_at in (names[3], names[10]):  # among the candidates, and among the final trials
        engine.stop_at = stop_at
        with pytest.raises(SystemExit) as stop:
            main(command(tmp_path / "broken", *words))
        assert stop.value.code == 130
    engine.stop_at = None
    main(command(tmp_path / "broken", *words))
    assert engine.names == names
    assert result(tmp_path / "broken") == result(tmp_path / "whole")


def test_final_trials_wait_until_failed_trials_are_resumed(tmp_path, engine, capsys):
    words = command(tmp_path, "--final-seeds", "0")
    trials = plan_sweep(
        {f"cue-reward-{name}": recipe for name, recipe in RECIPES.items()},
        settings=TINY,
        seeds=(5, 6),
        search=Search(SPACE, 2),
    )
    engine.fail_at = trials[1].name
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 1
    assert "no final trials: the same command resumes the failed trials above" in capsys.readouterr().err
    assert not (tmp_path / "final").exists()
    engine.fail_at = None
    engine.names.clear()
    main(words)
    assert engine.names[0] == trials[1].name
    assert len(engine.names) == 1 + 2


def test_settings_that_diverge_are_results_of_the_search(tmp_path, engine, monkeypatch, capsys):
    train_step = SupervisedLearner._train_step
    ((diverging,), (learning,)) = (tuple(draw.values()) for draw in Search({RATE: SPACE[RATE]}, 2).draw([RATE]))

    def diverge(self, step):
        if self.config.learning_rate == diverging:
            raise FloatingPointError("the loss is nan")
        return train_step(self, step)

    monkeypatch.setattr(SupervisedLearner, "_train_step", diverge)
    settings = [f"{path}={value}" for path, value in TINY.items()]
    words = [
        "sweep",
        "cue-reward-rnn",
        "--out",
        str(tmp_path),
        "--set",
        *settings,
        "--search",
        f"{RATE}={SPACE[RATE]}",
    ]
    main([*words, "--trials", "2", "--final-seeds", "3"])
    assert "diverged: FloatingPointError: the loss is nan" in capsys.readouterr().err
    (method,) = compare(tmp_path)
    assert method["chosen"] == {RATE: learning}
    assert [entry["mean"] is None for entry in method["validation"]] == [True, False]
    assert f"| {diverging} | diverged | - |" in (tmp_path / "results.md").read_text()


def test_a_method_with_a_single_setting_has_final_trials_only(tmp_path, engine):
    trials = plan_sweep(RECIPES, settings=TINY, seeds=(3,))
    assert trials_to_compare(trials) == []
    run_search(trials, (0, 1), tmp_path)
    assert len(engine.names) == 4
    rows = write_results(tmp_path)
    assert [row["split"] for row in rows] == ["test"] * 4
    methods = compare(tmp_path)
    assert [(method["chosen"], method["validation"]) for method in methods] == [({}, [])] * 2
    assert "No choice was made" in comparison_text(methods)
    (scores, settings) = comparison_tables(methods)
    assert list(scores.columns[2].cells) == ["none", "none"]
    assert "network.rule" in list(settings.columns[0].cells)


def test_another_search_in_the_folder_is_refused(tmp_path, engine, capsys):
    main(command(tmp_path))
    with pytest.raises(SystemExit):
        main(command(tmp_path, "--search-seed", "1"))
    assert "holds another sweep" in capsys.readouterr().err
    main(command(tmp_path, "--final-seeds", "0"))
    with pytest.raises(SystemExit):
        main(command(tmp_path, "--final-seeds", "1"))
    assert "final holds another sweep" in capsys.readouterr().err


def test_a_final_trial_is_scored_on_test_episodes(tmp_path):
    (trial,) = plan_sweep({"rnn": RECIPES["rnn"]}, settings=TINY)
    results = {}
    for split, each in (("validation", trial), ("test", plan_final([trial], (0,))[0])):
        run_trial(each, tmp_path / split, lambda evaluation: None)
        results[split] = read_json(tmp_path / split / "result.json")
        assert results[split]["split"] == split
    assert results["test"]["memoryless"] != results["validation"]["memoryless"]
    assert results["test"]["parameters"] == results["validation"]["parameters"]
