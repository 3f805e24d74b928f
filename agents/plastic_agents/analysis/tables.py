"""Reports and traces as tables on the terminal, and as files."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.table import Table

from plastic_agents.analysis.figures import adaptation_figure, trace_figure
from plastic_agents.analysis.report import InterventionResult, Report
from plastic_agents.analysis.statistics import Estimate, Estimates
from plastic_agents.analysis.traces import Trace
from plastic_agents.atomic_files import replacing, write_json
from plastic_envs.validation import one_of


def format_estimate(value: Estimate) -> str:
    """Return a mean with half the width of its interval, to three decimals."""
    return f"{value.mean:.3f} ± {(value.high - value.low) / 2:.3f}"


def report_table(report: Report, title: str = "") -> Table:
    """Return a table with a row for each intervention, and the oracle and the memoryless policy below.

    Each secondary metric of the task has a column, scored against the episode's own targets.
    """
    table = Table(title=title or None, caption=_caption(report))
    secondary = list(report.oracle_secondary_metrics)
    # On a narrow terminal labels are wrapped, and numbers are not.
    table.add_column("intervention")
    for column in ("own targets", "twin's targets", "normalised", *map(secondary_header, secondary)):
        table.add_column(column, justify="right", no_wrap=True)
    for result in report.values():
        table.add_row(
            result.label,
            format_estimate(result.metric),
            format_estimate(result.twin_metric),
            f"{result.normalised_score:.2f}",
            *_secondary_cells(secondary, result.secondary_metrics),
        )
    table.add_section()
    for label, value, score, metrics in (
        ("oracle", report.oracle, "1.00", report.oracle_secondary_metrics),
        ("memoryless", report.memoryless, "0.00", report.memoryless_secondary_metrics),
    ):
        table.add_row(label, format_estimate(value), "", score, *_secondary_cells(secondary, metrics))
    return table


def secondary_header(name: str) -> str:
    """Return the header of a column with a secondary metric, in lines that are about as wide as an estimate."""
    return textwrap.fill(name.replace("_", " "), 13)


def _secondary_cells(names: Iterable[str], metrics: Estimates) -> list[str]:
    """Return a cell for each of the names, with "-" for metrics that are unknown."""
    return [format_estimate(metrics[name]) if name in metrics else "-" for name in names]


def comparison_table(reports: Mapping[str, Report], title: str = "", targets: Literal["own", "twin"] = "own") -> Table:
    """Return a table with a row for each intervention and a column for each network.

    The secondary metrics of the task have a row below the intact networks, the oracle and the memoryless policy.
    `report_table` has them for all interventions.

    Args:
        reports: reports on the same episodes, by the name of the network.
        title: text above the table.
        targets: the targets that the actions are scored against, ``"own"`` for those of the episode or ``"twin"`` for
            those of its twin.

    Raises:
        TypeError, ValueError: ``targets`` is anything else.
    """
    is_own = one_of("targets", targets, ("own", "twin")) == "own"
    table = Table(title=title or None, caption=_caption(next(iter(reports.values()))))
    table.add_column("", no_wrap=True)
    for network in reports:
        table.add_column(network, justify="right", no_wrap=True)
    for name, label in _labels(reports).items():
        results = [report.get(name) for report in reports.values()]
        table.add_row(label, *(_cell(result, is_own) for result in results))
        if name == "intact" and is_own and all(results):
            scores = [f"{result.normalised_score:.2f}" for result in results if result is not None]
            table.add_row("  normalised score", *scores)
            _add_secondary_rows(table, [result.secondary_metrics for result in results if result is not None])
    if is_own:
        table.add_section()
        table.add_row("oracle", *(format_estimate(report.oracle) for report in reports.values()))
        _add_secondary_rows(table, [report.oracle_secondary_metrics for report in reports.values()])
        table.add_row("memoryless", *(format_estimate(report.memoryless) for report in reports.values()))
        _add_secondary_rows(table, [report.memoryless_secondary_metrics for report in reports.values()])
    return table


def _add_secondary_rows(table: Table, metrics: Sequence[Estimates]) -> None:
    """Add a row for each secondary metric that at least one network has."""
    for name in dict.fromkeys(name for network_metrics in metrics for name in network_metrics):
        cells = [_secondary_cells([name], network_metrics)[0] for network_metrics in metrics]
        table.add_row(f"  {name.replace('_', ' ')}", *cells)


def _labels(reports: Mapping[str, Report]) -> dict[str, str]:
    """Return the labels of all interventions by name, in the order of the report with the most of them.

    Networks without fast weights have fewer interventions; their reports must not decide the order.
    """
    labels: dict[str, str] = {}
    for report in sorted(reports.values(), key=len, reverse=True):
        for name, result in report.items():
            labels.setdefault(name, result.label)
    return labels


def _cell(result: InterventionResult | None, is_own: bool) -> str:
    if result is None:
        return "-"
    return format_estimate(result.metric if is_own else result.twin_metric)


def _caption(report: Report) -> str:
    return (
        f"{report.metric_name}, {report.episodes} {report.split} episodes; ± half the {report.spread}; "
        "normalised: memoryless 0, oracle 1"
    )


def write_trace(folder: str | os.PathLike[str], trace: Trace, query_start: int) -> None:
    """Write ``trace.json`` and ``trace.png`` into ``folder``, each atomically.

    Raises:
        ValueError: the trace is empty.
    """
    figure = trace_figure(trace, query_start)
    write_json(Path(folder) / "trace.json", asdict(trace))
    with replacing(Path(folder) / "trace.png") as path:
        figure.savefig(path)


def write_report(folder: str | os.PathLike[str], reports: Mapping[str, Report], title: str = "") -> None:
    """Write ``report.json`` and ``adaptation.png`` into ``folder``, each atomically."""
    write_json(Path(folder) / "report.json", {name: report.to_json() for name, report in reports.items()})
    with replacing(Path(folder) / "adaptation.png") as path:
        adaptation_figure(reports, title).savefig(path)
