"""The results of a sweep: a row for each trial, and a figure and a table of means over seeds."""

from __future__ import annotations

import csv
import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from plastic_agents.analysis.colours import PALETTE, network_name, network_styles
from plastic_agents.analysis.statistics import Estimate, format_estimate, mean_and_range
from plastic_agents.analysis.tables import secondary_header
from plastic_agents.atomic_files import replacing, write_json
from plastic_agents.sweep.choice import FINAL
from plastic_agents.sweep.comparison import compare, comparison_text
from plastic_agents.sweep.plan import PLAN_FILE, read_json
from plastic_agents.sweep.run import RESULT_FILE

Row = dict[str, Any]

_RESULT_COLUMNS = (
    *("metric_name", "metric_is_error", "metric", "normalised_score", "oracle", "oracle_name", "memoryless"),
    *("steps", "seconds", "processor", "parameters", "status", "error"),
)


def read_results(out: str | os.PathLike[str]) -> list[Row]:
    """Return a row for each trial of the sweep in ``out``, finished or not; unknown values are None.

    The trials of the search come first, those of the folder ``final`` last.

    Columns: trial, recipe, split (the episodes of the scores: "validation", or "test" for final trials), algo, task,
    rule, cell, seed; every task argument of a recipe and every setting, by path
    (None: the task's default); metric_name, metric_is_error, metric and normalised_score at the end, with the metrics
    of the oracle and the memoryless baseline, and the oracle's name; steps; seconds of training; processor; parameters;
    status ("finished", "diverged", "failed" or "unfinished"); error. Secondary metrics of the tasks, if any, have
    further columns, such as metric.within_0.05, oracle.within_0.05 and memoryless.within_0.05.

    Raises:
        FileNotFoundError: ``out`` holds no sweep.
        ValueError: a file cannot be read.
    """
    out = Path(out)
    folders = [folder for folder in (out, out / FINAL) if (folder / PLAN_FILE).exists()]
    if not folders:
        raise FileNotFoundError(f"{out} holds no sweep: there is no {PLAN_FILE}")
    placed = [(folder, trial) for folder in folders for trial in read_json(folder / PLAN_FILE)["trials"]]
    trials = [trial for _, trial in placed]
    settings_of_trials = [
        {**{f"task.{name}": value for name, value in trial["task_arguments"].items()}, **trial["settings"]}
        for trial in trials
    ]
    defaults = dict.fromkeys(path for settings in settings_of_trials for path in settings)
    rows: list[Row] = []
    secondary: list[Row] = []
    for (folder, trial), settings in zip(placed, settings_of_trials, strict=True):
        path = folder / "trials" / trial["name"] / RESULT_FILE
        result: Row = read_json(path) if path.exists() else {"status": "unfinished"}
        network = trial["network"]
        row = {"trial": trial["name"], "recipe": trial["recipe_name"], "split": trial.get("split")}
        row |= {"algo": trial["algo"], "task": trial["task"]}
        row |= {"rule": network["rule"], "cell": network["cell"], "seed": trial["training"]["seed"]}
        rows.append({**row, **defaults, **settings, **{name: result.get(name) for name in _RESULT_COLUMNS}})
        metrics: dict[str, Row] = result.get("secondary_metrics", {})
        secondary.append(
            {f"{column}.{name}": value for name, values in metrics.items() for column, value in values.items()}
        )
    columns = dict.fromkeys(column for values in secondary for column in values)
    return [{**row, **columns, **values} for row, values in zip(rows, secondary, strict=True)]


