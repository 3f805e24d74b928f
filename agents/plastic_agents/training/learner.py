"""What runs share, however they train: how far they are, and what they accept."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from plastic_agents.analysis.probes import Report
from plastic_agents.atomic_files import locked, remove_temporaries
from plastic_agents.checkpoint import checking_content, file_identity, load_checkpoint, save_checkpoint
from plastic_agents.models.config import NetworkConfig
from plastic_agents.models.observation_encoder import ObservationEncoder
from plastic_agents.training.distributed import ProcessGroup
from plastic_agents.training.pretraining import pretrain
from plastic_agents.training.tensorboard import RunLog
from plastic_envs import Task, make_task
from plastic_envs.tasks import FewShotClassification

Self = TypeVar("Self", bound="Learner")

CHECKPOINT = "checkpoint.pt"  # name of the file in a run folder
_WATCHING = ("evaluate_every", "evaluation_episodes", "checkpoint_every")  # settings that change nothing in training


OnEvaluation = Callable[[Mapping[str, float]], object]


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps made: of the optimiser in supervised runs, of the environments in those of policies.
        seconds: time that they took.
        evaluations: one dict each.
        extensions: each change of the planned number of steps: ``{"step": when it was made, "planned": old number}``.
    """

    step: int = 0
    seconds: float = 0.0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    extensions: list[dict[str, int]] = field(default_factory=list)


