"""Studies: a search, final trials and probes for each method, and the pages of the results."""

import csv
import json
import re
import subprocess
from dataclasses import replace
from functools import partial

import pytest
from plastic_agents import NetworkConfig, ReinforcementConfig, SupervisedConfig, SupervisedLearner, seeding
from plastic_agents.analysis.probes import probe
from plastic_agents.analysis.statistics import difference, mean_and_range, mean_interval
from plastic_agents.atomic_files import write_json
from plastic_agents.cli.main import main
from plastic_agents.models.plastic.rule import RULES
from plastic_agents.sweep import reproduce
from plastic_agents.sweep.plan import PLAN_FILE, plan_sweep, read_json
from plastic_agents.sweep.reproduce import read_rows, run_cell, score_line
from plastic_agents.sweep.search import Search
from plastic_agents.sweep.studies import METHODS, STUDIES, Method, Study
from plastic_agents.sweep.study_figures import overview_figure
from plastic_agents.sweep.study_pages import OVERVIEW_FIGURE, score, write_pages

RATE, LAYERS = "training.learning_rate", "network.plasticity.layers"
SPACE = {RATE: "log:1e-3,1e-2", LAYERS: "choice:None,('readout',)"}
TINY = Study(
    "Tiny regression",
    "PlasticRNN/FewShotRegression-v0",
    {
        "rls": Method(NetworkConfig("rls", hidden_size=8), {RATE: SPACE[RATE]}),
        "hebbian": Method(NetworkConfig("hebbian", hidden_size=8), SPACE),
        "lstm": Method(NetworkConfig("none", "lstm", hidden_size=8), {RATE: SPACE[RATE]}),
    },
    {"n_support": 4, "n_queries": 3},
    SupervisedConfig(steps=4, batch_size=4, evaluate_every=2, evaluation_episodes=4),
    search_steps=2,
    trials=3,
    final_seeds=(0, 1),
)
TWO = {"tiny": TINY, "tiny-2": replace(TINY, title="Two points", task_arguments={"n_support": 2}, settings_from="tiny")}


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch):
    monkeypatch.setattr(reproduce, "_PROBE_EPISODES", 4)


def test_a_search_has_as_many_steps_as_its_method_says(tmp_path, engine):
    lstm = replace(TINY.methods["lstm"], full_search=True)
    studies = {"tiny": replace(TINY, methods={**TINY.methods, "lstm": lstm})}
    for method, steps in (("lstm", 4), ("rls", 2)):
        assert run_cell("tiny", method, tmp_path, studies=studies)["search_steps"] == steps
        plan = read_json(tmp_path / "trials" / "tiny" / method / PLAN_FILE)
        assert {trial["training"]["steps"] for trial in plan["trials"]} == {steps}
    assert "The searches of lstm had all 4 steps." in (write_pages(tmp_path, studies)[1]).read_text()
    with pytest.raises(ValueError, match="steps of the search is 4, not 2"):
        run_cell("tiny", "lstm", tmp_path, studies=TWO)


def test_interventions_with_infinite_outputs_have_no_score(tmp_path, engine, monkeypatch):
    def probe_or_fail(agent, *, episodes, interventions):
        if broken & set(interventions):
            raise FloatingPointError("the network's output is not finite")
        return probe(agent, episodes=episodes, interventions=interventions)

    monkeypatch.setattr(reproduce, "probe", probe_or_fail)
    broken = {"noise", "frozen"}
    cell = run_cell("tiny", "hebbian", tmp_path, studies=TWO)
    assert cell["not_finite"] == ["noise", "frozen"]
    assert {"intact", "hidden_erased", "readout_erased"} < cell["interventions"].keys() - broken
    page = next(path for path in write_pages(tmp_path, TWO) if path.name == "tiny.md").read_text()
    assert "the output of hebbian is not finite: noise of the same norm, no writing from there on." in page
    broken = {"intact"}
    (tmp_path / "tiny" / "hebbian.json").unlink()
    with pytest.raises(FloatingPointError, match="not finite"):
        run_cell("tiny", "hebbian", tmp_path, studies=TWO)


