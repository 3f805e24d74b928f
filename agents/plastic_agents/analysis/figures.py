"""Figures of adaptation, in one set of colours throughout."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from plastic_agents.analysis.probes import BY_SHOWING, BY_STEP, Report
from plastic_agents.analysis.traces import Trace

# Okabe and Ito's palette: distinct for colour-blind readers too.
COLOURS = {
    "intact": "#0072B2",
    "no_writing": "#E69F00",
    "fast_erased": "#D55E00",
    "hidden_erased": "#56B4E9",
    "transplant": "#CC79A7",
    "hidden_transplant": "#009E73",
}
LABELS = {
    "intact": "intact",
    "no_writing": "no writing",
    "fast_erased": "fast weights erased",
    "hidden_erased": "hidden state erased",
    "transplant": "twin's fast weights",
    "hidden_transplant": "twin's hidden state",
}


_LAYERS = {
    "input": ("input", "#0072B2"),
    "input_to_hidden": ("input to hidden", "#E69F00"),
    "hidden_to_hidden": ("hidden to hidden", "#009E73"),
    "readout": ("readout", "#CC79A7"),
}


def trace_figure(trace: Trace, query_start: int, title: str = "") -> Figure:
    """The rate eta, and norm and effective rank of each layer's fast weight, over the steps of an episode.

    Args:
        trace: what to draw.
        query_start: step of the first query, marked in each panel.
        title: above all panels.
    """
    figure = Figure(figsize=(10.5, 3.6), layout="constrained", dpi=150)
    panels = figure.subplots(1, 3)
    steps = range(len(trace.eta))
    panels[0].plot(steps, trace.eta, "o-", color="black", markersize=3)
    panels[0].set_ylabel("rate eta")
    for panel, values, label in ((panels[1], trace.norm, "Frobenius norm"), (panels[2], trace.rank, "effective rank")):
        for name, (text, colour) in _LAYERS.items():
            panel.plot(steps, values[name], "o-", color=colour, markersize=3, label=text)
        panel.set_ylabel(f"{label} of the fast weight")
    for panel in panels:
        panel.axvline(query_start, color="0.45", linestyle=":", linewidth=1.6)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("step of the episode (dotted: first query)")
        panel.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    if title:
        figure.suptitle(title)
    return figure


def adaptation_figure(reports: Mapping[str, Report], title: str = "", axis: str | None = None) -> Figure:
    """Adaptation curves of each intervention, one panel for each network, on common axes.

    Bands are the reports' spread: 95 % intervals over episodes, or the range over training seeds. The oracle's curve
    and the memoryless score are drawn as lines.

    Args:
        reports: reports on the same task and episodes, by the name of the network.
        title: above all panels.
        axis: what x is, `plastic_agents.analysis.probes.BY_STEP` or `BY_SHOWING`; by default the latter where items repeat.
    """
    first = next(iter(reports.values()))
    axis = axis or (BY_SHOWING if BY_SHOWING in first.oracle_curves else BY_STEP)
    figure = Figure(figsize=(max(6.4, 1.2 + 3.4 * len(reports)), 4.1), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(reports), sharex=True, sharey=True, squeeze=False)[0]
    for panel, (name, report) in zip(panels, reports.items(), strict=True):
        oracle = report.oracle_curves[axis]
        panel.plot(oracle.x, oracle.mean, color="black", linestyle="--", linewidth=1.6, label="oracle")
        panel.axhline(report.memoryless.mean, color="0.45", linestyle=":", linewidth=1.6, label="memoryless")
        for intervention, outcome in report.outcomes.items():
            colour, curve = COLOURS[intervention], outcome.curves[axis]
            # What an intervention leaves as it was lies on the intact curve: show that one.
            order = 3 if intervention == "intact" else 2
            panel.plot(curve.x, curve.mean, "o-", color=colour, markersize=4, label=LABELS[intervention], zorder=order)
            panel.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
        panel.set_title(name)
        panel.set_xlabel(axis)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(first.metric)
    if first.metric == "mean squared error":
        panels[0].set_ylim(bottom=0)
    if len(first.oracle_curves[axis].x) <= 12:
        panels[0].set_xticks(first.oracle_curves[axis].x)
    else:
        panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    handles: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols={1: 3, 2: 4}.get(len(reports), 6 if len(handles) <= 6 else 4),  # what fits under the panels
        frameon=False,
    )
    if title:
        figure.suptitle(title)
    return figure
