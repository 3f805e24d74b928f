"""Reports for people and programs: tables on the terminal, a figure and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from rich.table import Table

from plastic_agents.analysis.figures import LABELS, adaptation_figure, trace_figure
from plastic_agents.analysis.probes import Estimate, Report
from plastic_agents.analysis.traces import Trace
from plastic_agents.atomic_files import replacing


def interval(value: Estimate) -> str:
    """A mean with half the width of its interval, to three decimals."""
    return f"{value.mean:.3f} ± {(value.high - value.low) / 2:.3f}"


def report_table(report: Report, title: str = "") -> Table:
    """One network: a row for each intervention, with the oracle and the memoryless player below."""
    table = Table(title=title or None, caption=_caption(report))
    for column in ("intervention", "own targets", "twin's targets", "normalised"):
        table.add_column(column, justify="left" if column == "intervention" else "right", no_wrap=True)
    for name, outcome in report.outcomes.items():
        table.add_row(LABELS[name], interval(outcome.own), interval(outcome.twin), f"{outcome.normalised_score:.2f}")
    table.add_section()
    table.add_row("oracle", interval(report.oracle), "", "1.00")
    table.add_row("memoryless", interval(report.memoryless), "", "0.00")
    return table


def comparison_table(reports: Mapping[str, Report], title: str = "", against: Literal["own", "twin"] = "own") -> Table:
    """Several networks on the same episodes: a row for each intervention, a column for each network.

    Args:
        reports: by name of the network.
        title: above the table.
        against: whose targets the answers are held against, the episode's own or its twin's.
    """
    first = next(iter(reports.values()))
    table = Table(title=title or None, caption=_caption(first))
    table.add_column("", no_wrap=True)
    for name in reports:
        table.add_column(name, justify="right", no_wrap=True)
    for key, label in LABELS.items():
        outcomes = [report.outcomes.get(key) for report in reports.values()]
        if any(outcomes):
            table.add_row(
                label, *("-" if outcome is None else interval(getattr(outcome, against)) for outcome in outcomes)
            )
        if key == "intact" and against == "own" and all(outcomes):
            scores = [f"{outcome.normalised_score:.2f}" for outcome in outcomes if outcome is not None]
            table.add_row("  normalised score", *scores)
    if against == "own":
        table.add_section()
        table.add_row("oracle", *(interval(report.oracle) for report in reports.values()))
        table.add_row("memoryless", *(interval(report.memoryless) for report in reports.values()))
    return table


def _caption(report: Report) -> str:
    return (
        f"{report.metric}, {report.episodes} held-out episodes; ± half the {report.spread}; "
        "normalised: memoryless 0, oracle 1"
    )


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Write plain content as JSON, whole or not at all.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_trace(folder: str | os.PathLike[str], trace: Trace, query_start: int) -> None:
    """Write ``trace.json`` and ``trace.png`` into ``folder``, each whole or not at all."""
    write_json(Path(folder) / "trace.json", asdict(trace))
    with replacing(Path(folder) / "trace.png") as path:
        trace_figure(trace, query_start).savefig(path)


def write_report(folder: str | os.PathLike[str], reports: Mapping[str, Report], title: str = "") -> None:
    """Write ``report.json`` and ``adaptation.png`` into ``folder``, each whole or not at all."""
    write_json(Path(folder) / "report.json", {name: report.to_json() for name, report in reports.items()})
    with replacing(Path(folder) / "adaptation.png") as path:
        adaptation_figure(reports, title).savefig(path)