def test_a_cell_is_a_search_and_final_trials_with_probes(tmp_path, engine):
    cell = run_cell("tiny", "hebbian", tmp_path, studies=TWO)
    assert read_json(tmp_path / "tiny" / "hebbian.json") == json.loads(json.dumps(cell))
    assert (cell["budget"]["settings"], cell["budget"]["seeds"]) == (3, [100])
    best = min(cell["validation"], key=lambda entry: entry["mean"])
    assert cell["chosen"] == best["settings"]
    assert cell["settings"][RATE] == best["settings"][RATE]
    assert cell["settings"]["training.steps"] == 4
    assert [(final["seed"], final["steps"]) for final in cell["finals"]] == [(0, 4), (1, 4)]
    assert cell["test"]["metric"]["mean"] == pytest.approx(sum(final["metric"] for final in cell["finals"]) / 2)
    intact = cell["interventions"]["intact"]["metric"]
    assert intact == pytest.approx([final["metric"] for final in cell["finals"]])
    assert {len(scores) for of_one in cell["interventions"].values() for scores in of_one.values()} == {2}
    assert cell["probe"] == {name: pytest.approx(cell["test"][name]) for name in ("oracle", "memoryless")}
    assert cell["task_arguments"] == {"n_support": 4, "n_queries": 3}
    assert f"mean squared error {cell['test']['metric']['mean']:.3f} [" in score_line(cell)
    # The test episodes are first used after the last evaluation of the search.
    splits = [stream for stream in engine.streams if stream in (seeding.Stream.VALIDATION, seeding.Stream.TEST)]
    assert splits.index(seeding.Stream.TEST) >= 3

    engine.names.clear()
    assert run_cell("tiny", "hebbian", tmp_path, studies=TWO) == read_json(tmp_path / "tiny" / "hebbian.json")
    assert engine.names == []
    longer = {**TWO, "tiny": replace(TINY, trials=7, final_seeds=(5,))}
    message = r"is not of the study 'tiny': number of settings is 3, not 7, seeds is \[0, 1\], not \[5\]; use another"
    with pytest.raises(ValueError, match=message):
        run_cell("tiny", "hebbian", tmp_path, studies=longer)


def test_a_study_can_take_the_settings_that_another_study_chose(tmp_path, engine):
    cell = run_cell("tiny-2", "hebbian", tmp_path, studies=TWO)
    source = read_json(tmp_path / "tiny" / "hebbian.json")
    assert (cell["settings_from"], cell["budget"]["trials"], cell["validation"]) == ("tiny", 0, [])
    layers = source["chosen"][LAYERS]
    assert cell["settings"][RATE] == source["chosen"][RATE]
    assert cell["settings"][LAYERS] == (layers or source["settings"][LAYERS])
    assert cell["settings"]["training.steps"] == 4
    assert [final["seed"] for final in cell["finals"]] == [0, 1]


def test_settings_come_from_a_study_with_a_search(tmp_path, engine):
    third = replace(TINY, title="Three points", settings_from="tiny-2")
    with pytest.raises(ValueError, match="settings_from must be a study with a search, got 'tiny-2' for 'tiny-3'"):
        run_cell("tiny-3", "hebbian", tmp_path, studies={**TWO, "tiny-3": third})
    assert engine.names == []
    for name, study in STUDIES.items():
        assert study.settings_from is None or STUDIES[study.settings_from].is_searched, name


def test_the_commit_is_that_of_this_project_only(tmp_path, monkeypatch):
    git = partial(subprocess.run, check=True, cwd=tmp_path, capture_output=True)
    git(["git", "init", "-q"])
    git(["git", "-c", "user.name=me", "-c", "user.email=me@here", "commit", "-q", "--allow-empty", "-m", "theirs"])
    installed = tmp_path / "lib" / "reproduce.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(reproduce, "__file__", str(installed))
    assert reproduce._commit() is None
    git(["git", "add", "lib/reproduce.py"])
    git(["git", "-c", "user.name=me", "-c", "user.email=me@here", "commit", "-q", "-m", "ours"])
    head = git(["git", "rev-parse", "HEAD"], text=True).stdout
    assert head.startswith(reproduce._commit())


