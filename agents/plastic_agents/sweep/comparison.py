"""The comparison of the methods of a sweep: budgets, chosen settings and test scores, as data, text and tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from math import isnan
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.markup import escape
from rich.table import Table

from plastic_agents.analysis.statistics import mean_and_range
from plastic_agents.sweep.choice import FINAL
from plastic_agents.sweep.plan import PLAN_FILE, method_of, read_json
from plastic_agents.sweep.run import RESULT_FILE

MethodResult = dict[str, Any]
# Settings in which trials of a method differ, and settings without effect on training.
_OMITTED = ("training.seed", "training.evaluate_every", "training.checkpoint_every")
NONE = "-"


def compare(out: str | os.PathLike[str]) -> list[MethodResult]:
    """Return the methods of a sweep, each a recipe with its rule and its settings of the task, as plain data.

    Each has the keys ``recipe`` (with the rule, if the sweep set it), ``task`` and ``task_settings``; ``space``, the
    values from which settings were taken; ``budget`` (number of settings, seeds and trials); ``settings``, all settings
    by path as in the final trials, or as in the first trial without them; ``chosen``, those of ``settings`` that were
    chosen, or None; ``validation``, a dict for each setting that was tried, with the scores of its seeds;
    ``metric_name``; and ``test``, the scores of the final trials, or None.

    Raises:
        FileNotFoundError: ``out`` holds no sweep.
        ValueError: a file cannot be read.
    """
    out = Path(out)
    stages = {"validation": _read_stage(out), "test": _read_stage(out / FINAL)}
    if not any(stages.values()):
        raise FileNotFoundError(f"{out} holds no sweep: there is no {PLAN_FILE}")
    by_method: dict[tuple[str, str], dict[str, list[tuple[Any, Any]]]] = {}
    for stage, trials in stages.items():
        for trial, result in trials:
            members = by_method.setdefault(method_of(trial["recipe_name"], trial["settings"]), {})
            members.setdefault(stage, []).append((trial, result))
    return [_method(stages.get("validation", []), stages.get("test", [])) for stages in by_method.values()]


def _read_stage(folder: Path) -> list[tuple[Any, Any]]:
    """Return the trials in a folder, with their results."""
    if not (folder / PLAN_FILE).exists():
        return []
    trials = read_json(folder / PLAN_FILE)["trials"]
    paths = [folder / "trials" / trial["name"] / RESULT_FILE for trial in trials]
    return [
        (trial, read_json(path) if path.exists() else {"status": "unfinished"})
        for trial, path in zip(trials, paths, strict=True)
    ]


def _method(candidates: Sequence[tuple[Any, Any]], finals: Sequence[tuple[Any, Any]]) -> MethodResult:
    example, _ = (finals or candidates)[0]
    rule = example["settings"].get("network.rule")
    space = example.get("space", {})
    tried: list[MethodResult] = []
    for trial, result in candidates:
        settings = {path: value for path, value in trial["settings"].items() if path in space}
        if not tried or tried[-1]["settings"] != settings:
            tried.append({"settings": settings, "metric": [], "status": []})
        tried[-1]["metric"].append(result.get("metric"))
        tried[-1]["status"].append(result["status"])
    for entry in tried:
        is_known = all(status == "finished" for status in entry["status"])
        entry["mean"] = fmean(entry["metric"]) if is_known else None
    return {
        "recipe": example["recipe_name"] + (f", {rule}" if rule else ""),
        "task": example["task"],
        "task_settings": {path: value for path, value in example["settings"].items() if path.startswith("task.")},
        "space": space,
        "budget": {
            "settings": len(tried),
            "seeds": list(dict.fromkeys(trial["training"]["seed"] for trial, _ in candidates)),
            "trials": len(candidates),
            "minutes": sum(result.get("seconds", 0.0) for _, result in candidates) / 60,
        },
        "settings": flat_settings(example),
        "chosen": {path: example["settings"][path] for path in space} if finals else None,
        "validation": tried,
        "metric_name": next(
            (result["metric_name"] for _, result in (*finals, *candidates) if "metric" in result), None
        ),
        "test": _test_scores(finals) if finals else None,
    }


def flat_settings(trial: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of network and training by path, without those that have no effect."""
    network = {name: value for name, value in trial["network"].items() if name != "plasticity"}
    flat = dict(_flattened({"network": network | {"plasticity": trial["plasticity"]}, "training": trial["training"]}))
    return {path: value for path, value in flat.items() if path not in _OMITTED}


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _test_scores(finals: Sequence[tuple[Any, Any]]) -> MethodResult:
    """Return means over the finished final trials, with the lowest and the highest value."""
    finished = [(trial, result) for trial, result in finals if result["status"] == "finished"]
    scores: MethodResult = {
        "seeds": [trial["training"]["seed"] for trial, _ in finished],
        "planned": len(finals),
        "errors": [result["error"] for _, result in finals if "error" in result],
    }
    if not finished:
        return scores
    results = [result for _, result in finished]
    for name in ("metric", "normalised_score"):
        values = [result[name] for result in results]
        scores[name] = None if None in values else mean_and_range(values)._asdict()
    secondary = {}
    for name in results[0]["secondary_metrics"]:
        of_runs = [result["secondary_metrics"][name] for result in results]
        by_column = {column: [values[column] for values in of_runs] for column in _COLUMNS}
        secondary[name] = {
            column: None if None in values else mean_and_range(values)._asdict() for column, values in by_column.items()
        }
    return {
        **scores,
        "oracle": fmean(result["oracle"] for result in results),
        "memoryless": fmean(result["memoryless"] for result in results),
        "secondary_metrics": secondary,
        "parameters": results[0]["parameters"],
        "minutes": fmean(result["seconds"] for result in results) / 60,
        "processors": sorted({result["processor"] for result in results}),
    }


