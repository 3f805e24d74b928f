"""What a run writes for TensorBoard."""

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
from plastic_agents.analysis.probes import Report
from plastic_agents.analysis.traces import mean_norms
from plastic_agents.models.core import State
from plastic_agents.models.plastic.fast_weights import FastWeights
from plastic_agents.seeding import held_out_rng
from plastic_envs import EpisodeBatch
from plastic_envs.rendering import draw_episode


class RunLog:
    """TensorBoard files in ``run_dir``, or nothing where that is None. A context manager.

    Args:
        run_dir: folder of the run.
        purge_step: the first step that a resumed run makes again; what an earlier one wrote from there on is hidden.
    """

    def __init__(self, run_dir: Path | None, purge_step: int = 0) -> None:
        self._writer: Any = None
        if run_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._goes_on = any(run_dir.glob("events.out.tfevents.*"))
            self._writer = SummaryWriter(str(run_dir), purge_step=purge_step or None)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Write what the HPARAMS page shows, once for each folder.

        Args:
            settings: by name; dicts in it give names such as ``plasticity.rate``, and None is left out.
        """
        if self._writer is None or self._goes_on:
            return
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # type: ignore[import-untyped]  # it has no types

        # `SummaryWriter.add_hparams` would make another run for them. Without an id a trial goes by its run's name.
        summary = hparams_pb(dict(_flat(settings)), trial_id="")
        self._writer.file_writer.add_summary(summary)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name; those that are NaN do not exist for this run."""
        if self._writer is None:
            return
        for name, value in values.items():
            if not math.isnan(value):
                self._writer.add_scalar(name, value, step)

    def evaluation(self, step: int, model: Agent, report: Report) -> None:
        """Write an evaluation: scores, norms of the fast weights, a figure of adaptation, a picture of an episode."""
        if self._writer is None:
            return
        intact = report.outcomes["intact"]
        metric = report.metric.replace(" ", "_")
        episodes, actions, norms = play_examples(model)
        self.scalars(
            step,
            {
                f"evaluation/{metric}": intact.own.mean,
                "evaluation/normalised_score": intact.normalised_score,
                f"reference/oracle_{metric}": report.oracle.mean,
                f"reference/memoryless_{metric}": report.memoryless.mean,
                **{f"fast_weight_norm/{name}": norm for name, norm in norms.items()},
            },
        )
        figure = adaptation_figure({"": report})
        figure.set_size_inches(4.4, 3.4)  # for the width of TensorBoard's cards
        self._writer.add_figure("adaptation", figure, step)
        self._writer.add_image(
            "example_episode", draw_episode(model.task, episodes[:1], actions[0]), step, dataformats="HWC"
        )
        self._writer.flush()


def play_examples(model: Agent, count: int = 64) -> tuple[EpisodeBatch, np.ndarray, dict[str, float]]:
    """Play ``count`` held-out episodes, the same at each call.

    Returns:
        The episodes, the actions [B, T, A] or [B, T], and the mean Frobenius norm of each layer's fast weight just
        before the last step, by the layer's name; none without fast weights.
    """
    episodes = model.task.sample(held_out_rng(0), count)
    norms: dict[str, float] = {}

    def note(state: State) -> State:
        if isinstance(state.fast, FastWeights):
            norms.update(zip(FastWeights._fields, mean_norms(state.fast), strict=True))
        return state

    with model.evaluating():
        actions = model.play(episodes, {model.task.episode_length - 1: note})[0]
    return episodes, actions, norms


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value if isinstance(value, bool | int | float | str) else json.dumps(value)
