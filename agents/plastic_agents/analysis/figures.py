"""Figures of probes and traces, with the same colours everywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from plastic_agents.analysis.report import BY_SHOWING, BY_STEP, Report
from plastic_agents.analysis.traces import Trace

# Okabe and Ito's palette, which colour-blind readers can tell apart. Further curves repeat it with other lines.
_PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_LINES = ("-", "--", ":", "-.")


def trace_figure(trace: Trace, query_start: int, title: str = "") -> Figure:
    """Draw the rate eta, and the norm and effective rank of the fast matrices, over the steps of an episode.

    The figure has no panel for quantities that the agent does not have.

    Args:
        trace: the trace to draw.
        query_start: step of the first query, marked in each panel.
        title: text above all panels.

    Raises:
        ValueError: the trace is empty.
    """
    if trace.is_empty:
        raise ValueError("trace must have a rate eta or fast matrices, got an empty trace")
    matrices = (("Frobenius norm", trace.norm), ("effective rank", trace.rank)) if trace.norm else ()
    n_panels = (trace.eta is not None) + len(matrices)
    figure = Figure(figsize=(3.5 * n_panels, 3.6), layout="constrained", dpi=150)
    panels = list(figure.subplots(1, n_panels, squeeze=False)[0])
    if trace.eta is not None:
        panels[0].plot(range(len(trace.eta)), trace.eta, "o-", color="black", markersize=3)
        panels[0].set_ylabel("rate eta")
    for panel, (quantity, values_by_name) in zip(panels[n_panels - len(matrices) :], matrices, strict=True):
        for index, (name, values) in enumerate(values_by_name.items()):
            colour = _PALETTE[index % len(_PALETTE)]
            line = _LINES[index // len(_PALETTE) % len(_LINES)]
            label = name.replace("_", " ")
            panel.plot(range(len(values)), values, f"o{line}", color=colour, markersize=3, label=label)
        panel.set_ylabel(f"{quantity} of the fast weight")
    for panel in panels:
        panel.axvline(query_start, color="0.45", linestyle=":", linewidth=1.6)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("step of the episode (dotted: first query)")
        panel.spines[["top", "right"]].set_visible(False)
    if matrices:
        handles, labels = panels[-1].get_legend_handles_labels()
        ncols = _legend_columns(labels, 4, figure)
        figure.legend(handles, labels, loc="outside lower center", ncols=ncols, frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def adaptation_figure(reports: Mapping[str, Report], title: str = "", axis: str | None = None) -> Figure:
    """Draw the adaptation curves of all interventions, with a panel for each network, on common axes.

    Bands are the intervals of the reports: 95 % intervals over episodes, or the range over training seeds. Lines show
    the curve of the oracle and the mean score of the memoryless policy.

    Args:
        reports: reports on the same task and episodes, by the name of the network.
        title: text above all panels.
        axis: the quantity on the x axis, `plastic_agents.analysis.report.BY_STEP` or `BY_SHOWING`; by default the
            latter if items repeat.
    """
    reference = next(iter(reports.values()))
    axis = axis or (BY_SHOWING if BY_SHOWING in reference.oracle_curves else BY_STEP)
    figure = Figure(figsize=(max(6.4, 1.2 + 3.4 * len(reports)), 4.1), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(reports), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (network, report) in zip(panels, reports.items(), strict=True):
        oracle = report.oracle_curves[axis]
        panel.plot(oracle.x, oracle.mean, color="black", linestyle="--", linewidth=1.6, label=report.oracle_name)
        panel.axhline(report.memoryless.mean, color="0.45", linestyle=":", linewidth=1.6, label="memoryless")
        for name, result in report.items():
            curve = result.curves[axis]
            # Interventions without effect coincide with the intact curve, which is drawn on top of them.
            order = 3 if name == "intact" else 2
            panel.plot(curve.x, curve.mean, "o-", color=result.colour, markersize=4, label=result.label, zorder=order)
            panel.fill_between(curve.x, curve.low, curve.high, color=result.colour, alpha=0.2, linewidth=0)
        panel.set_title(network)
        panel.set_xlabel(axis)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(reference.metric_name)
    if reference.metric_is_error:
        panels[0].set_ylim(bottom=0)
    if len(reference.oracle_curves[axis].x) <= 12:
        panels[0].set_xticks(reference.oracle_curves[axis].x)
    else:
        panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    ncols = _legend_columns(handles, {1: 3, 2: 4}.get(len(reports), 6 if len(handles) <= 6 else 4), figure)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols, frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def _legend_columns(labels: Collection[str], max_columns: int, figure: Figure) -> int:
    """Return the largest number of legend columns, at most ``max_columns``, that fits into the figure's width."""
    lengths = [len(label) for label in labels]
    for n_columns in range(max_columns, 1, -1):
        # Matplotlib fills columns one after the other; the first ones have one more entry if they are uneven.
        widths = [0.65 + 0.075 * int(column.max(initial=0)) for column in np.array_split(lengths, n_columns)]
        if sum(widths) <= figure.get_figwidth():  # inches, of the handles and of the letters
            return n_columns
    return 1
