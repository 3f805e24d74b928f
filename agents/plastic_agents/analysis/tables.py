"""Reports and traces as tables on the terminal, and as files."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.markup import escape
from rich.table import Table

from plastic_agents.analysis.figures import adaptation_figure, trace_figure
from plastic_agents.analysis.report import Report, check_reports
from plastic_agents.analysis.statistics import Estimates, format_estimate
from plastic_agents.analysis.traces import Trace
from plastic_agents.atomic_files import replacing, write_json
from plastic_envs.validation import one_of


def report_table(report: Report, title: str = "") -> Table:
    """Return a table with a row for each intervention, and the oracle and the memoryless policy below.

    Each secondary metric of the task has a column, scored against the episode's own targets.
    """
    table = Table(title=title or None, caption=escape(_caption(report)))
    secondary = list(report.oracle_secondary_metrics)
    # On a narrow terminal labels are wrapped, and numbers with half an interval are not.
    table.add_column("intervention")
    for column in ("own targets", "twin's targets", "normalised", *map(secondary_header, secondary)):
        table.add_column(column, justify="right", no_wrap=report.n_seeds == 1)
    for result in report.values():
        table.add_row(
            result.label,
            format_estimate(result.metric, report.n_seeds),
            format_estimate(result.twin_metric, report.n_seeds),
            format_estimate(result.normalised, report.n_seeds, 2),
            *_secondary_cells(secondary, result.secondary_metrics, report.n_seeds),
        )
    table.add_section()
    for label, value, score, metrics in (
        (report.oracle_name, report.oracle, "1.00", report.oracle_secondary_metrics),
        ("memoryless", report.memoryless, "0.00", report.memoryless_secondary_metrics),
    ):
        table.add_row(label, format_estimate(value), "", score, *_secondary_cells(secondary, metrics))
    return table


def secondary_header(name: str) -> str:
    """Return the header of a column with a secondary metric, in lines that are about as wide as an estimate."""
    return textwrap.fill(name.replace("_", " "), 13)


def _secondary_cells(names: Iterable[str], metrics: Estimates, n_seeds: int = 1) -> list[str]:
    """Return a cell for each of the names, with "-" for metrics that are unknown."""
    return [format_estimate(metrics[name], n_seeds) if name in metrics else "-" for name in names]


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
        TypeError, ValueError: ``reports`` or ``targets`` is anything else.
    """
    check_reports(reports)
    is_own = one_of("targets", targets, ("own", "twin")) == "own"
    first = next(iter(reports.values()))
    table = Table(title=title or None, caption=escape(_caption(first)))
    table.add_column("", no_wrap=True)
    for network, report in reports.items():
        table.add_column(network, justify="right", no_wrap=report.n_seeds == 1)
    for name, label in _labels(reports).items():
        table.add_row(label, *(_cell(report, name, is_own) for report in reports.values()))
        if name == "intact" and is_own and all(name in report for report in reports.values()):
            intact = {network: report[name] for network, report in reports.items()}
            seeds = [report.n_seeds for report in reports.values()]
            scores = [
                format_estimate(result.normalised, n, 2) for result, n in zip(intact.values(), seeds, strict=True)
            ]
            table.add_row("  normalised score", *scores)
            _add_secondary_rows(table, [result.secondary_metrics for result in intact.values()], seeds)
    if is_own:
        table.add_section()
        table.add_row(first.oracle_name, *(format_estimate(report.oracle) for report in reports.values()))
        _add_secondary_rows(table, [report.oracle_secondary_metrics for report in reports.values()])
        table.add_row("memoryless", *(format_estimate(report.memoryless) for report in reports.values()))
        _add_secondary_rows(table, [report.memoryless_secondary_metrics for report in reports.values()])
    return table


def _add_secondary_rows(table: Table, metrics: Sequence[Estimates], seeds: Sequence[int] | None = None) -> None:
    """Add a row for each secondary metric that at least one network has.

    Args:
        table: the table.
        metrics: the metrics of each network.
        seeds: number of training seeds of each network; None for metrics that no network has influenced.
    """
    for name in dict.fromkeys(name for network_metrics in metrics for name in network_metrics):
        cells = [
            _secondary_cells([name], network_metrics, n_seeds)[0]
            for network_metrics, n_seeds in zip(metrics, seeds or [1] * len(metrics), strict=True)
        ]
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


def _cell(report: Report, name: str, is_own: bool) -> str:
    if name not in report:
        return "-"
    result = report[name]
    return format_estimate(result.metric if is_own else result.twin_metric, report.n_seeds)


def _caption(report: Report) -> str:
    over_episodes = "± half the 95 % interval over episodes"
    if report.n_seeds > 1:
        baselines = f"{report.oracle_name} and memoryless {over_episodes}"
        intervals = f"mean [lowest, highest] of {report.n_seeds} training seeds; {baselines}"
    else:
        intervals = over_episodes
    return (
        f"{report.metric_name}, {report.episodes} {report.split} episodes (seed {report.seed}); {intervals}; "
        f"normalised: memoryless 0, {report.oracle_name} 1"
    )


def write_trace(folder: str | os.PathLike[str], trace: Trace, query_start: int, title: str = "") -> None:
    """Write ``trace.json`` and ``trace.png`` into ``folder``, each atomically.

    Raises:
        ValueError: the trace is empty.
    """
    figure = trace_figure(trace, query_start, title)
    write_json(Path(folder) / "trace.json", asdict(trace))
    with replacing(Path(folder) / "trace.png") as path:
        figure.savefig(path)


def write_report(folder: str | os.PathLike[str], reports: Mapping[str, Report], title: str = "") -> None:
    """Write ``report.json`` and ``adaptation.png`` into ``folder``, each atomically."""
    write_json(Path(folder) / "report.json", {name: report.to_json() for name, report in reports.items()})
    with replacing(Path(folder) / "adaptation.png") as path:
        adaptation_figure(reports, title).savefig(path)