def test_a_study_without_search_spaces_trains_the_settings_that_it_has(tmp_path, engine):
    methods = {"fast": Method(NetworkConfig("hebbian", hidden_size=8), settings={"learning_rate": 0.5})}
    study = replace(
        TINY, methods=methods | {"slow": Method(NetworkConfig("hebbian", hidden_size=8))}, about="Two rates."
    )
    for method, rate in (("fast", 0.5), ("slow", study.training.learning_rate)):
        cell = run_cell("fixed", method, tmp_path, studies={"fixed": study})
        assert (cell["budget"]["trials"], cell["validation"], cell["space"]) == (0, [], {})
        assert cell["settings"][RATE] == rate
        assert [(final["seed"], final["steps"]) for final in cell["finals"]] == [(0, 4), (1, 4)]
    assert [step for step, _ in cell["finals"][0]["evaluations"]] == [2, 4]
    write_pages(tmp_path, {"fixed": study})
    page = (tmp_path / "fixed.md").read_text()
    assert "Two rates." in page
    assert "| method | `learning_rate` |" in page
    assert "| fast | 0.5 |" in page
    assert "Validation scores" not in page
    assert not (tmp_path / OVERVIEW_FIGURE).exists()
    assert OVERVIEW_FIGURE not in (tmp_path / "README.md").read_text()


def test_a_cell_waits_until_failed_trials_are_resumed(tmp_path, engine):
    run_cell("tiny", "lstm", tmp_path / "whole", studies=TWO)
    names = list(engine.names)
    for fail_at in (names[1], names[4]):  # in the search, and among the final trials
        engine.fail_at = fail_at
        assert run_cell("tiny", "lstm", tmp_path / "broken", studies=TWO) is None
        assert not (tmp_path / "broken" / "tiny").exists()
    engine.fail_at = None
    cell = run_cell("tiny", "lstm", tmp_path / "broken", studies=TWO)
    whole = read_json(tmp_path / "whole" / "tiny" / "lstm.json")
    assert [final["metric"] for final in cell["finals"]] == [final["metric"] for final in whole["finals"]]


def test_a_method_whose_settings_all_diverge_has_no_scores(tmp_path, engine, monkeypatch):
    def diverge(self, step):
        raise FloatingPointError("the loss is not finite")

    monkeypatch.setattr(SupervisedLearner, "_train_step", diverge)
    cell = run_cell("tiny", "hebbian", tmp_path, studies=TWO)
    assert (cell["test"], cell["finals"], cell["interventions"], cell["probe"]) == (None, [], {}, None)
    assert score_line(cell) == "all runs diverged"
    with pytest.raises(ValueError, match="tiny-2/hebbian has no settings: all those of tiny diverged"):
        run_cell("tiny-2", "hebbian", tmp_path, studies=TWO)
    write_pages(tmp_path, TWO)
    assert "| hebbian | - | - | - | 0 of 0 |" in (tmp_path / "tiny.md").read_text()


def test_pages_have_a_method_whose_final_runs_all_diverged(tmp_path, engine, monkeypatch):
    train_step = SupervisedLearner._train_step

    def diverge_in_final_runs(self, step):
        if self.config.seed in TINY.final_seeds:
            raise FloatingPointError("the loss is not finite")
        return train_step(self, step)

    run_cell("tiny", "rls", tmp_path, studies=TWO)
    monkeypatch.setattr(SupervisedLearner, "_train_step", diverge_in_final_runs)
    cell = run_cell("tiny", "hebbian", tmp_path, studies=TWO)
    assert cell["test"]["seeds"] == []
    write_pages(tmp_path, TWO)
    assert re.search(r"\| hebbian \|( - \|)+ 0 of 2 \|", (tmp_path / "tiny.md").read_text())


