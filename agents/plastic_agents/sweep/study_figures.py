"""Figures of studies: the scores of all seeds, curves against steps and training time, and interventions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from plastic_agents.analysis.colours import INTERVENTION_COLOURS, network_styles
from plastic_agents.analysis.interventions import INTERVENTIONS
from plastic_agents.analysis.statistics import mean_and_range
from plastic_agents.models.config import NO_PLASTICITY
from plastic_agents.sweep.studies import Study
from plastic_agents.sweep.study_scores import Cell, baseline, metric_name, metrics_of_seeds, ranked


def overview_figure(cells: Mapping[str, Mapping[str, Cell]], studies: Mapping[str, Study]) -> Figure:
    """Draw the mean normalised score of each method in each study, 0 without memory and 1 for the oracle."""
    methods = list(dict.fromkeys(method for name in cells for method in studies[name].methods if method in cells[name]))
    grid = np.full((len(methods), len(cells)), np.nan)
    for column, of_study in enumerate(cells.values()):
        for row, method in enumerate(methods):
            test = of_study[method]["test"] if method in of_study else None
            if test and test.get("normalised_score"):
                grid[row, column] = test["normalised_score"]["mean"]
    size = (2.6 + 0.75 * len(cells), 2.2 + 0.28 * len(methods))
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.set_facecolor("0.93")
    axes.imshow(grid, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(~np.isnan(grid)):
        score = grid[row, column]
        colour = "white" if score < 0.55 else "black"
        axes.text(column, row, f"{score:.2f}", ha="center", va="center", fontsize=8, color=colour)
    titles = ["\n".join(wrap(studies[name].title, 20)) for name in cells]
    axes.set_xticks(range(len(cells)), titles, rotation=40, ha="left", rotation_mode="anchor", fontsize=8)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(methods)), methods)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def scores_figure(study: Study, cells: Mapping[str, Cell]) -> Figure:
    """Draw the metric of each seed of each method, with the best method at the top."""
    scores, order, styles = metrics_of_seeds(cells), ranked(cells), network_styles(cells)
    figure = Figure(figsize=(6.4, 1.2 + 0.28 * len(order)), layout="constrained", dpi=120)
    axes = figure.subplots()
    for row, method in enumerate(order):
        colour, is_plastic = styles[method].colour, cells[method]["settings"]["network.rule"] != NO_PLASTICITY
        mean, low, high = mean_and_range(scores[method])
        axes.plot([low, high], [row, row], color=colour, linewidth=1.5, alpha=0.5)
        fill: dict[str, Any] = {"fillstyle": "full" if is_plastic else "none", "alpha": 0.6}
        axes.plot(scores[method], [row] * len(scores[method]), "o", color=colour, markersize=4.5, **fill)
        axes.plot([mean], [row], "|", color=colour, markersize=14, markeredgewidth=2)
    _draw_baselines(axes.axvline, study, cells)
    axes.set_yticks(range(len(order)), order)
    axes.set_xlabel(f"{metric_name(cells)} on test episodes")
    axes.set_ylim(-0.6, max(len(order), 1) - 0.4)
    if all(score >= 0 for of_method in scores.values() for score in of_method):
        axes.set_xlim(left=0)
    title = f"{study.title}: {study.steps} steps, {_seeds(cells)}"
    axes.set_title(f"{title}\ndisc: plastic network, circle: without plasticity, bar: mean", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    return figure


def curves_figure(study: Study, cells: Mapping[str, Cell]) -> Figure:
    """Draw the metric on validation episodes against steps and against training time, mean and range over seeds.

    The time of a step is the mean over the run.
    """
    height = max(4.2, 0.7 + 0.17 * len(cells))  # room for the legend
    figure = Figure(figsize=(9.6, height), layout="constrained", dpi=120)
    of_steps, of_minutes = figure.subplots(1, 2, sharey=True)
    styles = network_styles(cells)
    for method in reversed(ranked(cells)):
        finals = [final for final in cells[method]["finals"] if final["status"] == "finished"]
        steps = np.array([step for step, _ in finals[0]["evaluations"]])
        metrics = np.array([[metric for _, metric in final["evaluations"]] for final in finals])
        seconds_per_step = fmean(final["seconds"] / final["steps"] for final in finals)
        colour, line = styles[method]
        for axes, x in ((of_steps, steps), (of_minutes, steps * seconds_per_step / 60)):
            axes.plot(x, metrics.mean(0), line, color=colour, label=method)
            axes.fill_between(x, metrics.min(0), metrics.max(0), color=colour, alpha=0.12, linewidth=0)
    for axes, label in ((of_steps, "steps"), (of_minutes, "minutes of training, one thread")):
        _draw_baselines(axes.axhline, study, cells)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    of_steps.set_ylabel(f"{metric_name(cells)} on validation episodes")
    of_steps.xaxis.set_major_locator(MaxNLocator(5))
    of_steps.xaxis.set_major_formatter("{x:,.0f}")
    of_minutes.set_xscale("log")
    of_minutes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    of_minutes.xaxis.set_major_formatter("{x:g}")
    of_minutes.xaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(f"{study.title}: mean and range over {_seeds(cells)}", fontsize=10)
    if of_minutes.get_legend_handles_labels()[0]:
        of_minutes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def interventions_figure(study: Study, cells: Mapping[str, Cell]) -> Figure:
    """Draw the metric of each seed of each method under the built-in interventions.

    A panel for each method, the best one first, has discs for the episode's own targets and circles for those of its
    twin. The axis ends where the intact networks do, with some margin; arrows at its ends stand for scores beyond.
    """
    methods = [method for method in reversed(ranked(cells)) if cells[method]["interventions"]]
    names = [name for name in INTERVENTIONS if any(name in cells[method]["interventions"] for method in methods)]
    n_columns = min(len(methods), 5) or 1
    n_rows = -(-len(methods) // n_columns) or 1
    size = (max(6.8, 1.8 + 1.9 * n_columns), 1.1 + 1.7 * n_rows)
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).flatten()
    levels = [level for name in ("oracle", "memoryless") if (level := baseline(cells, name, "probe")) is not None]
    levels += [value for method in methods for values in _of(cells, method, "intact").values() for value in values]
    margin = 0.1 * (max(levels) - min(levels)) if levels else 0.0
    ends = (min(levels, default=0.0) - margin, max(levels, default=1.0) + margin)
    for panel, method in zip(panels, methods, strict=False):
        for row, name in enumerate(names):
            for column, fill in (("metric", "full"), ("twin_metric", "none")):
                values = np.array(_of(cells, method, name).get(column, ()))
                for marker, shown in (
                    ("o", (values >= ends[0]) & (values <= ends[1])),
                    ("<", values < ends[0]),
                    (">", values > ends[1]),
                ):
                    style: dict[str, Any] = {"color": INTERVENTION_COLOURS[name], "fillstyle": fill, "markersize": 5}
                    points = values[shown].clip(*ends)
                    panel.plot(points, [row] * len(points), marker, alpha=0.7, **style)
        _draw_baselines(panel.axvline, study, cells, "probe")
        panel.set_title(method, fontsize=9 if len(method) < 24 else 7)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(methods) :]:
        panel.set_axis_off()
    for panel in panels[max(len(methods) - n_columns, 0) : len(methods)]:
        panel.tick_params(labelbottom=True)  # of the lowest panel of each column
    panels[0].set_xlim(ends[0] - 0.3 * margin, ends[1] + 0.3 * margin)  # room for whole arrows
    panels[0].set_yticks(range(len(names)), [INTERVENTIONS[name].label for name in names])
    panels[0].set_ylim(max(len(names), 1) - 0.5, -0.5)
    figure.supxlabel(f"{metric_name(cells)} on test episodes", fontsize=9)
    title = f"{study.title}: interventions, {_seeds(cells)}"
    targets = "disc: the episode's own targets, circle: those of its twin"
    figure.suptitle(f"{title}\n{targets}; dashed: {study.oracle_name}, dotted: memoryless", fontsize=10)
    return figure


def _of(cells: Mapping[str, Cell], method: str, intervention: str) -> Mapping[str, list[float]]:
    """Return the scores of each seed under an intervention, none if the method has no such state."""
    scores: Mapping[str, list[float]] = cells[method]["interventions"].get(intervention, {})
    return scores


def _seeds(cells: Mapping[str, Cell]) -> str:
    """Return the number of finished training seeds, from that of the method with the fewest to that with the most."""
    numbers = [len(scores) for scores in metrics_of_seeds(cells).values()]
    low, high = min(numbers, default=0), max(numbers, default=0)
    if low == high:
        return f"{low} training seed{'s' * (low != 1)}"
    return f"{low} to {high} training seeds"


def _draw_baselines(draw_line: Callable[..., Any], study: Study, cells: Mapping[str, Cell], part: str = "test") -> None:
    for name, label, line in (("oracle", study.oracle_name, "--"), ("memoryless", "memoryless", ":")):
        level = baseline(cells, name, part)
        if level is not None:
            draw_line(level, color="0.3", linestyle=line, linewidth=1.2, label=label)
