"""The base class of learners: run folder, checkpoints, resumption and evaluations."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from plastic_agents.analysis.colours import network_name
from plastic_agents.analysis.probes import probe
from plastic_agents.analysis.report import Report
from plastic_agents.atomic_files import locked, remove_temporaries
from plastic_agents.checkpoint import checking_content, file_identity, load_checkpoint, save_checkpoint
from plastic_agents.models.config import NO_PLASTICITY, NetworkConfig
from plastic_agents.models.observation_encoder import ObservationEncoder
from plastic_agents.plain_data import from_plain, register, to_plain
from plastic_agents.seeding import HELD_OUT_SPLITS, HeldOutSplit
from plastic_agents.training.distributed import ProcessGroup
from plastic_agents.training.pretraining import pretrain
from plastic_agents.training.tensorboard import RunLog
from plastic_envs import Task, make_task
from plastic_envs.registration import as_task
from plastic_envs.tasks import FewShotClassification
from plastic_envs.validation import one_of

Self = TypeVar("Self", bound="Learner")

CHECKPOINT = "checkpoint.pt"  # name of the file in a run folder
_MONITORING = ("evaluate_every", "evaluation_episodes", "checkpoint_every")  # settings without effect on training


OnEvaluation = Callable[[Mapping[str, float]], object]


@register
@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        step: steps made, of the optimiser in supervised learning and of the environments in reinforcement learning.
        seconds: training time.
        evaluations: one dict per evaluation.
        extensions: one dict per change of the planned number of steps: ``{"step": when, "planned": old number}``.
    """

    step: int = 0
    seconds: float = 0.0
    evaluations: list[dict[str, float]] = field(default_factory=list)
    extensions: list[dict[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class LearnerState:
    """The content of a learner's checkpoint, from which its class constructs the learner.

    Attributes:
        path: the file.
        file: identity of the file before it was read.
        run_dir: the folder in which the run resumes, or None.
        task_id: id of the environment; None for a `Task` object.
        task_arguments: keyword arguments of the task.
        task: representation of the task.
        network_config: description of the network; None for a network object.
        config: settings of the run so far.
        progress: progress of the run.
        tensors: state of the model and of the optimiser.
    """

    path: Path
    file: tuple[int, ...] | None
    run_dir: Path | None
    task_id: str | None
    task_arguments: dict[str, Any]
    task: str
    network_config: NetworkConfig | None
    config: Any
    progress: Progress
    tensors: dict[str, Any]


_SETTING_TYPES = {
    "task_id": str | None,
    "task_arguments": dict[str, Any],
    "task": str,
    "network_config": NetworkConfig | None,
    "progress": Progress,
}


class Learner:
    """The base class of `SupervisedLearner` and `ReinforcementLearner`.

    Attributes:
        task: the task of training.
        agent: the agent that is trained, on ``task``.
        evaluation_agent: the same agent on the task of test episodes.
        validation_agent: the same agent on the task of validation episodes, which evaluations during training use.
        progress: progress of the run.
        run_dir: folder of the checkpoint and of TensorBoard's files; None writes nothing.
    """

    task: Task
    task_id: str | None
    task_arguments: dict[str, Any]
    network_config: Any  # a NetworkConfig, or None for a network object
    config: Any
    progress: Progress
    run_dir: Path | None
    agent: Any  # an Agent
    evaluation_agent: Any  # an Agent
    validation_agent: Any  # an Agent
    _checkpoint_kind: ClassVar[str]
    _config_class: ClassVar[type]
    _length_setting: ClassVar[str]  # name of the setting for the number of steps
    _tensor_names: ClassVar[tuple[str, ...]]  # keys of what `_tensors` returns
    _supports_torchrun: ClassVar[bool] = False
    _first_counted_step: ClassVar[int | None] = None  # of evaluations; None: see `probe`

    def __init__(
        self,
        task: Task | str,
        network: Any,
        config: Any,
        task_arguments: Mapping[str, Any] | None,
        run_dir: str | os.PathLike[str] | None,
        state: LearnerState | None,
    ) -> None:
        world_size = ProcessGroup.from_env().world_size
        if world_size > 1 and not self._supports_torchrun:
            raise ValueError(f"{type(self).__name__} does not support torchrun (world size {world_size})")
        self.task_id = task if isinstance(task, str) else None
        self.task_arguments = check_arguments(task_arguments or {})
        if self.task_id is None and self.task_arguments:
            raise ValueError(f"task_arguments go with a task given by id, got {self.task_arguments} with {task!r}")
        self.task = as_task(task, self.task_arguments)
        if not isinstance(config, self._config_class):
            raise TypeError(f"config must be a {self._config_class.__name__}, got {config!r}")
        self.network_config = network if isinstance(network, NetworkConfig) else None
        self.config = config
        self.progress = Progress() if state is None else self._resumed_progress(state)
        self._is_pretrained = False
        self._is_inside_update = False
        if state is not None:
            run_dir = state.run_dir
        self.run_dir = None if run_dir is None else Path(run_dir)
        # Identity of the checkpoint in `run_dir` that this learner read or wrote last.
        self._checkpoint_identity: tuple[int, ...] | None = None
        if self.checkpoint_path is None:
            return
        if state is not None:
            if file_identity(self.checkpoint_path) == state.file:
                self._checkpoint_identity = state.file
        elif self.checkpoint_path.exists():
            raise FileExistsError(
                f"{self.checkpoint_path} is the checkpoint of an earlier run: resume it with "
                f"{type(self).__name__}.start_or_resume or .load, or choose another run_dir"
            )

    def _resumed_progress(self, state: LearnerState) -> Progress:
        """Return the progress of a checkpoint; record a change of the number of steps."""
        if repr(self.task) != state.task:
            raise ValueError(f"it is of the task {state.task}, got {self.task!r}")
        progress = state.progress
        planned, new = self._total_steps(state.config), self._total_steps(self.config)
        if not 0 <= progress.step <= planned:
            raise ValueError(f"step must be between 0 and {planned}, got {progress.step}")
        if progress.step and new != planned:
            if new < progress.step:
                raise ValueError(
                    f"{self._length_setting} must be at least the {progress.step} steps that {state.path} has made, "
                    f"got {new}"
                )
            progress.extensions.append({"step": progress.step, "planned": planned})
            if self._schedule_depends_on_length(self.config):
                warnings.warn(
                    f"{state.path} was planned with {planned} steps and now has {new}: from step {progress.step} on, "
                    f"schedules span {new} steps, so the result is not that of a run planned with {new}",
                    stacklevel=5,
                )
        return progress

    def _check_between_steps(self) -> None:
        """Check that no earlier call of `learn` was interrupted inside an update.

        Raises:
            RuntimeError: one was.
        """
        if self._is_inside_update:
            raise RuntimeError(
                "an earlier call of learn ended inside an update, which left the network between two steps: load the "
                "last checkpoint to continue from there"
            )

    @property
    def checkpoint_path(self) -> Path | None:
        """The file to which `learn` writes checkpoints."""
        return None if self.run_dir is None else self.run_dir / CHECKPOINT

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a checkpoint from which `load` resumes the run exactly; the file is replaced atomically."""
        settings = {
            "task_id": self.task_id,
            "task_arguments": self.task_arguments,
            "task": repr(self.task),
            "network_config": self.network_config,
            "config": self.config,
            "progress": self.progress,
        }
        content = {name: to_plain(value, name) for name, value in settings.items()}
        written = save_checkpoint(path, self._checkpoint_kind, {**content, **self._tensors()})
        if self.checkpoint_path is not None and written.resolve() == self.checkpoint_path.resolve():
            self._checkpoint_identity = file_identity(written)
        return written

    def _tensors(self) -> dict[str, Any]:
        """Return the state of the model and of the optimiser."""
        raise NotImplementedError

    def _total_steps(self, config: Any) -> int:
        """Return the number of steps of a run with these settings."""
        raise NotImplementedError

    @staticmethod
    def _schedule_depends_on_length(config: Any) -> bool:
        """Return whether a schedule depends on the number of steps."""
        raise NotImplementedError

    @classmethod
    def _read_state(
        cls, path: str | os.PathLike[str], config: Any, run_dir: str | os.PathLike[str] | None
    ) -> LearnerState:
        """Read a checkpoint; check that ``config`` differs from its settings only where it may.

        Args:
            path: the file.
            config: settings with which the run resumes; None for those in the file.
            run_dir: folder in which the run resumes; by default that of a run's own checkpoint.
        """
        path = Path(path)
        file = file_identity(path)
        content = load_checkpoint(path, cls._checkpoint_kind)
        types: dict[str, Any] = {**_SETTING_TYPES, "config": cls._config_class}
        names = {*types, *cls._tensor_names}
        with checking_content(path):
            if content.keys() != names:
                raise ValueError(f"it must hold {sorted(names)}, got {sorted(map(str, content))}")
            settings = {name: from_plain(content[name], name, type_) for name, type_ in types.items()}
        if config is not None:
            changeable = (*_MONITORING, cls._length_setting)
            fixed = {name: value for name, value in asdict(settings["config"]).items() if name not in changeable}
            _check_same(path, fixed, _as_read(config))
        if run_dir is None and path.name == CHECKPOINT:
            run_dir = path.parent
        return LearnerState(
            path=path,
            file=file,
            run_dir=None if run_dir is None else Path(run_dir),
            tensors={name: content[name] for name in cls._tensor_names},
            **settings,
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
        """Start a run in ``run_dir``, or resume the run that is there, finished or not, if its settings are the same.

        Only the settings that `load` lets you change may differ.

        Raises:
            ValueError: ``run_dir`` holds a run with other settings, or its checkpoint cannot be read.
        """
        make: Any = cls  # subclasses have their own signatures of the constructor and of `load`
        checkpoint = Path(run_dir) / CHECKPOINT
        if not checkpoint.exists():
            started: Self = make(task, network, config, task_arguments=task_arguments, run_dir=run_dir, device=device)
            return started
        learner: Self = make.load(checkpoint, config=config, device=device)
        saved = {"task": learner.task_id, "task_arguments": learner.task_arguments}
        requested = {"task": task, "task_arguments": check_arguments(task_arguments or {})}
        _check_same(checkpoint, saved, requested)
        _check_same(checkpoint, asdict(learner.network_config), _as_read(network))
        return learner

    @contextmanager
    def _lock_run_dir(self) -> Iterator[None]:
        """Lock the run folder against other runs, and remove the temporary files of killed ones.

        Raises:
            BlockingIOError: another run is in the folder.
            FileExistsError: another run has changed the checkpoint since this learner was made or loaded.
        """
        path = self.checkpoint_path
        if path is None or not ProcessGroup.from_env().is_main:
            yield
            return
        with locked(path.parent) as is_locked:
            if file_identity(path) != self._checkpoint_identity:
                raise FileExistsError(
                    f"{path} is another run's, or was changed by one: load it, or choose another run_dir"
                )
            if is_locked:
                remove_temporaries(path)
            yield

    def evaluate(self, split: HeldOutSplit = "validation") -> Report:
        """Play held-out episodes, which are the same at each call.

        Args:
            split: "validation" episodes, as in the evaluations during training, or "test" episodes, which are for the
                figure to report once all settings are chosen. They are disjoint, and in a few-shot classification that
                is tested on the classes of the split "test", so are their classes.

        Raises:
            TypeError, ValueError: ``split`` is anything else.
        """
        is_test = one_of("split", split, HELD_OUT_SPLITS) == "test"
        return probe(
            self.evaluation_agent if is_test else self.validation_agent,
            episodes=self.config.evaluation_episodes,
            interventions=("intact",),
            step=self._first_counted_step,
            split=split,
        )

    def _evaluation_task(self) -> Task:
        """Return the task of test episodes: ``task``, or one that differs in ``config.evaluation_arguments``."""
        arguments = check_arguments(self.config.evaluation_arguments, "evaluation_arguments")
        if not arguments:
            return self.task
        if self.task_id is None:
            raise ValueError(f"evaluation_arguments go with a task given by id, got {arguments} with {self.task!r}")
        task = make_task(self.task_id, **{**self.task_arguments, **arguments})
        if (task.observation_space, task.action_space) != (self.task.observation_space, self.task.action_space):
            raise ValueError(f"evaluation_arguments must leave the task's spaces as they are, got {arguments}")
        return task

    def _validation_task(self, test_task: Task) -> Task:
        """Return the task of validation episodes: the test task, or one without the test classes of its images."""
        if not isinstance(test_task, FewShotClassification) or test_task.split != "test" or test_task is self.task:
            return test_task
        split = "validation" if test_task.has_episodes("validation") else getattr(self.task, "split", "train")
        if split != "validation":
            warnings.warn(
                f"the images have no split 'validation' that suffices for {test_task!r}: evaluations during training "
                f"use new episodes of the classes of {split!r}",
                stacklevel=5,
            )
        arguments = check_arguments(self.config.evaluation_arguments, "evaluation_arguments")
        return make_task(str(self.task_id), **{**self.task_arguments, **arguments, "split": split})

    def _pretrain_encoder(self, encoder: ObservationEncoder, log: RunLog, progress_bar: bool) -> None:
        """Pretrain the image encoder if its description says so; an interrupt discards the pretraining."""
        steps = 0 if self.network_config is None else self.network_config.encoder.pretraining
        if not steps or self._is_pretrained:
            return
        if not isinstance(self.task, FewShotClassification):
            raise TypeError(
                f"encoder.pretraining needs a FewShotClassification, whose images it takes, got {self.task!r}"
            )
        start = time.perf_counter()
        (image_encoder,) = encoder.image_encoders
        accuracy = pretrain(image_encoder.network, self.task, steps, seed=self.config.seed, progress_bar=progress_bar)
        self._is_pretrained = True
        self.progress.seconds += time.perf_counter() - start
        log.scalars(0, {"pretraining/accuracy": accuracy})

    def _logged_settings(self) -> dict[str, Any]:
        """Return the settings that have an effect, for comparisons of runs."""
        if self.network_config is None:
            network: dict[str, Any] = {"network": type(self.evaluation_agent.core).__name__}
        else:
            network = asdict(self.network_config)
            if self.network_config.rule == NO_PLASTICITY:
                del network["plasticity"]
            else:
                network["plasticity"] = self.network_config.settings._asdict()
            if network["encoder"]["name"] == "none":
                del network["encoder"]
        return {
            "task": self.task_id or repr(self.task),
            "task_arguments": self.task_arguments,
            **network,
            "parameters": sum(parameter.numel() for parameter in self.evaluation_agent.parameters()),
            "algorithm": "supervised",  # unless the configuration names another
            **{name: value for name, value in asdict(self.config).items() if name not in _MONITORING},
        }

    def _record_evaluation(self, report: Report, log: RunLog, on_evaluation: OnEvaluation | None) -> None:
        """Add an evaluation to the progress and to the log, and call ``on_evaluation``."""
        intact = report["intact"]
        self.progress.evaluations.append(
            {"step": self.progress.step, "metric": intact.metric.mean, "normalised_score": intact.normalised_score}
        )
        config, agent = self.network_config, self.validation_agent
        network = type(agent.core).__name__ if config is None else network_name(config.rule, config.cell)
        log.evaluation(self.progress.step, agent, report, network)
        if on_evaluation is not None:
            on_evaluation(self.progress.evaluations[-1])


def check_device(device: str | torch.device) -> torch.device:
    """Return the device; with several processes that train together, the GPU of this process.

    Raises:
        ValueError: torch cannot use it here.
    """
    try:
        checked = ProcessGroup.from_env().local_device(torch.device(device))
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"device must be one that torch can use here, such as 'cpu', got {device!r}: {reason}"
        ) from error
    return checked


def check_arguments(arguments: Mapping[str, Any], name: str = "task_arguments") -> dict[str, Any]:
    """Return a task's arguments as a checkpoint stores them, for example with lists instead of tuples.

    Raises:
        TypeError: a checkpoint cannot hold them; the message calls them ``name``.
    """
    plain: dict[str, Any] = to_plain(arguments, name)
    return plain


def _as_read(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration as they are after a round trip through a checkpoint."""
    return asdict(from_plain(to_plain(config, "config"), "config"))


def _check_same(path: Path, saved: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Check that the requested settings, by name, are those of the checkpoint at ``path``.

    Raises:
        ValueError: a setting differs.
    """
    for name, value in saved.items():
        if value != requested[name]:
            raise ValueError(
                f"{path.parent} holds a run with other settings: {name} is {value!r} there, got {requested[name]!r}; "
                "choose another folder, or remove it"
            )