def test_pages_have_the_numbers_of_the_files(tmp_path, engine):
    cells = {method: run_cell("tiny", method, tmp_path, studies=TWO) for method in ("rls", "lstm")}
    pages = write_pages(tmp_path, TWO)
    assert [page.name for page in pages] == ["README.md", "tiny.md"]
    assert (tmp_path / "tiny.png").stat().st_size > 1000
    assert (tmp_path / OVERVIEW_FIGURE).stat().st_size > 1000
    (axes,) = overview_figure({"tiny": cells}, TWO).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["rls", "lstm"]
    scores = [f"{cell['test']['normalised_score']['mean']:.2f}" for cell in cells.values()]
    assert [text.get_text() for text in axes.texts] == scores
    overview, page = (path.read_text() for path in pages)
    for method, cell in cells.items():
        metric = cell["test"]["metric"]
        score = f"{metric['mean']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
        assert f"| {method} | {score} |" in overview
        assert f"| {method} | {score} |" in page
        share = 100 * cell["test"]["secondary_metrics"]["within_0.05"]["metric"]["mean"]
        assert re.search(rf"\| {method} \| {share:.1f}( \[.*\])? \|", overview)
        assert f"| {method} | {cell['chosen'][RATE]} |" in page
        assert page.count(f"<summary>{method}</summary>") == 1
        erased = cell["interventions"]["hidden_erased"]
        assert f"{sum(erased['metric']) / 2:.3f} → {sum(erased['twin_metric']) / 2:.3f} |" in page
    assert page.count("twin's writes, own rates") == page.count("| readout erased |") == 1
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert [(row["study"], row["method"], row["seed"]) for row in rows] == [
        ("tiny", method, seed) for method in ("rls", "lstm") for seed in ("0", "1")
    ]
    assert float(rows[3]["metric"]) == cells["lstm"]["finals"][1]["metric"]
    curve = [row for row in csv.DictReader((tmp_path / "curves.csv").open()) if row["method"] == "lstm"]
    assert [row["step"] for row in curve] == ["2", "4", "2", "4"]
    assert [float(row["seconds"]) for row in curve][1::2] == [
        round(final["seconds"], 1) for final in cells["lstm"]["finals"]
    ]
    assert "- Two points: `plastic-rnn reproduce tiny-2`" in overview
    best, other = sorted(cells, key=lambda method: cells[method]["test"]["metric"]["mean"])
    seeds = {method: [final["metric"] for final in cell["finals"]] for method, cell in cells.items()}
    gap = difference(seeds[other], seeds[best])
    normalised = mean_interval([final["normalised_score"] for final in cells[best]["finals"]])
    assert f" | - | {normalised.mean:.2f} [{normalised.low:.2f}, {normalised.high:.2f}] | " in page
    assert f" | minus that of {best} | " in page
    assert f" | {gap.mean:.3f} [{gap.low:.3f}, {gap.high:.3f}] | " in page
    assert "hebbian" not in overview.replace("the Hebbian", "")
    assert "hebbian" not in page
    assert "`n_support=4, n_queries=3`" in page


def test_the_score_of_a_single_seed_has_no_range():
    test = {"seeds": [0], "planned": 1, "metric": mean_and_range([0.25])._asdict()}
    assert score({"test": test}) == "0.250 (1 seed)"
    assert score({"test": {**test, "planned": 3}}) == "0.250 (1 of 3 seeds)"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["cue"], "row must be a study or study/method, of the studies cue-reward, regression,"),
        (["cue-reward/hebb"], "method must be one of hebbian, gradient,"),
        (["cue-reward", "cue-reward/rls"], "rows must name each method once, got cue-reward/rls twice"),
    ],
)
def test_unknown_rows_are_refused(rows, message, capsys):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_rows(rows)
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", *rows])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_rows_name_studies_and_methods():
    assert read_rows(["tiny-2/rls", "tiny"], TWO) == [("tiny-2", "rls"), *(("tiny", method) for method in TINY.methods)]
    assert read_rows([], TWO) == [(name, method) for name in TWO for method in TINY.methods]


