"""Reports for people and programs: tables on the terminal, a figure and JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from agents.figures import LABELS, adaptation_figure
from agents.files import replacing
from agents.probes import Estimate, Report


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


def comparison_table(reports: Mapping[str, Report], title: str = "") -> Table:
    """Several networks on the same episodes: a row for each intervention, a column for each network."""
    first = next(iter(reports.values()))
    table = Table(title=title or None, caption=_caption(first))
    table.add_column("", no_wrap=True)
    for name in reports:
        table.add_column(name, justify="right", no_wrap=True)
    for key, label in LABELS.items():
        outcomes = [report.outcomes.get(key) for report in reports.values()]
        if any(outcomes):
            table.add_row(label, *("-" if outcome is None else interval(outcome.own) for outcome in outcomes))
        if key == "intact":
            scores = [f"{report.outcomes[key].normalised_score:.2f}" for report in reports.values()]
            table.add_row("  normalised score", *scores)
    table.add_section()
    table.add_row("oracle", *(interval(report.oracle) for report in reports.values()))
    table.add_row("memoryless", *(interval(report.memoryless) for report in reports.values()))
    return table


def _caption(report: Report) -> str:
    return f"{report.metric}, {report.episodes} held-out episodes, ± 95 % interval; normalised: memoryless 0, oracle 1"


def write_report(folder: str | os.PathLike[str], reports: Mapping[str, Report], title: str = "") -> None:
    """Write ``report.json`` and ``adaptation.png`` into ``folder``, each whole or not at all."""
    with replacing(Path(folder) / "report.json") as path:
        content = {name: report.to_json() for name, report in reports.items()}
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    with replacing(Path(folder) / "adaptation.png") as path:
        adaptation_figure(reports, title).savefig(path)
