"""The scores in the files of a study's methods."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from io import StringIO
from statistics import fmean
from typing import Any

Cell = dict[str, Any]
"""The content of the file of a method."""


def metric_name(cells: Mapping[str, Cell]) -> str:
    """Return the name of the metric of methods, or "metric" if none has a score."""
    return next((cell["metric_name"] for cell in cells.values() if cell["metric_name"]), "metric")


def metrics_of_seeds(cells: Mapping[str, Cell]) -> dict[str, list[float]]:
    """Return the metric of each finished seed, by method; methods without any are left out."""
    metrics = {
        method: [final["metric"] for final in cell["finals"] if final["status"] == "finished"]
        for method, cell in cells.items()
    }
    return {method: values for method, values in metrics.items() if values}


def ranked(cells: Mapping[str, Cell]) -> list[str]:
    """Return the methods that have scores, the best one last."""
    metrics = metrics_of_seeds(cells)
    is_error = all(final.get("metric_is_error", True) for cell in cells.values() for final in cell["finals"])
    return sorted(metrics, key=lambda method: fmean(metrics[method]), reverse=is_error)


def baseline(cells: Mapping[str, Cell], name: str, part: str = "test") -> float | None:
    """Return the score of ``"oracle"`` or ``"memoryless"``, or None if no method has a score.

    With ``part="probe"``, it is the score at the steps that probes count.
    """
    known = [cell[part][name] for cell in cells.values() if cell[part] and name in cell[part]]
    return known[0] if known else None


def csv_texts(finished: Mapping[str, Mapping[str, Cell]]) -> dict[str, str]:
    """Return CSV files by name: ``results.csv`` with a row for each final run, ``curves.csv`` for each evaluation."""
    runs = [
        ({"study": study, "method": method, "seed": final["seed"]}, cell, final)
        for study, cells in finished.items()
        for method, cell in cells.items()
        for final in cell["finals"]
    ]
    results = [
        {
            **run,
            "task": cell["task"],
            **{name: final.get(name) for name in _COLUMNS},
            "commit": cell["made_with"]["commit"],
        }
        for run, cell, final in runs
    ]
    curves = [
        {**run, "step": step, "seconds": round(final["seconds"] * step / final["steps"], 1), "metric": metric}
        for run, _, final in runs
        for step, metric in final.get("evaluations", ())
    ]
    return {"results.csv": _csv_text(results), "curves.csv": _csv_text(curves)}


_COLUMNS = (
    *("status", "metric_name", "metric", "normalised_score", "oracle", "memoryless"),
    *("steps", "seconds", "processor", "parameters"),
)


def _csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    text = StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