def test_the_command_runs_rows_and_writes_pages(tmp_path, engine, monkeypatch, capsys):
    monkeypatch.setitem(STUDIES, "tiny", TINY)
    words = ["reproduce", "tiny/rls", "tiny/lstm", "--out", str(tmp_path)]
    monkeypatch.setattr(engine, "fails", lambda name: name.startswith("001_lstm_seed=1_"))
    with pytest.raises(SystemExit) as stop:
        main(words)
    printed = capsys.readouterr()
    assert stop.value.code == 1
    assert "1 of 2: tiny/rls: mean squared error" in printed.out
    assert "2 of 2: tiny/lstm: failed" in printed.out
    assert "tiny/lstm failed: the same command resumes it" in printed.err
    assert "| rls |" in (tmp_path / "tiny.md").read_text()
    monkeypatch.setattr(engine, "fails", lambda name: False)
    main(words)
    assert f"wrote README.md, tiny.md into {tmp_path}" in capsys.readouterr().out
    assert "| lstm |" in (tmp_path / "tiny.md").read_text()


def test_the_command_goes_on_after_a_row_that_cannot_run(tmp_path, engine, monkeypatch, capsys):
    for name, study in TWO.items():
        monkeypatch.setitem(STUDIES, name, study)
    cell = run_cell("tiny", "rls", tmp_path, studies=TWO)
    write_json(tmp_path / "tiny" / "rls.json", {**cell, "chosen": None})
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "tiny-2/rls", "tiny/lstm", "--out", str(tmp_path)])
    printed = capsys.readouterr()
    assert stop.value.code == 1
    assert "plastic-rnn: tiny-2/rls: tiny-2/rls has no settings: all those of tiny diverged" in printed.err
    assert "2 of 2: tiny/lstm: mean squared error" in printed.out
    assert "| lstm |" in (tmp_path / "tiny.md").read_text()


def test_every_rule_is_a_method_of_every_main_study():
    rules = {rule for rule in RULES if RULES[rule].__module__.startswith("plastic_agents.")}
    for name, study in STUDIES.items():
        if name in ("regression-linear-20", "regression-linear-10"):  # of a single rule
            assert [*study.methods] == ["rls"]
        elif study.is_searched:
            assert rules <= {method.network.rule for method in study.methods.values()}, name
        elif study.settings_from is not None:
            chosen = STUDIES[study.settings_from].methods
            for method, own in study.methods.items():
                encoder = own.network.encoder
                assert own == replace(chosen[method], network=replace(chosen[method].network, encoder=encoder)), name


@pytest.mark.parametrize(
    ("name", "method"), [(name, method) for name in ("cue-reward", "cue-choice") for method in METHODS]
)
def test_searches_can_draw_their_settings(name, method):
    study = STUDIES[name]
    search = Search(study.methods[method].space, study.trials)
    trials = plan_sweep({method: study.recipe(method)}, settings={study.steps_setting: 10}, search=search)
    assert len(trials) == study.trials


def test_a_study_of_reinforcement_learning(tmp_path, engine):
    config = ReinforcementConfig(total_timesteps=800, n_envs=4, n_epochs=1, evaluation_episodes=4)
    methods = {name: TINY.methods[name] for name in ("hebbian", "lstm")}
    study = Study(
        "Choice", "PlasticRNN/CueChoice-v0", methods, {}, config, search_steps=200, trials=2, final_seeds=(0,)
    )
    for method in methods:
        cell = run_cell("choice", method, tmp_path, studies={"choice": study})
        assert cell["settings"]["training.total_timesteps"] == 800
        assert cell["finals"][0]["steps"] >= 800
        assert cell["interventions"]["hidden_erased"]["metric"]
    write_pages(tmp_path, {"choice": study, **TWO})
    page = (tmp_path / "choice.md").read_text()
    assert "Each run has 800 steps of all environments." in page
    assert re.search(r"\| method \| reward per scored step \| minus that of \w+ \| normalised score, 95 % \|", page)
    assert "| *metric* | reward per scored step |" in (tmp_path / "README.md").read_text()
