"""Running of studies: a search, final trials and probes for each method, whose results become one JSON file.

The folder of the results has a file ``STUDY/METHOD.json`` for each method of a study, and pages with tables that are
made from these files alone. The runs lie in its folder ``trials``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from plastic_agents import __version__
from plastic_agents.analysis.agent import Agent
from plastic_agents.analysis.controls import CONTROLS, layer_interventions
from plastic_agents.analysis.interventions import INTERVENTIONS, Intervention
from plastic_agents.analysis.probes import probe
from plastic_agents.analysis.report import Report
from plastic_agents.atomic_files import write_json
from plastic_agents.models.core import RecurrentCore
from plastic_agents.sweep.choice import FINAL, run_search
from plastic_agents.sweep.comparison import MethodResult, compare, spread
from plastic_agents.sweep.plan import PLAN_FILE, learner_class, plan_sweep, read_json
from plastic_agents.sweep.run import DONE, RESULT_FILE, SweepOptions, trial_status
from plastic_agents.sweep.search import Search
from plastic_agents.sweep.studies import STUDIES, Study
from plastic_agents.sweep.study_scores import Cell
from plastic_agents.training.learner import CHECKPOINT

TRIALS = "trials"  # folder of the runs in the folder of the results
_PROBE_EPISODES = 500


def read_rows(rows: Sequence[str], studies: Mapping[str, Study] = STUDIES) -> list[tuple[str, str]]:
    """Return the pairs of a study and a method that rows name: ``study`` or ``study/method``; no rows name all.

    Raises:
        ValueError: a study or a method is unknown, or a pair is named twice.
    """
    pairs: list[tuple[str, str]] = []
    for row in rows or tuple(studies):
        name, slash, method = row.partition("/")
        if name not in studies:
            raise ValueError(f"row must be a study or study/method, of the studies {', '.join(studies)}, got {row!r}")
        if slash:
            studies[name].recipe(method)
        pairs += [(name, method)] if slash else [(name, method) for method in studies[name].methods]
    for pair in pairs:
        if pairs.count(pair) > 1:
            raise ValueError(f"rows must name each method once, got {'/'.join(pair)} twice")
    return pairs


def run_cell(
    name: str,
    method: str,
    out: str | os.PathLike[str],
    options: SweepOptions | None = None,
    studies: Mapping[str, Study] = STUDIES,
) -> Cell | None:
    """Train and probe a method of a study, and write its file; a finished one is read.

    Args:
        name: name of the study.
        method: name of the method.
        out: folder of the results.
        options: how to run the trials.
        studies: studies by name.

    Returns:
        The content of the file, or None if a trial failed, which the next call resumes.

    Raises:
        ValueError: a name is unknown, the folder holds runs or the file of another study of this name, or the study
            takes settings from another one that has no search, or in which all of them diverged.
        BlockingIOError, ModuleNotFoundError: as `plastic_agents.sweep.run.run_sweep`.
    """
    out, study = Path(out), studies[name]
    path = out / name / f"{method}.json"
    recipe = study.recipe(method)
    if path.exists():
        return _read_cell(path, study)
    settings: dict[str, Any] = {}
    search: Search | None = None
    if study.settings_from is not None:
        if not studies[study.settings_from].is_searched:
            raise ValueError(f"settings_from must be a study with a search, got {study.settings_from!r} for {name!r}")
        source = run_cell(study.settings_from, method, out, options, studies)
        if source is None:
            return None
        if source["chosen"] is None:
            raise ValueError(f"{name}/{method} has no settings: all those of {study.settings_from} diverged")
        # JSON has lists where a setting has a tuple.
        chosen = source["chosen"].items()
        settings = {setting: tuple(value) if isinstance(value, list) else value for setting, value in chosen}
    elif study.methods[method].space:
        settings = {study.steps_setting: study.steps_of_search(method)}
        search = Search(study.methods[method].space, study.trials)
    seeds = (study.search_seed,) if search else study.final_seeds
    trials = plan_sweep({method: recipe}, seeds=seeds, settings=settings, search=search)
    folder = out / TRIALS / name / method
    final_settings = {study.steps_setting: study.steps} if search else None
    run_search(trials, study.final_seeds, folder, options, final_settings=final_settings)
    (result,) = compare(folder)
    finals = _finals(folder, result)
    if any(final["status"] not in DONE for final in finals.values()):
        return None
    agents = []
    for run, final in finals.items():
        if final["status"] == "finished":
            learner = learner_class(recipe).load(run / CHECKPOINT)
            agents.append(learner.evaluation_agent)
            final["evaluations"] = [[each["step"], each["metric"]] for each in learner.progress.evaluations]
    cell = {
        "study": name,
        "method": method,
        "task_arguments": dict(study.task_arguments),
        "settings_from": study.settings_from,
        "search_steps": study.steps_of_search(method) if search else None,
        **result,
        "finals": list(finals.values()),
        **_probed(agents),
        "made_with": {"commit": _commit(), "plastic-rnn": __version__, "torch": torch.__version__},
    }
    write_json(path, cell)
    return cell


def _read_cell(path: Path, study: Study) -> Cell:
    cell: Cell = read_json(path)
    differing = differences(cell, study, path.stem)
    if differing:
        raise ValueError(f"{path} is not of the study {path.parent.name!r}: {', '.join(differing)}; use another folder")
    return cell


def differences(cell: Cell, study: Study, method: str) -> list[str]:
    """Return in what the file of a method differs from the study as it is defined now, each as a text."""
    is_searched = bool(study.settings_from is None and study.methods[method].space)
    pairs = {
        "task": (cell["task"], study.task),
        "arguments of the task": (cell["task_arguments"], dict(study.task_arguments)),
        "settings_from": (cell["settings_from"], study.settings_from),
        "space": (cell["space"], dict(study.methods[method].space) if is_searched else {}),
        "number of settings": (cell["budget"]["settings"], study.trials if is_searched else 0),
        "steps of the search": (cell["search_steps"], study.steps_of_search(method) if is_searched else None),
        "seeds of the search": (cell["budget"]["seeds"], [study.search_seed] if is_searched else []),
    }
    if cell["finals"]:  # there are none if all settings of the search diverged
        pairs[study.steps_setting] = (cell["settings"][study.steps_setting], study.steps)
        pairs["seeds"] = ([final["seed"] for final in cell["finals"]], list(study.final_seeds))
    return [f"{name} is {found!r}, not {wanted!r}" for name, (found, wanted) in pairs.items() if found != wanted]


def score_line(cell: Cell) -> str:
    """Return the test scores of a method in a line."""
    test = cell["test"] or {}
    if not test.get("seeds"):
        return "all runs diverged"
    n_seeds = len(test["seeds"])
    metric = f"{cell['metric_name']} {spread(test['metric'], 3, n_seeds)}"
    return f"{metric}, oracle {test['oracle']:.3f}, {n_seeds} of {test['planned']} seeds"


def _finals(folder: Path, result: MethodResult) -> dict[Path, dict[str, Any]]:
    """Return the result of each final trial by its run folder; none if all settings of the search diverged."""
    plan = folder / FINAL / PLAN_FILE
    if not plan.exists():
        is_hopeless = all("diverged" in entry["status"] for entry in result["validation"])
        return {} if is_hopeless else {folder: {"status": "unfinished"}}
    finals = {}
    for trial in read_json(plan)["trials"]:
        run = folder / FINAL / TRIALS / trial["name"]
        is_done = trial_status(run) in DONE
        finals[run] = {"seed": trial["training"]["seed"]} | (
            read_json(run / RESULT_FILE) if is_done else {"status": "unfinished"}
        )
    return finals


def _probed(agents: Sequence[Agent]) -> dict[str, Any]:
    """Return the metric of each agent under each intervention, against its own targets and those of the twin.

    With it are the metrics of the oracle and the memoryless agent at the steps that the probe counts, and the names of
    interventions under which the output of an agent is not finite; they have no metric.
    """
    chosen: list[dict[str, str | Intervention]] = [
        {name: name for name in (*INTERVENTIONS, *CONTROLS)} | {each.name: each for each in _of_layers(agent.core)}
        for agent in agents
    ]
    not_finite: list[str] = []
    try:
        reports = _reports(agents, chosen)
    except FloatingPointError:
        _reports(agents, [{"intact": "intact"} for _ in agents])  # fails if the networks themselves are not finite
        not_finite = [name for name in chosen[0] if not _is_finite(agents, [{name: each[name]} for each in chosen])]
        reports = _reports(agents, [{name: each[name] for name in each if name not in not_finite} for each in chosen])
    interventions = {
        name: {
            "metric": [report[name].metric.mean for report in reports],
            "twin_metric": [report[name].twin_metric.mean for report in reports],
        }
        for name in (reports[0] if reports else ())
    }
    baselines = {"oracle": reports[0].oracle.mean, "memoryless": reports[0].memoryless.mean} if reports else None
    return {"interventions": interventions, "probe": baselines, "not_finite": not_finite}


def _reports(agents: Sequence[Agent], interventions: Sequence[Mapping[str, str | Intervention]]) -> list[Report]:
    return [
        probe(agent, episodes=_PROBE_EPISODES, interventions=each.values())
        for agent, each in zip(agents, interventions, strict=True)
    ]


def _is_finite(agents: Sequence[Agent], interventions: Sequence[Mapping[str, str | Intervention]]) -> bool:
    try:
        _reports(agents, interventions)
    except FloatingPointError:
        return False
    return True


def _of_layers(core: RecurrentCore) -> list[Intervention]:
    return layer_interventions(core) if core.initial_state(1).fast is not None else []


def _commit() -> str | None:
    """Return the commit of this project's code, or None for an installed package."""
    file = Path(__file__)
    # An installed package can lie in the repository of another project.
    tracked = ("ls-files", "--error-unmatch", file.name)
    described = ("describe", "--always", "--dirty", "--exclude=*")
    answer = ""
    for command in (tracked, described):
        try:
            run = subprocess.run(("git", "-C", str(file.parent), *command), capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        answer = run.stdout.strip()
    return answer
