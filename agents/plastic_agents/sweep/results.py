"""What a sweep found: a row for each trial, and a figure and a table of means over seeds."""

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
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from rich.table import Table

from plastic_agents.analysis.statistics import Estimate, mean_and_range
from plastic_agents.analysis.tables import format_estimate
from plastic_agents.atomic_files import replacing, write_json
from plastic_agents.sweep.run import PLAN, RESULT_FILE, read_json

Row = dict[str, Any]

_OUTCOME = (
    *("metric_name", "metric_is_error", "metric", "normalised_score", "oracle", "memoryless"),
    *("steps", "seconds", "status", "error"),
)
# Okabe and Ito's palette, without yellow: distinct for colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def collect(out: str | os.PathLike[str]) -> list[Row]:
    """A row for each trial of the sweep in ``out``, whether it has ended or not; what is not known is None.

    Columns: trial, recipe, algo, task, rule, cell, seed; every argument that a recipe gives its task, and every
    setting, by path (None: the task's default); metric_name, metric_is_error, metric and normalised_score on held-out
    episodes at the end, with the oracle's metric and the memoryless player's; steps; seconds of training; status
    ("finished", "diverged", "failed" or "unfinished"); error.

    Raises:
        FileNotFoundError: there is no sweep.
        ValueError: a file cannot be read.
    """
    out = Path(out)
    if not (out / PLAN).exists():
        raise FileNotFoundError(f"{out} holds no sweep: there is no {PLAN}")
    trials = read_json(out / PLAN)["trials"]
    settings = [
        {**{f"task.{name}": value for name, value in trial["task_arguments"].items()}, **trial["settings"]}
        for trial in trials
    ]
    paths = dict.fromkeys(path for own in settings for path in own)
    rows = []
    for trial, own in zip(trials, settings, strict=True):
        path = out / "trials" / trial["name"] / RESULT_FILE
        outcome = read_json(path) if path.exists() else {"status": "unfinished"}
        network = trial["network"]
        row = {"trial": trial["name"], "recipe": trial["recipe_name"], "algo": trial["algo"], "task": trial["task"]}
        row |= {"rule": network["rule"], "cell": network["cell"], "seed": trial["training"]["seed"]}
        rows.append({**row, **paths, **own, **{name: outcome.get(name) for name in _OUTCOME}})
    return rows


