"""Reports of probes: the result of each intervention, with the scores to compare it with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from plastic_agents.analysis.statistics import Curve, Estimate, Estimates, mean_and_range
from plastic_agents.seeding import HeldOutSplit

# Keys of adaptation curves: the quantity on the x axis, which is also the label of that axis.
BY_STEP = "step of the episode"
BY_SHOWING = "times the item was shown before"


@dataclass(frozen=True)
class InterventionResult:
    """The result of an intervention.

    Attributes:
        label: text for tables and figures.
        colour: colour for figures.
        metric_is_error: whether the metric is an error, as in the report.
        metric: the report's metric of the agent's actions, scored against the episode's targets.
        twin_metric: the metric of the same actions, scored against the targets of the episode's twin.
        normalised: the metric on a scale from 0 (the best policy without memory of the episode) to 1 (oracle).
        curves: the metric over the episode, by the quantity on the x axis: ``BY_STEP`` and, if items repeat,
            ``BY_SHOWING``.
        secondary_metrics: the task's secondary metrics of the same actions by name, scored against the episode's
            targets; most tasks have none (see `plastic_envs.Task.secondary_metrics`). In an interactive task only steps
            from the intervention on count, as for ``metric``.
    """

    label: str
    colour: str
    metric_is_error: bool
    metric: Estimate
    twin_metric: Estimate
    normalised: Estimate
    curves: dict[str, Curve]
    secondary_metrics: Estimates = field(default_factory=Estimates)

    @property
    def normalised_score(self) -> float:
        """The mean of ``normalised``."""
        return self.normalised.mean

    @property
    def error(self) -> Estimate:
        """The same as ``metric`` if that is an error, as with Box actions.

        Raises:
            AttributeError: the metric is a reward or an accuracy.
        """
        return self._error("metric")

    @property
    def twin_error(self) -> Estimate:
        """The same as ``twin_metric`` if that is an error, as with Box actions.

        Raises:
            AttributeError: the metric is a reward or an accuracy.
        """
        return self._error("twin_metric")

    def _error(self, name: str) -> Estimate:
        if not self.metric_is_error:
            raise AttributeError(f"the metric of this task is not an error: use {name}")
        value: Estimate = getattr(self, name)
        return value


@dataclass(frozen=True)
class Report(Mapping[str, InterventionResult]):
    """Results of interventions on the same held-out episodes, a mapping from their names: ``report["intact"]``.

    Attributes:
        task: the task, with its arguments.
        metric_name: ``"mean squared error"`` in the task's units for Box actions, else the task's ``score_name``. In an
            interactive task, the name also gives the step from which steps count (see `plastic_agents.probe`).
        metric_is_error: whether the metric is an error, of which less is better, rather than a reward or an accuracy.
        episodes: number of held-out episodes.
        spread: the kind of interval that ``low`` and ``high`` of the estimates are.
        seed: seed of the episodes.
        step: step of the interventions (``no_writing`` acts from the start).
        oracle: the metric of the oracle, the best possible agent or nearly so, on the same episodes.
        memoryless: the metric of the best policy without memory of the episode.
        oracle_curves: the oracle's metric over the episode.
        results: by the name of the intervention, in the order in which they were requested. A network without fast
            weights has no results for interventions on them.
        oracle_secondary_metrics: the secondary metrics of the oracle by name.
        memoryless_secondary_metrics: the secondary metrics of the best policy without memory of the episode.
        oracle_name: `plastic_envs.Task.oracle_name`.
        split: whether the episodes are validation or test episodes.
        n_seeds: number of training seeds over which the results are means.
    """

    task: str
    metric_name: str
    metric_is_error: bool
    episodes: int
    spread: str
    seed: int
    step: int
    oracle: Estimate
    memoryless: Estimate
    oracle_curves: dict[str, Curve]
    results: dict[str, InterventionResult]
    oracle_secondary_metrics: Estimates = field(default_factory=Estimates)
    memoryless_secondary_metrics: Estimates = field(default_factory=Estimates)
    oracle_name: str = "oracle"
    split: HeldOutSplit = "test"
    n_seeds: int = 1

    def __getitem__(self, name: str) -> InterventionResult:
        if name not in self.results:
            raise KeyError(f"the report has results for {', '.join(self.results)}, got {name!r}")
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain dicts, lists, strings and numbers, with None for NaN."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def check_reports(reports: Any) -> None:
    """Check that ``reports`` maps the names of one or more networks to their reports.

    Raises:
        TypeError: it is anything else.
    """
    is_mapping = isinstance(reports, Mapping) and len(reports) > 0
    if not is_mapping or not all(isinstance(report, Report) for report in reports.values()):
        raise TypeError(
            "reports must be one or more reports by the name of the network, such as {'hebbian': report}, "
            f"got {type(reports).__name__}"
        )


def over_seeds(reports: Sequence[Report]) -> Report:
    """Return a report with the means over several runs that differ in their training seed, and their ranges.

    The interval of each estimate is from the lowest to the highest of the runs. The oracle and the memoryless policy do
    not depend on the training seed: their intervals stay those over episodes.

    Args:
        reports: reports with the same task, held-out episodes and interventions.

    Raises:
        ValueError: there are no reports, or they differ in their task, episodes or interventions.
    """
    if not reports:
        raise ValueError("reports must be one or more, got none")
    reference = reports[0]
    if len(reports) == 1:
        return reference
    for report in reports:
        if _comparable(report) != _comparable(reference):
            raise ValueError(
                f"reports must be on the same episodes and interventions, got {report.task} beside {reference.task}"
            )
    return replace(
        reference,
        n_seeds=len(reports),
        spread=f"lowest and highest of {len(reports)} training seeds",
        results={name: _result_over_seeds([report[name] for report in reports]) for name in reference},
    )


def _comparable(report: Report) -> tuple[Any, ...]:
    """Return the fields in which the reports that are put together must agree."""
    return (
        *(report.task, report.episodes, report.split, report.seed, report.step),
        *(report.oracle, report.oracle_secondary_metrics, report.results.keys()),
    )


def _result_over_seeds(results: Sequence[InterventionResult]) -> InterventionResult:
    return replace(
        results[0],
        metric=mean_and_range([result.metric.mean for result in results]),
        twin_metric=mean_and_range([result.twin_metric.mean for result in results]),
        normalised=mean_and_range([result.normalised_score for result in results]),
        curves={axis: _curve_over_seeds([result.curves[axis] for result in results]) for axis in results[0].curves},
        secondary_metrics=Estimates(
            (name, mean_and_range([result.secondary_metrics[name].mean for result in results]))
            for name in results[0].secondary_metrics
        ),
    )


def _curve_over_seeds(curves: Sequence[Curve]) -> Curve:
    means_by_x = zip(*(curve.mean for curve in curves), strict=True)
    return Curve.from_estimates(curves[0].x, [mean_and_range(means) for means in means_by_x])


def _plain(value: Any) -> Any:
    """Return ``value`` with named tuples as dicts and NaN as None, neither of which JSON has."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
