"""Reports and traces as tables on the terminal, and as files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.table import Table

from plastic_agents.analysis.figures import adaptation_figure, trace_figure
from plastic_agents.analysis.report import InterventionResult, Report
from plastic_agents.analysis.statistics import Estimate
from plastic_agents.analysis.traces import Trace
from plastic_agents.atomic_files import replacing, write_json
from plastic_envs.validation import one_of


def format_estimate(value: Estimate) -> str:
    """Return a mean with half the width of its interval, to three decimals."""
    return f"{value.mean:.3f} ± {(value.high - value.low) / 2:.3f}"


def report_table(report: Report, title: str = "") -> Table:
    """Return a table with a row for each intervention, and the oracle and the memoryless policy below."""
    table = Table(title=title or None, caption=_caption(report))
    for column in ("intervention", "own targets", "twin's targets", "normalised"):
        table.add_column(column, justify="left" if column == "intervention" else "right", no_wrap=True)
    for result in report.values():
        table.add_row(
            result.label,
            format_estimate(result.metric),
            format_estimate(result.twin_metric),
            f"{result.normalised_score:.2f}",
        )
    table.add_section()
    table.add_row("oracle", format_estimate(report.oracle), "", "1.00")
    table.add_row("memoryless", format_estimate(report.memoryless), "", "0.00")
    return table


def comparison_table(reports: Mapping[str, Report], title: str = "", targets: Literal["own", "twin"] = "own") -> Table:
    """Return a table with a row for each intervention and a column for each network.

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
    if is_own:
        table.add_section()
        table.add_row("oracle", *(format_estimate(report.oracle) for report in reports.values()))
        table.add_row("memoryless", *(format_estimate(report.memoryless) for report in reports.values()))
    return table


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
        f"{report.metric_name}, {report.episodes} held-out episodes; ± half the {report.spread}; "
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
