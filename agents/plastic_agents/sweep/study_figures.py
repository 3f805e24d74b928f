"""Figures of studies: the scores of all seeds, and curves against steps and training time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from plastic_agents.analysis.colours import network_styles
from plastic_agents.analysis.statistics import mean_and_range
from plastic_agents.models.config import NO_PLASTICITY
from plastic_agents.sweep.studies import Study
from plastic_agents.sweep.study_scores import Cell, baseline, metric_name, metrics_of_seeds, ranked


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
    figure = Figure(figsize=(9.6, 4.2), layout="constrained", dpi=120)
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
    of_minutes.set_xscale("log")
    of_minutes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    of_minutes.xaxis.set_major_formatter("{x:g}")
    of_minutes.xaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(f"{study.title}: mean and range over {_seeds(cells)}", fontsize=10)
    if of_minutes.get_legend_handles_labels()[0]:
        of_minutes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _seeds(cells: Mapping[str, Cell]) -> str:
    """Return the number of finished training seeds, from that of the method with the fewest to that with the most."""
    numbers = [len(scores) for scores in metrics_of_seeds(cells).values()]
    low, high = min(numbers, default=0), max(numbers, default=0)
    return f"{low} training seeds" if low == high else f"{low} to {high} training seeds"


def _draw_baselines(draw_line: Callable[..., Any], study: Study, cells: Mapping[str, Cell]) -> None:
    for name, label, line in (("oracle", study.oracle_name, "--"), ("memoryless", "memoryless", ":")):
        level = baseline(cells, name)
        if level is not None:
            draw_line(level, color="0.3", linestyle=line, linewidth=1.2, label=label)
