"""The supervised wrapper: batches of a task in, a trained network out."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.interrupt import deferred_interrupt
from agents.logs import RunLog
from agents.networks.factory import NetworkConfig
from agents.plasticity.rules import Plasticity
from agents.probes import Report, probe
from agents.task_network import TaskNetwork
from plastic_envs import Task, make_task

_KIND = "supervised"


@dataclass(frozen=True)
class Curriculum:
    """A whole-number argument of the task that grows during training, such as the length of a delay.

    It grows steadily from ``first`` to the task's own value over the first ``growth`` of the steps.

    Attributes:
        argument: name of the task's argument.
        first: its value at the first step.
        growth: the part of all steps after which the task's own value is reached, in (0, 1].
    """

    argument: str
    first: int = 0
    growth: float = 0.6

    def __post_init__(self) -> None:
        if not 0 < self.growth <= 1:
            raise ValueError(f"growth must be in (0, 1], got {self.growth!r}")

    def value_at(self, progress: float, last: int) -> int:
        """Value at ``progress`` in [0, 1) of the run, ``last`` being the task's own."""
        return self.first + round((last - self.first) * min(1.0, progress / self.growth))


@dataclass(frozen=True)
class SupervisedConfig:
    """How a network is trained by supervision.

    Attributes:
        steps: outer optimiser steps.
        batch_size: episodes a step, all new.
        learning_rate: of AdamW (amsgrad).
        schedule: ``"constant"``, or ``"cosine"`` down to ``final_learning_rate`` times the first.
        final_learning_rate: where the cosine ends, as a part of ``learning_rate``.
        weight_decay: of AdamW.
        max_gradient_norm: the gradient of all parameters together is clipped to this l2 norm.
        curriculum: makes training begin with easier episodes; evaluations are always of the task itself.
        seed: of the parameters and of the training episodes.
        evaluate_every: steps between evaluations on held-out episodes (there is one at the end too).
        evaluation_episodes: how many episodes each evaluation plays.
        checkpoint_every: steps between checkpoints, where there is a run folder.
    """

    steps: int = 1500
    batch_size: int = 64
    learning_rate: float = 3e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    final_learning_rate: float = 0.1
    weight_decay: float = 0.0
    max_gradient_norm: float = 5.0
    curriculum: Curriculum | None = None
    seed: int = 0
    evaluate_every: int = 250
    evaluation_episodes: int = 500
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        counts = ("steps", "batch_size", "evaluate_every", "evaluation_episodes", "checkpoint_every")
        for name in counts:
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
        for name in ("learning_rate", "max_gradient_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if not 0 <= self.final_learning_rate <= 1:
            raise ValueError(f"final_learning_rate is a part of the first, in [0, 1], got {self.final_learning_rate!r}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay must be 0 or more, and finite, got {self.weight_decay!r}")
        if self.schedule not in ("constant", "cosine"):
            raise ValueError(f"schedule must be 'constant' or 'cosine', got {self.schedule!r}")
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise ValueError(f"seed must be a whole number, 0 or more, got {self.seed!r}")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step in [0, steps)."""
        if self.schedule == "constant":
            return self.learning_rate
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * (self.final_learning_rate + (1 - self.final_learning_rate) * cosine)


@dataclass
class Progress:
    """How far a run is: ``step`` optimiser steps made, in ``seconds``, and its ``evaluations``, one dict each."""

    step: int = 0
    seconds: float = 0.0
    evaluations: list[dict[str, float]] = field(default_factory=list)


class SupervisedLearner:
    """Trains a network on batches drawn straight from a task.

    The batch of step k is a function of (seed, k) alone, so a run that is resumed from its checkpoint ends with the
    same bits as one that ran through.

    Args:
        task: id of an environment, such as ``"PlasticRNN/CueReward-v0"``, or a `Task`.
        network: a description, or a network with the interface of `agents.networks.factory.Network`.
        config: how to train.
        task_arguments: keyword arguments of the task, where it is given by id.
        run_dir: folder for the checkpoint (``checkpoint.pt``) and TensorBoard's files; ``None`` writes nothing.
        device: where to train, such as ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: an unknown id or wrong argument, a network that does not fit, or a task whose observations depend on
            the player's actions.
        FileExistsError: ``run_dir`` holds the checkpoint of an earlier run: `load` resumes it.
    """

    def __init__(
        self,
        task: Task | str,
        network: NetworkConfig | nn.Module,
        config: SupervisedConfig = SupervisedConfig(),
        *,
        task_arguments: Mapping[str, Any] | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.task_id = task if isinstance(task, str) else None
        self.task_arguments = dict(task_arguments or {})
        if self.task_id is None and self.task_arguments:
            raise ValueError(f"task_arguments go with a task given by id, got {self.task_arguments} with {task!r}")
        self.task = make_task(task, **self.task_arguments) if isinstance(task, str) else task
        if self.task.interactive:
            raise ValueError(f"{self.task!r} shows players the outcome of their own actions: train it by reinforcement")
        if config.curriculum is not None:
            _check_curriculum(config.curriculum, self.task, self.task_id)
        self.config = config
        self.network_config = network if isinstance(network, NetworkConfig) else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = TaskNetwork(self.task, network).to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, amsgrad=True
        )
        self.progress = Progress()
        self.run_dir = None if run_dir is None else Path(run_dir)
        if self.checkpoint_path is not None and self.checkpoint_path.exists():
            raise FileExistsError(
                f"{self.checkpoint_path} is the checkpoint of an earlier run: resume it with SupervisedLearner.load, "
                "or choose another run_dir"
            )

    @property
    def checkpoint_path(self) -> Path | None:
        """Where `learn` writes checkpoints."""
        return None if self.run_dir is None else self.run_dir / "checkpoint.pt"

    def learn(self, progress_bar: bool = True) -> Report:
        """Train up to ``config.steps`` and return the last evaluation.

        On an interrupt (Ctrl-C) the step under way is finished and a checkpoint written before KeyboardInterrupt is
        raised.

        Raises:
            FloatingPointError: loss or gradient is no longer finite; the last checkpoint is from before.
        """
        config, progress = self.config, self.progress
        report = None
        log = RunLog(self.run_dir, purge_step=progress.step)
        bar = tqdm(total=config.steps, initial=progress.step, unit="step", disable=not progress_bar, mininterval=0.5)
        self.model.train()
        with log, bar, deferred_interrupt() as interrupted:
            while progress.step < config.steps:
                began = time.perf_counter()
                loss, gradient_norm, eta = self._train_step(progress.step)
                progress.step += 1
                progress.seconds += time.perf_counter() - began
                bar.update()
                if progress.step % 10 == 0:
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    log.scalars(
                        progress.step, {"train/loss": loss, "train/gradient_norm": gradient_norm, "train/eta": eta}
                    )
                last = progress.step == config.steps
                if last or progress.step % config.evaluate_every == 0:
                    report = self._evaluate(log)
                if last or interrupted or progress.step % config.checkpoint_every == 0:
                    self._checkpoint()
                if interrupted:
                    raise KeyboardInterrupt
        return self.evaluate() if report is None else report

    def evaluate(self) -> Report:
        """Play the evaluation's held-out episodes, the same at every evaluation."""
        return probe(self.model, episodes=self.config.evaluation_episodes, interventions=("intact",))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all that `load` needs to go on exactly; the file appears whole or not at all."""
        return save_checkpoint(
            path,
            _KIND,
            {
                "task_id": self.task_id,
                "task_arguments": json.dumps(self.task_arguments),
                "task": repr(self.task),
                "network_config": None if self.network_config is None else asdict(self.network_config),
                "config": asdict(self.config),
                "progress": asdict(self.progress),
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            },
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        task: Task | None = None,
        network: nn.Module | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
    ) -> SupervisedLearner:
        """Read a checkpoint, to go on with `learn` or to probe the ``model``.

        Args:
            path: what `save` wrote; or ``checkpoint.pt`` in a run folder.
            task: the task, if the run was given one that is not behind an id.
            network: a network like the run's, if the run was given one instead of a description.
            run_dir: where the run goes on; by default the folder of a ``checkpoint.pt``.
            device: where to train on.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is cut short or no such checkpoint, or it is of another task or network.
        """
        path = Path(path)
        content = load_checkpoint(path, _KIND)
        if content["task_id"] is None and task is None:
            raise ValueError(f"{path} was made with a task of its own, {content['task']}: give it as task=")
        if content["network_config"] is None and network is None:
            raise ValueError(f"{path} was made with a network of its own: give one like it as network=")
        learner = cls(
            content["task_id"] if task is None else task,
            network if network is not None else _network_config(content["network_config"]),
            _training_config(content["config"]),
            task_arguments=json.loads(content["task_arguments"]) if task is None else None,
            device=device,
        )
        if repr(learner.task) != content["task"]:
            raise ValueError(f"{path} is of the task {content['task']}, got {learner.task!r}")
        try:
            learner.model.load_state_dict(content["model"])
            learner.optimizer.load_state_dict(content["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is of another network than {learner.model.network}: {error}") from error
        learner.progress = Progress(**content["progress"])
        if run_dir is None and path.name == "checkpoint.pt":
            run_dir = path.parent
        learner.run_dir = None if run_dir is None else Path(run_dir)
        return learner

    def _train_step(self, step: int) -> tuple[float, float, float]:
        """Make one optimiser step; return the loss, the gradient's norm before clipping, and the mean rate eta."""
        config = self.config
        rng = np.random.default_rng([config.seed, 0, step])
        episode = self._training_task(step).sample(rng, config.batch_size)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step)
        output = self.model.run(episode)
        loss = self.model.loss(output, episode)
        self.optimizer.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.max_gradient_norm))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"step {step}: loss {loss.item()}, gradient norm {norm}; a lower learning_rate than "
                f"{config.learning_rate} or max_gradient_norm than {config.max_gradient_norm} may help"
            )
        self.optimizer.step()
        return loss.item(), norm, math.nan if output.eta is None else output.eta.mean().item()

    def _training_task(self, step: int) -> Task:
        curriculum = self.config.curriculum
        if curriculum is None or self.task_id is None:
            return self.task
        value = curriculum.value_at(step / self.config.steps, getattr(self.task, curriculum.argument))
        return make_task(self.task_id, **{**self.task_arguments, curriculum.argument: value})

    def _evaluate(self, log: RunLog) -> Report:
        report = self.evaluate()
        intact = report.outcomes["intact"]
        self.progress.evaluations.append(
            {"step": self.progress.step, "metric": intact.own.mean, "normalised_score": intact.normalised_score}
        )
        log.evaluation(self.progress.step, self.model, report)
        return report

    def _checkpoint(self) -> None:
        if self.checkpoint_path is not None:
            self.save(self.checkpoint_path)


def _check_curriculum(curriculum: Curriculum, task: Task, task_id: str | None) -> None:
    if task_id is None:
        raise ValueError("a curriculum makes the task anew for each batch: give the task by its id")
    last = getattr(task, curriculum.argument, None)
    if not isinstance(last, int):
        raise ValueError(
            f"curriculum.argument must name a whole-number argument of {task!r}, got {curriculum.argument!r}"
        )
    if not curriculum.first <= last:
        raise ValueError(
            f"curriculum.first must be at most the task's own {curriculum.argument}={last}, got {curriculum.first}"
        )


def _training_config(content: dict[str, Any]) -> SupervisedConfig:
    curriculum = content["curriculum"]
    return SupervisedConfig(**{**content, "curriculum": None if curriculum is None else Curriculum(**curriculum)})


def _network_config(content: dict[str, Any]) -> NetworkConfig:
    return NetworkConfig(**{**content, "plasticity": Plasticity(**content["plasticity"])})
