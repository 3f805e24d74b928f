"""TensorBoard files of training runs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from plastic_agents.analysis.agent import Agent
from plastic_agents.analysis.figures import adaptation_figure
from plastic_agents.analysis.report import Report
from plastic_agents.analysis.statistics import Estimate
from plastic_agents.analysis.traces import mean_norms
from plastic_agents.models.core import State
from plastic_agents.seeding import held_out_rng
from plastic_envs import EpisodeBatch
from plastic_envs.rendering import draw_episode


class RunLog:
    """A context manager that writes TensorBoard files into a run folder, or does nothing without a folder.

    Args:
        run_dir: folder of the run; ``None`` writes nothing.
        purge_step: the first step that a resumed run repeats; TensorBoard hides earlier records from this step on.
    """

    def __init__(self, run_dir: Path | None, purge_step: int = 0) -> None:
        self._writer: Any = None
        if run_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._resumes = any(run_dir.glob("events.out.tfevents.*"))
            self._writer = SummaryWriter(str(run_dir), purge_step=purge_step or None)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Write the settings for the HPARAMS page, once for each folder.

        Args:
            settings: by name; nested dicts give names such as ``plasticity.rate``, and settings that are None are left
                out.
        """
        if self._writer is None or self._resumes:
            return
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # type: ignore[import-untyped]  # it has no types

        # `SummaryWriter.add_hparams` would create a second run for the settings. With an empty trial id, TensorBoard
        # uses the name of the run.
        summary = hparams_pb(dict(_flattened(settings)), trial_id="")
        self._writer.file_writer.add_summary(summary)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name, without those that are NaN, which the run does not have."""
        if self._writer is None:
            return
        for name, value in values.items():
            if not math.isnan(value):
                self._writer.add_scalar(name, value, step)

    def evaluation(self, step: int, agent: Agent, report: Report) -> None:
        """Write scores, norms of the fast weights, a figure of adaptation and an image of an episode.

        Args:
            step: training step of the evaluation.
            agent: the evaluated agent.
            report: the result of the evaluation, with the secondary metrics of the task.
        """
        if self._writer is None:
            return
        intact = report["intact"]
        metric_name = report.metric_name.replace(" ", "_")
        episodes, actions, norms = play_examples(agent)
        self.scalars(
            step,
            {
                f"evaluation/{metric_name}": intact.metric.mean,
                "evaluation/normalised_score": intact.normalised_score,
                f"reference/oracle_{metric_name}": report.oracle.mean,
                f"reference/memoryless_{metric_name}": report.memoryless.mean,
                **_means("evaluation/", intact.secondary_metrics),
                **_means("reference/oracle_", report.oracle_secondary_metrics),
                **_means("reference/memoryless_", report.memoryless_secondary_metrics),
                **{f"fast_weight_norm/{name}": norm for name, norm in norms.items()},
            },
        )
        figure = adaptation_figure({"": report})
        figure.set_size_inches(4.4, 3.4)  # the width of TensorBoard's cards
        self._writer.add_figure("adaptation", figure, step)
        self._writer.add_image(
            "example_episode", draw_episode(agent.task, episodes[:1], actions[0]), step, dataformats="HWC"
        )
        self._writer.flush()


def play_examples(agent: Agent, n_episodes: int = 64) -> tuple[EpisodeBatch, np.ndarray, dict[str, float]]:
    """Play validation episodes, the same at each call.

    Returns:
        The episodes, the actions [B, T, A] or [B, T], and the mean Frobenius norm of each fast matrix just before the
        last step, by the name of the matrix (see `plastic_agents.analysis.traces.fast_matrices`).
    """
    episodes = agent.task.sample(held_out_rng(0, "validation"), n_episodes)
    norms: dict[str, float] = {}

    def record(state: State) -> State:
        norms.update(mean_norms(state.fast))
        return state

    with agent.evaluating():
        actions, _ = agent.play(episodes, {agent.task.episode_length - 1: record})
    return episodes, actions, norms


def _means(prefix: str, estimates: Mapping[str, Estimate]) -> dict[str, float]:
    return {f"{prefix}{name}": value.mean for name, value in estimates.items()}


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value if isinstance(value, bool | int | float | str) else json.dumps(value)
