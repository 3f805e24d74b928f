"""Figures of probes, of traces and of fast weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from plastic_agents.analysis.colours import ETA, distinct_styles, layer_colours, line_widths
from plastic_agents.analysis.report import BY_SHOWING, BY_STEP, Report, check_reports
from plastic_agents.analysis.traces import Trace
from plastic_envs.rendering import NEGATIVE, POSITIVE
from plastic_envs.validation import one_of

SIGNED = LinearSegmentedColormap.from_list("signed", np.divide((NEGATIVE, (255, 255, 255), POSITIVE), 255))
"""The colours of numbers with a sign on a white ground: blue is negative, orange positive."""

_HEIGHT, _GAP = 1.9, 0.3  # of heat maps and between them, in inches


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
        panels[0].plot(range(len(trace.eta)), trace.eta, "o-", color=ETA, markersize=3)
        panels[0].set_ylabel("rate eta")
    for panel, (quantity, values_by_name) in zip(panels[n_panels - len(matrices) :], matrices, strict=True):
        styles = distinct_styles(layer_colours(values_by_name))
        for name, width in zip(values_by_name, line_widths(len(values_by_name)), strict=True):
            values, label, (colour, line) = values_by_name[name], name.replace("_", " "), styles[name]
            panel.plot(range(len(values)), values, line, color=colour, linewidth=width, label=label)
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


def fast_weights_figure(matrices: Mapping[str, np.ndarray], title: str = "") -> Figure:
    """Draw the fast weights of each layer as a heat map.

    The strongest colours are for the weight in the title of the layer. Units keep their order, so figures of several
    steps of training can be compared.

    Args:
        matrices: by the name of the matrix (see `plastic_agents.analysis.traces.fast_matrices`), fast weights
            [..., m, n]; leading axes are drawn below one another.
        title: text above all panels.

    Raises:
        ValueError: there are no matrices.
    """
    if not matrices:
        raise ValueError("matrices must be one or more, got none")
    pictures = {name: upright(matrix[None])[0] for name, matrix in matrices.items()}
    widths = [_HEIGHT * panel_ratio(picture) for picture in pictures.values()]
    figure = Figure(figsize=(sum(widths) + _GAP * (len(widths) + 1), _HEIGHT + 1.3), dpi=100)
    # Evaluations during training draw this figure, and further axes would take most of the time.
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    bottom, x = 0.5, _GAP
    for (name, picture), width in zip(pictures.items(), widths, strict=True):
        limit, extent = weight_limit(picture), (x, x + width, bottom, bottom + _HEIGHT)
        axes.imshow(picture / limit, cmap=SIGNED, vmin=-1, vmax=1, extent=extent)
        axes.add_patch(Rectangle((x, bottom), width, _HEIGHT, fill=False, linewidth=0.8))
        label = f"{layer_label(name)}\n±{limit:.2g}"
        axes.text(x + width / 2, bottom + _HEIGHT + 0.05, label, fontsize=9, ha="center", va="bottom")
        x += width + _GAP
    middle = x / 2
    axes.imshow(np.linspace(-1, 1, 64)[None], cmap=SIGNED, extent=(middle - 0.6, middle + 0.6, 0.2, 0.3))
    axes.text(middle - 0.7, 0.25, "negative", fontsize=8, ha="right", va="center")
    axes.text(middle + 0.7, 0.25, "positive", fontsize=8, ha="left", va="center")
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(0, figure.get_figheight()), aspect="auto")  # inches
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def upright(matrices: np.ndarray) -> np.ndarray:
    """Return matrices [K, ..., m, n] as [K, M, N], transposed if they are wider than high: such panels fit in a row."""
    matrices = matrices.reshape(len(matrices), -1, matrices.shape[-1])
    return matrices.swapaxes(1, 2) if matrices.shape[1] < matrices.shape[2] else matrices


def panel_ratio(matrix: np.ndarray) -> float:
    """Return the width of a matrix's panel in heights."""
    return float(np.clip(matrix.shape[-1] / matrix.shape[-2], 0.2, 2))


