"""What a run writes for TensorBoard."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from agents.figures import adaptation_figure
from agents.plasticity.state import FastWeights
from agents.player import Player
from agents.probes import Report, held_out_rng
from agents.traces import mean_norms


class RunLog:
    """TensorBoard files in ``run_dir``, or nothing where that is None. A context manager.

    Args:
        run_dir: folder of the run.
        purge_step: the first step that a resumed run makes again; what an earlier one wrote from there on is hidden.
    """

    def __init__(self, run_dir: Path | None, purge_step: int = 0) -> None:
        self._writer = None
        if run_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._writer = SummaryWriter(str(run_dir), purge_step=purge_step or None)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name; those that are NaN do not exist for this run."""
        if self._writer is None:
            return
        for name, value in values.items():
            if not math.isnan(value):
                self._writer.add_scalar(name, value, step)

    def evaluation(self, step: int, model: Player, report: Report) -> None:
        """Write an evaluation: scores, adaptation as a figure, and the norms of the fast weights."""
        if self._writer is None:
            return
        intact = report.outcomes["intact"]
        self.scalars(
            step,
            {
                f"evaluation/{report.metric}": intact.own.mean,
                "evaluation/normalised_score": intact.normalised_score,
                f"evaluation/{report.metric} of the oracle": report.oracle.mean,
                f"evaluation/{report.metric} without memory": report.memoryless.mean,
                **{f"fast_weight_norm/{name}": norm for name, norm in fast_weight_norms(model).items()},
            },
        )
        self._writer.add_figure("adaptation", adaptation_figure({"": report}), step)
        self._writer.flush()


def fast_weight_norms(model: Player, episodes: int = 64) -> dict[str, float]:
    """Mean Frobenius norm of each layer's fast weight just before the last step of held-out episodes."""
    state = model.state_before(model.task.sample(held_out_rng(0), episodes), model.task.episode_length - 1)
    if not isinstance(state.fast, FastWeights):
        return {}
    return dict(zip(FastWeights._fields, mean_norms(state.fast), strict=True))
