"""What runs share, however they train: how far they are, and what they accept."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from agents.distributed import Processes
from agents.logs import RunLog
from agents.networks.factory import NetworkConfig
from agents.pretraining import pretrain
from agents.probes import Report
from plastic_envs import Task, make_task
from plastic_envs.tasks import FewShotClassification

Self = TypeVar("Self", bound="Run")

CHECKPOINT = "checkpoint.pt"  # name of the file in a run folder
_WATCHING = ("evaluate_every", "evaluation_episodes", "checkpoint_every")  # settings that change nothing in training


@dataclass
class Progress:
    """How far a run is: ``step`` steps made, in ``seconds``, and its ``evaluations``, one dict each.

    Steps are the optimiser's in supervised runs, and the environments' in those of policies.
    """

    step: int = 0
    seconds: float = 0.0
    evaluations: list[dict[str, float]] = field(default_factory=list)


class Run:
    """The folder of a run, its checkpoint and its evaluations; base of `SupervisedLearner` and `PolicyLearner`.

    Attributes:
        run_dir: folder for the checkpoint and TensorBoard's files; None writes nothing.
    """

    task: Task
    task_id: str | None
    task_arguments: dict[str, Any]
    network_config: Any  # a NetworkConfig, or None for a network of one's own
    config: Any
    progress: Progress
    run_dir: Path | None
    player: Any  # a Player
    _joint: bool = False  # whether several processes can train together

    def _begin_in(self, run_dir: str | os.PathLike[str] | None) -> None:
        count = Processes.here().count
        if count > 1 and not self._joint:
            raise ValueError(
                f"{type(self).__name__} trains in one process, got {count} of torchrun's: start it without torchrun"
            )
        self.progress = Progress()
        self.run_dir = None if run_dir is None else Path(run_dir)
        if self.checkpoint_path is not None and self.checkpoint_path.exists():
            raise FileExistsError(
                f"{self.checkpoint_path} is the checkpoint of an earlier run: resume it with "
                f"{type(self).__name__}.load, or choose another run_dir"
            )

    def _go_on_from(self, path: Path, progress: Progress, run_dir: str | os.PathLike[str] | None) -> None:
        """Go on in ``run_dir``; by default, that of a run's own checkpoint."""
        self.progress = progress
        if run_dir is None and path.name == CHECKPOINT:
            run_dir = path.parent
        self.run_dir = None if run_dir is None else Path(run_dir)

    @property
    def checkpoint_path(self) -> Path | None:
        """Where `learn` writes checkpoints."""
        return None if self.run_dir is None else self.run_dir / CHECKPOINT

    @classmethod
    def start_or_resume(
        cls: type[Self],
        task: str,
        network: NetworkConfig,
        config: Any,
        *,
        run_dir: str | os.PathLike[str],
        task_arguments: Mapping[str, Any] | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Begin a run in ``run_dir``, or take up the one that is there, finished or not, if its settings are these.

        Raises:
            ValueError: ``run_dir`` holds a run with other settings, or its checkpoint cannot be read.
        """
        make: Any = cls  # deriving classes have constructors and `load` of their own
        checkpoint = Path(run_dir) / CHECKPOINT
        if not checkpoint.exists():
            fresh: Self = make(task, network, config, task_arguments=task_arguments, run_dir=run_dir, device=device)
            return fresh
        learner: Self = make.load(checkpoint, device=device)
        found = (learner.task_id, learner.task_arguments, learner.network_config, learner.config)
        if found != (task, check_arguments(task_arguments or {}), network, config):
            raise ValueError(f"{run_dir} holds a run with other settings: choose another folder, or remove it")
        return learner

    def _evaluation_task(self) -> Task:
        """The task of evaluations: ``task``, unless ``config.evaluation_arguments`` make that another."""
        arguments = check_arguments(self.config.evaluation_arguments, "evaluation_arguments")
        if not arguments:
            return self.task
        if self.task_id is None:
            raise ValueError(f"evaluation_arguments go with a task given by id, got {arguments} with {self.task!r}")
        task = make_task(self.task_id, **{**self.task_arguments, **arguments})
        if (task.observation_space, task.action_space) != (self.task.observation_space, self.task.action_space):
            raise ValueError(f"evaluation_arguments must leave the task's spaces as they are, got {arguments}")
        return task

    def _pretrain(self, network: Any, log: RunLog, progress_bar: bool) -> None:
        """Train the network's encoder alone, where its description asks for it; an interrupt begins it anew."""
        steps = 0 if self.network_config is None else self.network_config.encoder.pretraining
        if not steps:
            return
        if not isinstance(self.task, FewShotClassification):
            raise TypeError(
                f"encoder.pretraining needs a FewShotClassification, whose images it takes, got {self.task!r}"
            )
        began = time.perf_counter()
        accuracy = pretrain(network.encoder, self.task, steps, seed=self.config.seed, progress_bar=progress_bar)
        self.progress.seconds += time.perf_counter() - began
        log.scalars(0, {"pretraining/accuracy": accuracy})

    def _settings(self) -> dict[str, Any]:
        """What tells runs apart where they are compared; without what has no effect."""
        if self.network_config is None:
            network: dict[str, Any] = {"network": type(self.player.network).__name__}
        else:
            network = asdict(self.network_config)
            if network["rule"] == "none":
                del network["plasticity"]
            if network["encoder"]["name"] == "none":
                del network["encoder"]
        return {
            "task": self.task_id or repr(self.task),
            "task_arguments": self.task_arguments,
            **network,
            "parameters": sum(parameter.numel() for parameter in self.player.parameters()),
            "algorithm": "supervised",  # unless the configuration names another
            **{name: value for name, value in asdict(self.config).items() if name not in _WATCHING},
        }

    def _record(self, report: Report, log: RunLog) -> None:
        """Keep an evaluation, and log it."""
        intact = report.outcomes["intact"]
        self.progress.evaluations.append(
            {"step": self.progress.step, "metric": intact.own.mean, "normalised_score": intact.normalised_score}
        )
        log.evaluation(self.progress.step, self.player, report)


def check_device(device: str | torch.device) -> torch.device:
    """The device; of several processes that train together, each has a GPU of its own.

    Raises:
        ValueError: torch cannot use it here.
    """
    try:
        checked = Processes.here().place(torch.device(device))
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device must be one that torch can use here, such as 'cpu', got {device!r}: {reason}"
        ) from error
    return checked


def check_arguments(arguments: Mapping[str, Any], name: str = "task_arguments") -> dict[str, Any]:
    """A task's arguments as a checkpoint gives them back (tuples are lists); errors call them ``name``.

    Raises:
        TypeError: a checkpoint could not hold them.
    """
    try:
        plain: dict[str, Any] = json.loads(json.dumps(arguments))
    except TypeError as error:
        raise TypeError(f"{name} must be plain numbers, strings, bools or lists, got {arguments}: {error}") from error
    return plain