class Learner:
    """The folder of a run, its checkpoint and its evaluations; base of `SupervisedLearner` and `ReinforcementLearner`.

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
    agent: Any  # an Agent
    evaluation_agent: Any  # an Agent, on the task of evaluations
    _kind: ClassVar[str]  # of checkpoints
    _length: ClassVar[str]  # name of the setting that says how many steps a run has
    _state_names: ClassVar[tuple[str, ...]]  # of what `_state` returns
    _joint: ClassVar[bool] = False  # whether several processes can train together
    _known_file: tuple[int, ...] | None = None  # the checkpoint in `run_dir` that this run read or wrote last

    def _begin_in(self, run_dir: str | os.PathLike[str] | None) -> None:
        count = ProcessGroup.here().count
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

    @property
    def checkpoint_path(self) -> Path | None:
        """Where `learn` writes checkpoints."""
        return None if self.run_dir is None else self.run_dir / CHECKPOINT

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all that `load` needs to go on exactly; the file appears whole or not at all."""
        content = {
            "task_id": self.task_id,
            "task_arguments": self.task_arguments,
            "task": repr(self.task),
            "network_config": None if self.network_config is None else asdict(self.network_config),
            "config": asdict(self.config),
            "progress": asdict(self.progress),
            **dict(zip(self._state_names, self._state(), strict=True)),
        }
        written = save_checkpoint(path, self._kind, content)
        if self.checkpoint_path is not None and written.resolve() == self.checkpoint_path.resolve():
            self._known_file = file_identity(written)
        return written

    def _state(self) -> tuple[Any, ...]:
        """Return what training has changed: parameters and the optimiser's state."""
        raise NotImplementedError

    def _steps(self, config: Any) -> int:
        """Return how many steps a run with these settings has."""
        raise NotImplementedError

    @staticmethod
    def _spans_run(config: Any) -> bool:
        """Return whether a schedule depends on the number of steps."""
        raise NotImplementedError

    @staticmethod
    def _config_from(plain: dict[str, Any]) -> Any:
        """Undo ``dataclasses.asdict``."""
        raise NotImplementedError

    @classmethod
    def _read(cls, path: Path, config: Any) -> dict[str, Any]:
        """Return a checkpoint's content with objects for settings and progress; check that ``config`` fits them."""
        content = load_checkpoint(path, cls._kind)
        names = {"task_id", "task_arguments", "task", "network_config", "config", "progress", *cls._state_names}
        with checking_content(path):
            if content.keys() != names:
                raise ValueError(f"it must hold {sorted(names)}, got {sorted(map(str, content))}")
            types = {"config": cls._config_from, "progress": lambda plain: Progress(**plain)}
            if content["network_config"] is not None:
                types["network_config"] = NetworkConfig.from_plain
            for name, make in types.items():
                made = make(content[name])
                if asdict(made) != content[name]:
                    raise ValueError(f"{name} must hold {sorted(asdict(made))}, got {sorted(content[name])}")
                content[name] = made
            step = content["progress"].step
            if not (isinstance(step, int) and step >= 0):
                raise ValueError(f"step must be a whole number, 0 or more, got {step!r}")
        if config is not None:
            changeable = (*_WATCHING, cls._length)
            fixed = {name: value for name, value in asdict(content["config"]).items() if name not in changeable}
            _check_same(path, fixed, asdict(config))
        return content

    @classmethod
    def _rebuild(cls: type[Self], path: Path, *arguments: Any, **options: Any) -> Self:
        make: Any = cls  # deriving classes have constructors of their own
        with checking_content(path, "cannot be resumed"):
            rebuilt: Self = make(*arguments, **options)
        return rebuilt

    def _go_on_from(
        self, path: Path, content: dict[str, Any], known_file: tuple[int, ...] | None, run_dir: Any
    ) -> None:
        """Go on in ``run_dir``, by default in the folder of a run's own checkpoint; ``config`` may be a new one."""
        if repr(self.task) != content["task"]:
            raise ValueError(f"{path} is of the task {content['task']}, got {self.task!r}")
        self.progress = content["progress"]
        planned, done = self._steps(content["config"]), self.progress.step
        with checking_content(path):
            if done > planned:
                raise ValueError(f"step must be at most {planned}, got {done}")
        wanted = self._steps(self.config)
        if done and wanted != planned:
            self._change_length(path, planned, wanted)
        if run_dir is None and path.name == CHECKPOINT:
            run_dir = path.parent
        self.run_dir = None if run_dir is None else Path(run_dir)
        if self.checkpoint_path is not None and file_identity(self.checkpoint_path) == known_file:
            self._known_file = known_file

    def _change_length(self, path: Path, planned: int, wanted: int) -> None:
        done = self.progress.step
        if wanted < done:
            raise ValueError(f"{self._length} must be at least the {done} steps that {path} has made, got {wanted}")
        self.progress.extensions.append({"step": done, "planned": planned})
        if self._spans_run(self.config):
            warnings.warn(
                f"{path} was planned with {planned} steps and now has {wanted}: from step {done} on, schedules span "
                f"{wanted} steps, so the result is not that of a run planned with {wanted}",
                stacklevel=4,
            )

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

        The settings that `load` lets change may be others.

        Raises:
            ValueError: ``run_dir`` holds a run with other settings, or its checkpoint cannot be read.
        """
        make: Any = cls  # deriving classes have constructors and `load` of their own
        checkpoint = Path(run_dir) / CHECKPOINT
        if not checkpoint.exists():
            fresh: Self = make(task, network, config, task_arguments=task_arguments, run_dir=run_dir, device=device)
            return fresh
        learner: Self = make.load(checkpoint, config=config, device=device)
        found = {"task": learner.task_id, "task_arguments": learner.task_arguments}
        wanted = {"task": task, "task_arguments": check_arguments(task_arguments or {})}
        _check_same(checkpoint, found, wanted)
        _check_same(checkpoint, asdict(learner.network_config), asdict(network))
        return learner

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other runs out of the folder, and remove what a killed one left there.

        Raises:
            BlockingIOError: another run is in the folder.
            FileExistsError: another run has been there since this one began, or was loaded.
        """
        path = self.checkpoint_path
        if path is None or not ProcessGroup.here().first:
            yield
            return
        with locked(path.parent) as is_locked:
            if file_identity(path) != self._known_file:
                raise FileExistsError(
                    f"{path} is another run's, or was changed by one: load it, or choose another run_dir"
                )
            if is_locked:
                remove_temporaries(path)
            yield

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

    def _pretrain(self, encoder: ObservationEncoder, log: RunLog, progress_bar: bool) -> None:
        """Pretrain the image encoder if its description asks for it; an interrupt discards the pretraining."""
        steps = 0 if self.network_config is None else self.network_config.encoder.pretraining
        if not steps:
            return
        if not isinstance(self.task, FewShotClassification):
            raise TypeError(
                f"encoder.pretraining needs a FewShotClassification, whose images it takes, got {self.task!r}"
            )
        began = time.perf_counter()
        (image_encoder,) = encoder.image_encoders
        accuracy = pretrain(image_encoder.network, self.task, steps, seed=self.config.seed, progress_bar=progress_bar)
        self.progress.seconds += time.perf_counter() - began
        log.scalars(0, {"pretraining/accuracy": accuracy})

    def _settings(self) -> dict[str, Any]:
        """What tells runs apart where they are compared; without what has no effect."""
        if self.network_config is None:
            network: dict[str, Any] = {"network": type(self.evaluation_agent.core).__name__}
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
            "parameters": sum(parameter.numel() for parameter in self.evaluation_agent.parameters()),
            "algorithm": "supervised",  # unless the configuration names another
            **{name: value for name, value in asdict(self.config).items() if name not in _WATCHING},
        }

    def _record(self, report: Report, log: RunLog, on_evaluation: OnEvaluation | None) -> None:
        """Keep an evaluation, log it, and tell the caller of `learn`."""
        intact = report.outcomes["intact"]
        self.progress.evaluations.append(
            {"step": self.progress.step, "metric": intact.own.mean, "normalised_score": intact.normalised_score}
        )
        log.evaluation(self.progress.step, self.evaluation_agent, report)
        if on_evaluation is not None:
            on_evaluation(self.progress.evaluations[-1])


def check_device(device: str | torch.device) -> torch.device:
    """The device; of several processes that train together, each has a GPU of its own.

    Raises:
        ValueError: torch cannot use it here.
    """
    try:
        checked = ProcessGroup.here().place(torch.device(device))
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


def _check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that a run's settings, by name, are those of its checkpoint at ``path``.

    Raises:
        ValueError: they are not.
    """
    for name, value in found.items():
        if value != wanted[name]:
            raise ValueError(
                f"{path.parent} holds a run with other settings: {name} is {value!r} there, got {wanted[name]!r}; "
                "choose another folder, or remove it"
            )