_COLUMNS = ("metric", "oracle", "memoryless")


def differing_settings(methods: Sequence[MethodResult]) -> dict[str, list[Any]]:
    """Return the settings in which methods differ, by path: the value of each method, "-" for one without effect."""
    paths = dict.fromkeys(path for method in methods for path in method["settings"])
    values = {path: [method["settings"].get(path, NONE) for method in methods] for path in paths}
    return {path: of_methods for path, of_methods in values.items() if len({repr(v) for v in of_methods}) > 1}


def by_task(methods: Sequence[MethodResult]) -> dict[str, list[MethodResult]]:
    """Return the methods by task, named by its id and by its settings in the sweep."""
    tasks: dict[str, list[MethodResult]] = {}
    for method in methods:
        arguments = _pairs(method["task_settings"])
        name = method["task"].rpartition("/")[2] + (f" ({arguments})" if arguments else "")
        tasks.setdefault(name, []).append(method)
    return tasks


def score_table(methods: Sequence[MethodResult]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table with the test scores of methods on a task."""
    names = dict.fromkeys(name for method in methods for name in (method["test"] or {}).get("secondary_metrics", ()))
    header = ["method", "chosen settings", "tried", "metric", "normalised", "oracle", "memoryless"]
    header += [name.replace("_", " ") for name in names]
    header += ["seeds", "parameters", "minutes", "processor"]
    rows = []
    for method in methods:
        test = method["test"] or {}
        budget = method["budget"]
        tried = f"{budget['settings']} x {len(budget['seeds'])}" if budget["trials"] else "none"
        row = [method["recipe"], _pairs(method["chosen"] or {}) or NONE, tried]
        n_seeds = len(test.get("seeds", ()))
        row += [spread(test.get("metric"), 3, n_seeds), spread(test.get("normalised_score"), 2, n_seeds)]
        row += [number(test.get("oracle")), number(test.get("memoryless"))]
        row += [spread(test.get("secondary_metrics", {}).get(name, {}).get("metric"), 3, n_seeds) for name in names]
        row += [f"{n_seeds} of {test.get('planned', 0)}", str(test.get("parameters", NONE))]
        row += [number(test.get("minutes"), 1), ", ".join(test.get("processors", ())) or NONE]
        rows.append(row)
    return header, rows


def settings_table(methods: Sequence[MethodResult]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a table with the settings in which methods differ."""
    rows = [[path, *map(str, values)] for path, values in differing_settings(methods).items()]
    return ["setting", *(method["recipe"] for method in methods)], rows


def comparison_tables(methods: Sequence[MethodResult], title: str = "") -> list[Table]:
    """Return tables for the terminal: for each task, the test scores and the settings in which methods differ."""
    tables = []
    for task, of_task in by_task(methods).items():
        caption = f"{_metric_name(of_task)}, test episodes; {_TEST_CAPTION}"
        for name, (header, rows), text in (
            (f"{title}: {task}" if title else task, score_table(of_task), caption),
            (f"{task}: settings that differ", settings_table(of_task), ""),
        ):
            table = Table(title=escape(name), caption=escape(text))
            for column in header:
                table.add_column(column, no_wrap=column not in ("processor", "chosen settings"))
            for row in rows:
                table.add_row(*map(escape, row))
            tables.append(table)
    return tables


_TEST_CAPTION = (
    "mean [lowest, highest] over seeds; normalised: memoryless 0, oracle 1; tried: settings x seeds on validation "
    "episodes; minutes: training of a run"
)


def comparison_text(methods: Sequence[MethodResult]) -> str:
    """Return ``results.md``: for each task the test scores, the settings that differ, and all validation scores."""
    lines = ["# Results of the sweep", ""]
    for task, of_task in by_task(methods).items():
        lines += [f"## {task}", ""]
        if any(method["test"] for method in of_task):
            lines += [f"{_metric_name(of_task).capitalize()} on test episodes, which no choice used.", ""]
            lines += [*markdown_table(*score_table(of_task)), "", f"{_TEST_CAPTION.capitalize()}.", ""]
        if len(of_task) > 1:
            lines += ["### Settings that differ", "", *markdown_table(*settings_table(of_task)), ""]
        for method in of_task:
            lines += validation_text(method)
    return "\n".join(lines)


def validation_text(method: MethodResult) -> list[str]:
    """Return the lines about the search of a method: its budget, its space and all validation scores."""
    budget = method["budget"]
    lines = [f"### Validation of {method['recipe']}", ""]
    if not budget["trials"]:
        return [*lines, "No choice was made: the method has a single setting.", ""]
    space = [f"- `{path}`: `{values}`" for path, values in method["space"].items()]
    seeds = f"seed{'s' * (len(budget['seeds']) > 1)} {', '.join(map(str, budget['seeds']))}"
    lines += [
        f"Budget: {budget['settings']} settings with the {seeds}, {budget['minutes']:.1f} minutes in all. "
        f"The scores are the {_metric_name([method])} on validation episodes.",
        "",
        *([*space, ""] if space else []),
    ]
    paths = list(method["space"])
    header = [*paths, *(f"seed {seed}" for seed in budget["seeds"]), "mean", ""]
    rows = []
    for entry in method["validation"]:
        scores = [
            number(metric, 4) if status == "finished" else status
            for metric, status in zip(entry["metric"], entry["status"], strict=True)
        ]
        is_chosen = method["chosen"] is not None and entry["settings"] == method["chosen"]
        values = [str(entry["settings"].get(path, NONE)) for path in paths]
        rows.append([*values, *scores, number(entry["mean"], 4), "chosen" if is_chosen else ""])
    return [*lines, *markdown_table(header, rows), ""]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _metric_name(methods: Sequence[MethodResult]) -> str:
    return next((method["metric_name"] for method in methods if method["metric_name"]), "metric")


def _pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{path.partition('.')[2]}={value}" for path, value in settings.items())


def spread(values: Mapping[str, float] | None, digits: int = 3, n_seeds: int | None = None) -> str:
    """Return a mean with the ends of its range or interval, or "-" for None.

    The mean stands alone if its interval is NaN, or if it is that of a single seed.
    """
    if values is None:
        return NONE
    mean, low, high = (number(values[name], digits) for name in ("mean", "low", "high"))
    return mean if n_seeds == 1 or isnan(values["low"]) else f"{mean} [{low}, {high}]"


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many decimals, or "-" for None."""
    return NONE if value is None else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0 makes -0.0 positive
