"""TensorBoard files of training runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from plastic_agents.analysis.agent import Agent
from plastic_agents.analysis.figures import adaptation_figure, fast_weights_figure, trace_figure
from plastic_agents.analysis.interventions import INTERVENTIONS
from plastic_agents.analysis.probes import probe
from plastic_agents.analysis.report import Report
from plastic_agents.analysis.statistics import Estimate
from plastic_agents.analysis.traces import Trace, fast_matrices, mean_norms
from plastic_agents.models.core import State
from plastic_agents.seeding import held_out_rng
from plastic_envs import EpisodeBatch
from plastic_envs.rendering import draw_episode

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_EPISODES = 64  # of examples and of probes: few, so that they take little time


class RunLog:
    """A context manager that writes TensorBoard files into a run folder, or does nothing without a folder.

    Args:
        run_dir: folder of the run; ``None`` writes nothing.
        purge_step: the first step that a resumed run repeats; TensorBoard hides earlier records from this step on. With
            0 or 1, the run starts, and the files of an earlier one are removed.
    """

    def __init__(self, run_dir: Path | None, purge_step: int = 0) -> None:
        self._writer: Any = None
        if run_dir is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            earlier = list(run_dir.glob("events.out.tfevents.*"))
            self._resumes = purge_step > 1 and bool(earlier)
            if purge_step <= 1:
                # TensorBoard would show the settings of a run that ended before its first checkpoint.
                for events in earlier:
                    events.unlink()
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

    def evaluation(self, step: int, agent: Agent, report: Report, network: str) -> None:
        """Write scores, norms of the fast weights, a figure of adaptation and an image of an episode.

        Of plastic networks also the scores under interventions, the fast weights and the rate eta.

        Args:
            step: training step of the evaluation.
            agent: the evaluated agent.
            report: the result of the evaluation, with the secondary metrics of the task.
            network: the name of the network, for titles.
        """
        if self._writer is None:
            return
        examples = play_examples(agent)
        self.scalars(step, evaluation_scalars(agent, report, examples))
        write_pictures(self._writer, step, agent, report, network, examples)


class Examples(NamedTuple):
    """Validation episodes, the same at each call of `play_examples`, and the plasticity of an agent in them.

    Attributes:
        episodes: the episodes.
        actions: the actions, [B, T, A] or [B, T].
        norms: the mean Frobenius norm of each fast matrix just before the last step, by the name of the matrix (see
            `plastic_agents.analysis.traces.fast_matrices`).
        fast: the fast matrices [..., m, n] of the first episode before the task's first query, by name.
        eta: the rate eta at each step, a mean over episodes; None for a core without a rate.
    """

    episodes: EpisodeBatch
    actions: np.ndarray
    norms: dict[str, float]
    fast: dict[str, np.ndarray]
    eta: list[float] | None


def play_examples(agent: Agent, n_episodes: int = _EPISODES) -> Examples:
    """Play validation episodes, the same at each call."""
    episodes = agent.task.sample(held_out_rng(0, "validation"), n_episodes)
    states: dict[int, State] = {}

    def recorder(step: int) -> Callable[[State], State]:
        return lambda state: states.setdefault(step, state)

    steps = {agent.task.query_start, agent.task.episode_length - 1}
    with agent.evaluating():
        actions, output = agent.play(episodes, {step: recorder(step) for step in steps})
    return Examples(
        episodes,
        actions,
        norms=mean_norms(states[max(steps)].fast),
        fast={
            name: matrix[0].numpy(force=True)
            for name, matrix in fast_matrices(states[agent.task.query_start].fast).items()
        },
        eta=None if output.eta is None else output.eta.mean(1).tolist(),
    )


def evaluation_scalars(agent: Agent, report: Report, examples: Examples) -> dict[str, float]:
    """Return the scores of an evaluation, its references, norms of fast weights and scores under interventions.

    Args:
        agent: the evaluated agent.
        report: the result of the evaluation, with the secondary metrics of the task.
        examples: the agent's `play_examples`.

    Returns:
        Numbers by tag. Those that the evaluation does not have are NaN.
    """
    intact, metric_name = report["intact"], report.metric_name.replace(" ", "_")
    return {
        f"evaluation/{metric_name}": intact.metric.mean,
        "evaluation/normalised_score": intact.normalised_score,
        f"reference/oracle_{metric_name}": report.oracle.mean,
        f"reference/memoryless_{metric_name}": report.memoryless.mean,
        **_means("evaluation/", intact.secondary_metrics),
        **_means("reference/oracle_", report.oracle_secondary_metrics),
        **_means("reference/memoryless_", report.memoryless_secondary_metrics),
        **{f"fast_weight_norm/{name}": norm for name, norm in examples.norms.items()},
        **probe_scores(agent),
    }


def write_pictures(
    writer: SummaryWriter, step: int, agent: Agent, report: Report, network: str, examples: Examples
) -> None:
    """Write a figure of adaptation and a picture of an episode, and of plastic networks the fast weights and the rate.

    Args:
        writer: the writer of TensorBoard's files.
        step: training step of the evaluation.
        agent: the evaluated agent.
        report: the result of the evaluation.
        network: the name of the network, for titles.
        examples: the agent's `play_examples`.
    """

    def add_figure(tag: str, figure: Figure, size: tuple[float, float] | None = None) -> None:
        if size is not None:  # in inches of TensorBoard's cards
            figure.set_size_inches(size)
        writer.add_figure(tag, figure, step)

    add_figure("adaptation", adaptation_figure({network: report}), (4.4, 3.6))
    title = f"{type(agent.task).__name__}, {network}"
    if examples.fast:
        figure = fast_weights_figure(examples.fast, f"{title}: one episode before step {agent.task.query_start}")
        add_figure("fast_weights", figure)
    if examples.eta is not None:
        trace = Trace(examples.eta, {}, {})
        figure = trace_figure(trace, agent.task.query_start, f"{title}: mean of {_EPISODES} episodes")
        add_figure("eta", figure, (4.4, 3.2))
    picture = draw_episode(agent.task, examples.episodes[:1], examples.actions[0])
    writer.add_image("example_episode", picture, step, dataformats="HWC")
    writer.flush()


def probe_scores(agent: Agent) -> dict[str, float]:
    """Return the score of a plastic network under each built-in intervention, by tag; nothing of other networks.

    The actions with the state of the twin also have a score against the targets of the twin.
    """
    if not INTERVENTIONS["fast_erased"].applies(agent.core):
        return {}
    report = probe(agent, episodes=_EPISODES, split="validation")
    scores = {}
    for name, result in report.items():
        tag = "probe/" + result.label.replace("'s", "").replace(" ", "_")
        scores[tag] = result.metric.mean
        if INTERVENTIONS[name].needs_donor:
            scores[f"{tag}_for_twin_targets"] = result.twin_metric.mean
    return scores


def _means(prefix: str, estimates: Mapping[str, Estimate]) -> dict[str, float]:
    return {f"{prefix}{name}": value.mean for name, value in estimates.items()}


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | float | str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value if isinstance(value, bool | int | float | str) else json.dumps(value)
