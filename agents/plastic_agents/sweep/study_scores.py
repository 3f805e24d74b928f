"""The scores in the files of a study's methods."""

from __future__ import annotations

from collections.abc import Mapping
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


def baseline(cells: Mapping[str, Cell], name: str) -> float | None:
    """Return the score of ``"oracle"`` or ``"memoryless"``, or None if no method has a score."""
    known = [cell["test"][name] for cell in cells.values() if cell["test"] and name in cell["test"]]
    return known[0] if known else None