def write_results(out: str | os.PathLike[str]) -> list[Row]:
    """Write ``results.csv``, ``results.json``, ``comparison.json``, ``results.md`` and, once a trial is finished,
    ``results.png`` into ``out``.

    The picture shows the final trials if there are any, and else all trials.

    Returns:
        The rows of `read_results`.
    """
    out, rows = Path(out), read_results(out)
    write_json(out / "results.json", rows)
    with replacing(out / "results.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    methods = compare(out)
    write_json(out / "comparison.json", methods)
    with replacing(out / "results.md") as temporary:
        temporary.write_text(comparison_text(methods))
    shown = final_rows(rows) or rows
    if any(row["status"] == "finished" for row in shown):
        with replacing(out / "results.png") as path:
            sweep_figure(shown).savefig(path)
    return rows


def final_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of final trials without the settings that were chosen, which differ between networks."""
    return [
        {path: value for path, value in row.items() if path.partition(".")[0] not in ("network", "training")}
        for row in rows
        if row["split"] == "test"
    ]


class TrialGroup(NamedTuple):
    """Trials that differ in their seed only.

    Attributes:
        task: the task, with those of its arguments that vary in the sweep.
        network: the rule, with the cell and the recipe if they are needed to tell networks apart.
        variant: the other settings that vary.
        rows: rows of all trials of the group.
        finished: rows of the finished ones.
    """

    task: str
    network: str
    variant: str
    rows: list[Row]
    finished: list[Row]

    def spread(self, column: str) -> Estimate:
        """Return the mean of a column over the finished seeds, with the lowest and the highest value."""
        return mean_and_range([row[column] for row in self.finished])


def group_trials(rows: Sequence[Row]) -> list[TrialGroup]:
    """Group trials that differ in their seed only, in the order of the plan."""
    # Recipes of the same task may differ in its arguments, too.
    tasks = {row["task"] for row in rows}
    varied = [
        path
        for path in rows[0]
        if path.partition(".")[0] in ("task", "network", "training")
        and path not in ("network.rule", "network.cell")  # these name the network
        and len({(row["task"], repr(row[path])) for row in rows}) > len(tasks)
    ]

    def text(row: Row, sections: Sequence[str]) -> str:
        paths = [path for path in varied if path.partition(".")[0] in sections]
        if sections == ("task",):
            paths = [path for path in paths if row[path] is not None]  # None: the default, or another task's argument
        return ", ".join(f"{path.rpartition('.')[2]}={row[path]}" for path in paths)

    def task(row: Row) -> str:
        arguments = text(row, ("task",))
        return str(row["task"]).rpartition("/")[2] + (f"\n{arguments}" if arguments else "")

    members: dict[Hashable, list[Row]] = {}
    for row in rows:
        key = (task(row), row["recipe"], row["rule"], row["cell"], text(row, ("network", "training")))
        members.setdefault(key, []).append(row)
    examples = [group_rows[0] for group_rows in members.values()]
    names = _short_names([(row["task"], row["rule"], row["cell"], row["recipe"]) for row in examples])
    return [
        TrialGroup(
            task(example),
            name,
            text(example, ("network", "training")),
            group_rows,
            [row for row in group_rows if row["status"] == "finished"],
        )
        for name, example, group_rows in zip(names, examples, members.values(), strict=True)
    ]


def _short_names(networks: Sequence[tuple[str, ...]]) -> list[str]:
    """Name networks (task, rule, cell, recipe): the rule, and as much more as tells them apart on a task."""
    for n_words in (1, 2, 3):
        if len({network[: 1 + n_words] for network in networks}) == len(set(networks)):
            break
    return [" ".join(network[1 : 1 + n_words]) for network in networks]


def sweep_figure(rows: Sequence[Row]) -> Figure:
    """Draw the metric of each network, a panel for each task: every seed, their mean, and their range.

    Lines show the oracle and the memoryless baseline. Colours show the settings that vary, or if none does, the
    network. Panels of the same task have the same axis. The figure omits unfinished trials, and its labels count them.
    """
    groups = group_trials(rows)
    tasks = list(dict.fromkeys(group.task for group in groups if group.finished))
    variants = list(dict.fromkeys(group.variant for group in groups))
    gradient = colormaps["viridis"](np.linspace(0, 1, len(variants)))
    colours = PALETTE if len(variants) <= len(PALETTE) else [to_hex(colour) for colour in gradient]
    styles = network_styles(network_name(row["rule"], row["cell"]) for row in rows)
    n_seeds = max(len(group.rows) for group in groups)
    width = max(4.8, 1.2 + 3.4 * len(tasks))
    figure = Figure(figsize=(width, 4.4), layout="constrained", dpi=150)
    figure.suptitle(f"mean and range over {n_seeds} seeds" if n_seeds > 1 else "one seed", fontsize=10)
    handles: dict[str, Artist] = {}
    first_panels: dict[str, Axes] = {}  # by the id of the task
    for panel, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        task_groups = [group for group in groups if group.task == task]
        networks = list(dict.fromkeys(group.network for group in task_groups))
        finished = [group for group in task_groups if group.finished]
        example = finished[0].finished[0]
        oracle_name = example["oracle_name"] or "oracle"  # older sweeps lack the name
        for baseline, name, colour, line in (
            ("oracle", oracle_name, "black", "--"),
            ("memoryless", "memoryless", "0.45", ":"),
        ):
            level = fmean(group.spread(baseline).mean for group in finished)
            panel.axhline(level, color=colour, linestyle=line, linewidth=1.6, label=name)
        for group in finished:
            index = variants.index(group.variant)
            x = networks.index(group.network) + 0.7 * ((index + 0.5) / len(variants) - 0.5)
            kind = network_name(group.rows[0]["rule"], group.rows[0]["cell"])
            colour = colours[index] if len(variants) > 1 else styles[kind].colour
            metrics = [row["metric"] for row in group.finished]
            panel.plot([x] * len(metrics), metrics, "o", color=colour, markersize=5, alpha=0.4, markeredgewidth=0)
            mean, low, high = group.spread("metric")
            bar = ([mean - low], [high - mean])
            style = {"color": colour, "markersize": 18, "markeredgewidth": 2}
            panel.errorbar(x, mean, bar, fmt="_", label=group.variant or None, **style)
        panel.set_xticks(range(len(networks)), [_label(name, task_groups) for name in networks])
        panel.set_xlim(-0.6, len(networks) - 0.4)
        panel.set_title(task)
        split = example["split"]
        panel.set_ylabel(example["metric_name"] + (f", {split} episodes" if split else ""))
        first_panel = first_panels.setdefault(example["task"], panel)
        if first_panel is not panel:
            panel.sharey(first_panel)
        if example["metric_is_error"]:
            panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    # A legend entry takes about 0.6 inches for its handle and 0.08 for each letter.
    n_columns = max(1, int(width / (0.6 + 0.08 * max(map(len, handles)))))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=n_columns, frameon=False)
    return figure


def _label(network: str, groups: Sequence[TrialGroup]) -> str:
    """Return the name of a network, with the number of its finished trials if some are unfinished."""
    network_groups = [group for group in groups if group.network == network]
    n_planned = sum(len(group.rows) for group in network_groups)
    n_finished = sum(len(group.finished) for group in network_groups)
    return network if n_planned == n_finished else f"{network}\n({n_finished} of {n_planned})"


def sweep_table(rows: Sequence[Row], title: str = "") -> Table:
    """Make a table with a row for each group of seeds: the metric's mean, lowest and highest, beside the baselines.

    The secondary metrics of the tasks have columns of their own.
    """
    groups = group_trials(rows)
    table = Table(
        title=title or None,
        caption=escape("validation episodes; mean [lowest, highest] over seeds; normalised: memoryless 0, oracle 1"),
    )
    names = ("task", "network", "settings") if any(group.variant for group in groups) else ("task", "network")
    secondary = [path for path in rows[0] if path.startswith("metric.")]
    headers = [secondary_header(path.removeprefix("metric.")) for path in secondary]
    for column in (*names, "metric", "normalised", "oracle", "memoryless", *headers, "seeds"):
        table.add_column(column, justify="left" if column in names else "right", no_wrap=True)
    for group in groups:
        numbers = ["-"] * (4 + len(secondary))
        if group.finished:
            numbers = [_over_seeds(group, "metric")]
            scores = [row["normalised_score"] for row in group.finished if row["normalised_score"] is not None]
            numbers.append(f"{fmean(scores):.2f}" if scores else "-")
            numbers += [f"{group.spread(baseline).mean:.3f}" for baseline in ("oracle", "memoryless")]
            numbers += [_secondary_cell(group, path) for path in secondary]
        words = (group.task.replace("\n", " "), group.network, group.variant)[: len(names)]
        table.add_row(*words, *numbers, f"{len(group.finished)} of {len(group.rows)}")
    return table


def _secondary_cell(group: TrialGroup, path: str) -> str:
    """Return the mean of a secondary metric over the finished seeds, or "-" if a seed lacks it."""
    is_known = all(row[path] is not None for row in group.finished)
    return _over_seeds(group, path) if is_known else "-"


def _over_seeds(group: TrialGroup, column: str) -> str:
    """Return the mean of a column over the finished seeds, and if there are several, the lowest and the highest."""
    estimate, n_seeds = group.spread(column), len(group.finished)
    return format_estimate(estimate, n_seeds) if n_seeds > 1 else f"{estimate.mean:.3f}"