def weight_limit(weights: np.ndarray) -> float:
    """Return the weight with the strongest colour, above 0; at most 1 % of the weights are larger."""
    sizes = np.abs(weights)
    return float(np.quantile(sizes, 0.99)) or float(sizes.max()) or 1.0


def layer_label(name: str) -> str:
    """Return the text for the name of a layer."""
    return name.replace("_to_", " → ").replace("_", " ")


def adaptation_figure(reports: Mapping[str, Report], title: str = "", axis: str | None = None) -> Figure:
    """Draw the adaptation curves of all interventions, with a panel for each network, on common axes.

    Bands are the intervals of the reports: 95 % intervals over episodes, or the range over training seeds. Lines show
    the curve of the oracle and the mean score of the memoryless policy. The first intervention has the widest line and
    lies below the others, so curves that coincide are all visible.

    Args:
        reports: reports on the same task and episodes, by the name of the network.
        title: text above all panels, by default the name of the task. The number of episodes and seeds follows it.
        axis: the quantity on the x axis, `plastic_agents.analysis.report.BY_STEP` or `BY_SHOWING`; by default the
            latter if items repeat.

    Raises:
        TypeError: ``reports`` is anything else.
        ValueError: the reports have no such axis.
    """
    check_reports(reports)
    reference = next(iter(reports.values()))
    if axis is not None:
        one_of("axis", axis, tuple(reference.oracle_curves))
    axis = axis or (BY_SHOWING if BY_SHOWING in reference.oracle_curves else BY_STEP)
    figure = Figure(figsize=(max(6.4, 1.2 + 3.4 * len(reports)), 4.3), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(reports), sharex=True, sharey=True, squeeze=False)[0]
    # Networks without fast weights lack interventions, which must not change the lines of the others.
    colours = {name: result.colour for report in reports.values() for name, result in report.items()}
    styles, widths = distinct_styles(colours), dict(zip(colours, line_widths(len(colours)), strict=True))
    for panel, (network, report) in zip(panels, reports.items(), strict=True):
        oracle = report.oracle_curves[axis]
        panel.plot(oracle.x, oracle.mean, color="black", linestyle="--", linewidth=1.6, label=report.oracle_name)
        panel.axhline(report.memoryless.mean, color="0.45", linestyle=":", linewidth=1.6, label="memoryless")
        for name, result in report.items():
            curve, (colour, line), width = result.curves[axis], styles[name], widths[name]
            marker = {"marker": "o", "markersize": 2.5 + width}
            panel.plot(curve.x, curve.mean, line, color=colour, linewidth=width, label=result.label, **marker)
            panel.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        panel.set_title(network, fontsize=11)
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
    n_rows = -(-len(handles) // ncols)
    figure.set_figheight(4.3 + 0.22 * max(0, n_rows - 2))
    figure.suptitle(f"{title or reference.task.partition('(')[0]}\n{_numbers(reports.values())}", fontsize=11)
    return figure


def _numbers(reports: Collection[Report]) -> str:
    """Return the numbers of episodes and of training seeds, and what the bands are."""
    report, seeds = next(iter(reports)), sorted({report.n_seeds for report in reports})
    episodes = f"{report.episodes} {report.split} episodes"
    if seeds == [1]:
        return f"{episodes}, band: 95 % interval"
    return f"{episodes}, {' or '.join(map(str, seeds))} training seeds, band: lowest and highest"


def _legend_columns(labels: Collection[str], max_columns: int, figure: Figure) -> int:
    """Return the largest number of legend columns, at most ``max_columns``, that fits into the figure's width."""
    lengths = [len(label) for label in labels]
    for n_columns in range(max_columns, 1, -1):
        # Matplotlib fills columns one after the other; the first ones have one more entry if they are uneven.
        widths = [0.65 + 0.075 * int(column.max(initial=0)) for column in np.array_split(lengths, n_columns)]
        if sum(widths) <= figure.get_figwidth():  # inches, of the handles and of the letters
            return n_columns
    return 1