def write_results(out: str | os.PathLike[str]) -> list[Row]:
    """Write ``results.csv``, ``results.json`` and, once a trial is finished, ``results.png`` into ``out``."""
    out, rows = Path(out), collect(out)
    write_json(out / "results.json", rows)
    with replacing(out / "results.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    if any(row["status"] == "finished" for row in rows):
        with replacing(out / "results.png") as path:
            sweep_figure(rows).savefig(path)
    return rows


class Group(NamedTuple):
    """Trials that differ in their seed only.

    Attributes:
        task: with those of its arguments that vary in the sweep.
        network: rule, with the cell and the recipe where these are needed to tell networks apart.
        variant: the other settings that vary.
        rows: all of them.
        finished: those that are.
    """

    task: str
    network: str
    variant: str
    rows: list[Row]
    finished: list[Row]

    def spread(self, name: str) -> Estimate:
        """A column's mean over the seeds that are finished, with the lowest and the highest."""
        return mean_and_range([row[name] for row in self.finished])


def group(rows: Sequence[Row]) -> list[Group]:
    """Trials by what they have in common but for their seed, in the order of the plan."""
    # Between recipes of the same task, too, arguments may differ.
    tasks = {row["task"] for row in rows}
    varied = [
        path
        for path in rows[0]
        if "." in path
        and path not in ("network.rule", "network.cell")  # these name the network
        and len({(row["task"], repr(row[path])) for row in rows}) > len(tasks)
    ]

    def text(row: Row, kinds: Sequence[str]) -> str:
        chosen = [path for path in varied if path.partition(".")[0] in kinds]
        if kinds == ("task",):
            chosen = [path for path in chosen if row[path] is not None]  # else the default, or of another task
        return ", ".join(f"{path.rpartition('.')[2]}={row[path]}" for path in chosen)

    def task(row: Row) -> str:
        arguments = text(row, ("task",))
        return row["task"].rpartition("/")[2] + (f"\n{arguments}" if arguments else "")

    members: dict[Hashable, list[Row]] = {}
    for row in rows:
        key = (task(row), row["recipe"], row["rule"], row["cell"], text(row, ("network", "training")))
        members.setdefault(key, []).append(row)
    names = _short_names(
        [(same[0]["task"], same[0]["rule"], same[0]["cell"], same[0]["recipe"]) for same in members.values()]
    )
    return [
        Group(
            task(same[0]),
            name,
            text(same[0], ("network", "training")),
            same,
            [row for row in same if row["status"] == "finished"],
        )
        for name, same in zip(names, members.values(), strict=True)
    ]


def _short_names(networks: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of networks (task, rule, cell, recipe): the rule, and what else is needed to tell them apart on a task."""
    for parts in (1, 2, 3):
        if len({network[: 1 + parts] for network in networks}) == len(set(networks)):
            break
    return [" ".join(network[1 : 1 + parts]) for network in networks]


def sweep_figure(rows: Sequence[Row]) -> Figure:
    """The metric of each network, a panel for each task: every seed, their mean, and their range.

    The oracle and the memoryless player are drawn as lines. Settings that vary are told by colour. Trials that are not
    finished are left out, and the labels say how many there are.
    """
    groups = group(rows)
    tasks = list(dict.fromkeys(one.task for one in groups if one.finished))
    variants = list(dict.fromkeys(one.variant for one in groups))
    many = colormaps["viridis"](np.linspace(0, 1, len(variants)))
    colours = _COLOURS if len(variants) <= len(_COLOURS) else [to_hex(colour) for colour in many]
    width = max(4.8, 1.2 + 3.4 * len(tasks))
    figure = Figure(figsize=(width, 4.4), layout="constrained", dpi=150)
    handles: dict[str, Artist] = {}
    for panel, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        here = [one for one in groups if one.task == task]
        networks = list(dict.fromkeys(one.network for one in here))
        finished = [one for one in here if one.finished]
        for player, colour, line in (("oracle", "black", "--"), ("memoryless", "0.45", ":")):
            level = fmean(one.spread(player).mean for one in finished)
            panel.axhline(level, color=colour, linestyle=line, linewidth=1.6, label=player)
        for one in finished:
            place = variants.index(one.variant)
            x, colour = networks.index(one.network) + 0.7 * ((place + 0.5) / len(variants) - 0.5), colours[place]
            seeds = [row["metric"] for row in one.finished]
            panel.plot([x] * len(seeds), seeds, "o", color=colour, markersize=5, alpha=0.4, markeredgewidth=0)
            mean, low, high = one.spread("metric")
            bar = ([mean - low], [high - mean])
            label = one.variant or "mean and range over seeds"
            panel.errorbar(x, mean, bar, fmt="_", color=colour, markersize=18, markeredgewidth=2, label=label)
        panel.set_xticks(range(len(networks)), [_label(name, here) for name in networks])
        panel.set_xlim(-0.6, len(networks) - 0.4)
        panel.set_title(task)
        panel.set_ylabel(finished[0].finished[0]["metric_name"])
        if finished[0].finished[0]["metric_is_error"]:
            panel.set_ylim(bottom=0)
        panel.spines[["top", "right"]].set_visible(False)
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    fitting = max(1, int(width / (0.6 + 0.08 * max(map(len, handles)))))  # columns; inches, of a handle and of letters
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=fitting, frameon=False)
    return figure


def _label(network: str, groups: Sequence[Group]) -> str:
    """The name of a network, and how many of its trials are finished where it is not all."""
    same = [one for one in groups if one.network == network]
    planned, finished = (sum(len(getattr(one, part)) for one in same) for part in ("rows", "finished"))
    return network if planned == finished else f"{network}\n({finished} of {planned})"


def sweep_table(rows: Sequence[Row], title: str = "") -> Table:
    """A line for each group of seeds: the metric's mean and half its range, beside the oracle's and without memory."""
    groups = group(rows)
    table = Table(title=title or None, caption="± half the range over seeds; normalised: memoryless 0, oracle 1")
    left = ("task", "network", "settings") if any(one.variant for one in groups) else ("task", "network")
    for column in (*left, "metric", "normalised", "oracle", "memoryless", "seeds"):
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    for one in groups:
        found = ["-"] * 4
        if one.finished:
            found = [format_estimate(one.spread("metric"))]
            scores = [row["normalised_score"] for row in one.finished if row["normalised_score"] is not None]
            found.append(f"{fmean(scores):.2f}" if scores else "-")
            found += [f"{one.spread(player).mean:.3f}" for player in ("oracle", "memoryless")]
        words = (one.task.replace("\n", " "), one.network, one.variant)[: len(left)]
        table.add_row(*words, *found, f"{len(one.finished)} of {len(one.rows)}")
    return table
