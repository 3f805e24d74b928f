"""Supervised learning on batches of a task."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from plastic_agents.analysis.report import Report
from plastic_agents.analysis.supervised_agent import SupervisedAgent
from plastic_agents.checkpoint import checking_content
from plastic_agents.models.config import NetworkConfig
from plastic_agents.models.core import RecurrentCore
from plastic_agents.optimisation import make_step
from plastic_agents.seeding import Stream, stream_rng, stream_seed
from plastic_agents.training.distributed import ProcessGroup
from plastic_agents.training.interrupt import deferred_interrupt
from plastic_agents.training.learner import Learner, LearnerState, OnEvaluation, check_device
from plastic_agents.training.progress_bar import make_progress_bar
from plastic_agents.training.supervised_config import Curriculum, SupervisedConfig
from plastic_agents.training.tensorboard import RunLog
from plastic_envs import EpisodeBatch, Task, make_task


class SupervisedLearner(Learner):
    """Trains a network on batches that are sampled from a task.

    The batch of step k and its dropout masks are functions of (seed, k) alone, so a run that is resumed from its
    checkpoint ends with the same bits as a run without interruption. With ``torchrun``, each process takes a slice of
    that batch, and only the main process writes files.

    Args:
        task: id of an environment, such as ``"PlasticRNN/CueReward-v0"``, or a `Task`.
        network: a description, or a `plastic_agents.RecurrentCore`.
        config: settings of training.
        task_arguments: keyword arguments of a task that is given by id.
        run_dir: folder for the checkpoint (``checkpoint.pt``) and TensorBoard's files; ``None`` writes nothing.
        device: device of training, such as ``"cpu"`` or ``"cuda"``.

    Attributes:
        agent: the `SupervisedAgent` that is trained, on ``task``.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown id or wrong argument, a network that does not fit, an interactive task, or a network or
            batch size that several processes cannot train together.
        FileExistsError: ``run_dir`` holds the checkpoint of an earlier run: `load` resumes it.
    """

    _checkpoint_kind = "supervised"
    _config_class = SupervisedConfig
    _length_setting = "steps"
    _tensor_names = ("model", "optimizer")
    _supports_torchrun = True

    def __init__(
        self,
        task: Task | str,
        network: NetworkConfig | RecurrentCore,
        config: SupervisedConfig = SupervisedConfig(),
        *,
        task_arguments: Mapping[str, Any] | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
        _state: LearnerState | None = None,
    ) -> None:
        super().__init__(task, network, config, task_arguments, run_dir, _state)
        if self.task.interactive:
            raise ValueError(
                f"{self.task!r} is interactive and cannot be trained by supervision; use ReinforcementLearner "
                "(--algo ppo)"
            )
        if config.curriculum is not None:
            _check_curriculum(config.curriculum, self.task, self.task_id, self.task_arguments)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.agent = SupervisedAgent(self.task, network).to(check_device(device))
        self._processes = ProcessGroup.from_env()
        self._processes.check(config.batch_size, self.agent, self.agent.device)
        self._loss_module: nn.Module = _LossModule(self.agent)
        self._easier_task: Task | None = None  # the last one of the curriculum
        test_task = self._evaluation_task()
        self._evaluation_agent = self._agent_for(test_task)
        self._validation_agent = self._agent_for(self._validation_task(test_task))
        self.optimizer = torch.optim.AdamW(
            self.agent.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, amsgrad=True
        )
        if _state is not None:
            with checking_content("it", f"is of another network than {self.agent.core}"):
                self.agent.load_state_dict(_state.tensors["model"])
            self.optimizer.load_state_dict(_state.tensors["optimizer"])

    @property
    def evaluation_agent(self) -> SupervisedAgent:
        """The trained agent on the task of test episodes; ``agent`` itself without ``config.evaluation_arguments``."""
        return self._evaluation_agent.train(self.agent.training)

    @property
    def validation_agent(self) -> SupervisedAgent:
        """The trained agent on the task of validation episodes."""
        return self._validation_agent.train(self.agent.training)

    def learn(self, progress_bar: bool = True, on_evaluation: OnEvaluation | None = None) -> Report:
        """Train up to ``config.steps`` and return the last evaluation, on validation episodes.

        ``evaluate("test")`` then gives the figure to report.

        On Ctrl-C or SIGTERM, `learn` finishes the current step and writes a checkpoint before it raises
        KeyboardInterrupt or SystemExit(143); a second signal acts at once. With several processes, all stop after the
        same step.

        Args:
            progress_bar: whether to show a progress bar.
            on_evaluation: called with each evaluation, an entry of ``progress.evaluations``.

        Raises:
            BlockingIOError: another run holds the run folder.
            FileExistsError: another run has written a checkpoint there in the meantime.
            FloatingPointError: loss or gradient is not finite; the last checkpoint is older.
            RuntimeError: an earlier call was interrupted inside an update; the last checkpoint is whole.
            ValueError: processes start at different steps, for example because they do not share the run folder.
        """
        step = self.progress.step
        if not self._processes.all_equal(step, self.agent.device):
            raise ValueError(f"all processes must see the same run_dir, this one found {step} steps in it")
        if step == self.config.steps:
            return self.evaluate()
        with self._lock_run_dir():
            return self._learn(progress_bar, on_evaluation)

    def _learn(self, progress_bar: bool, on_evaluation: OnEvaluation | None) -> Report:
        self._check_between_steps()
        config, progress, processes = self.config, self.progress, self._processes
        progress_bar = progress_bar and processes.is_main
        log = RunLog(self.run_dir if processes.is_main else None, purge_step=progress.step + 1)
        log.settings(self._logged_settings())
        self.agent.train()
        if progress.step == 0:
            self._pretrain_encoder(self.agent.observation_encoder, log, progress_bar)
        self._loss_module = processes.wrap(_LossModule(self.agent), self.agent.device)
        bar = make_progress_bar(config.steps, show=progress_bar, initial=progress.step)
        report = None
        with log, bar, deferred_interrupt() as interrupted:
            while progress.step < config.steps:
                start = time.perf_counter()
                loss, gradient_norm, eta = self._train_step(progress.step)
                progress.step += 1
                self._is_inside_update = False
                progress.seconds += time.perf_counter() - start
                bar.update()
                if progress.step % 10 == 0:
                    loss, eta = self._mean(loss, eta)
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    values = {"loss": loss, "gradient_norm": gradient_norm, "eta": eta}
                    values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
                    log.scalars(progress.step, {f"train/{name}": value for name, value in values.items()})
                finished = progress.step == config.steps
                if finished or progress.step % config.evaluate_every == 0:
                    report = self.evaluate()
                    self._record_evaluation(report, log, on_evaluation)
                (stop,) = self._mean(float(bool(interrupted)))  # an interrupt of one process stops all
                if finished or stop or progress.step % config.checkpoint_every == 0:
                    self._write_checkpoint()
                if stop:
                    raise interrupted.error()
        assert report is not None  # there is an evaluation after the last step
        return report

    def _tensors(self) -> dict[str, Any]:
        return {"model": self.agent.state_dict(), "optimizer": self.optimizer.state_dict()}

    def _total_steps(self, config: SupervisedConfig) -> int:
        return config.steps

    @staticmethod
    def _schedule_depends_on_length(config: SupervisedConfig) -> bool:
        return config.curriculum is not None or (config.schedule == "cosine" and config.final_learning_rate < 1)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        task: Task | None = None,
        network: RecurrentCore | None = None,
        config: SupervisedConfig | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
    ) -> SupervisedLearner:
        """Load a run from a checkpoint, to resume it with `learn` or to probe its agents.

        You may change the number of ``steps``, also after the run has finished. With a constant learning rate and no
        curriculum, the run then ends with the same bits as a run that was planned with this number. Otherwise the
        schedules span the new number of steps from here on, and there is a warning.

        Args:
            path: a file that `save` wrote, or ``checkpoint.pt`` in a run folder.
            task: the task, for a run that was given a `Task` instead of an id.
            network: a network like that of the run, for a run that was given a network instead of a description.
            config: settings with which the run resumes; only ``steps``, ``evaluate_every``, ``evaluation_episodes``
                and ``checkpoint_every`` may differ from those of the run.
            run_dir: folder in which the run resumes; by default that of a ``checkpoint.pt``.
            device: device of training.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged, is no checkpoint of a supervised run, or is of another task, of another
                network or with other settings than given.
        """
        state = cls._read_state(path, config, run_dir)
        if state.task_id is None and task is None:
            raise ValueError(f"{path} was made with a Task object, {state.task}: give it as task=")
        if state.network_config is None and network is None:
            raise ValueError(f"{path} was made with a network object: give one like it as network=")
        with checking_content(path, "cannot be resumed"):
            return cls(
                state.task_id if task is None else task,  # type: ignore[arg-type]  # one is not None
                state.network_config if network is None else network,  # type: ignore[arg-type]  # one is not None
                state.config if config is None else config,
                task_arguments=state.task_arguments if task is None else None,
                device=device,
                _state=state,
            )

    def _agent_for(self, task: Task) -> SupervisedAgent:
        agent: SupervisedAgent = self.agent
        return agent if task is self.task else agent.for_task(task)

    def _train_step(self, step: int) -> tuple[float, float, float]:
        """Make one optimiser step; return the loss, the gradient's norm before clipping, and the mean rate eta.

        With several processes, loss and eta are of this process's slice, weighted so that their mean over processes is
        that of the batch.
        """
        config = self.config
        rng = stream_rng(Stream.TRAINING, config.seed, step)
        batch = self._training_task(step).sample(rng, config.batch_size)
        local_batch = batch[self._processes.batch_slice(config.batch_size)]
        # The loss is a mean over scored steps, whose number can differ between slices.
        weight = self._processes.world_size * int(local_batch.scored.sum()) / int(batch.scored.sum())
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step)
        # DropBlock and dropout draw from torch's global generators.
        on_cuda = self.agent.device.type == "cuda"
        with torch.random.fork_rng([self.agent.device] if on_cuda else []):
            seed = stream_seed(Stream.DROPOUT, config.seed, step, self._processes.rank)
            torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 1 ms: it prepares all kinds of devices
            if on_cuda:
                torch.cuda.manual_seed(seed)
            loss, eta = self._loss_module(local_batch)
        loss = weight * loss
        self._is_inside_update = True
        try:
            norm = make_step(loss, self.optimizer, self.agent.parameters(), config.max_gradient_norm)
        except FloatingPointError as error:
            self._is_inside_update = False  # the error comes before the step
            raise FloatingPointError(
                f"step {step}: {error}; a lower learning_rate than {config.learning_rate} or max_gradient_norm than "
                f"{config.max_gradient_norm} may help"
            ) from error
        return loss.item(), norm, eta

    def _training_task(self, step: int) -> Task:
        curriculum = self.config.curriculum
        if curriculum is None or self.task_id is None:
            return self.task
        value = curriculum.value_at(step / self.config.steps, getattr(self.task, curriculum.argument))
        if self._easier_task is None or getattr(self._easier_task, curriculum.argument) != value:
            self._easier_task = make_task(self.task_id, **{**self.task_arguments, curriculum.argument: value})
        return self._easier_task

    def _write_checkpoint(self) -> None:
        if self.checkpoint_path is not None and self._processes.is_main:
            self.save(self.checkpoint_path)
        self._mean(0.0)  # a barrier: torchrun kills the main process if another one ends by an interrupt first

    def _mean(self, *values: float) -> tuple[float, ...]:
        return self._processes.all_mean(values, self.agent.device)


class _LossModule(nn.Module):
    """Loss and mean rate eta of a batch, as a module because DistributedDataParallel wraps modules."""

    def __init__(self, agent: SupervisedAgent) -> None:
        super().__init__()
        self.agent = agent

    def forward(self, episode: EpisodeBatch) -> tuple[Tensor, float]:
        output = self.agent(episode)
        eta = math.nan if output.eta is None else output.eta.mean().item()
        return self.agent.loss(output, episode), eta


def _check_curriculum(curriculum: Curriculum, task: Task, task_id: str | None, arguments: Mapping[str, Any]) -> None:
    if task_id is None:
        raise ValueError("a curriculum makes a new task for each batch: give the task by its id")
    final = getattr(task, curriculum.argument, None)
    if not isinstance(final, int):
        raise ValueError(
            f"curriculum.argument must name a whole-number argument of {task!r}, got {curriculum.argument!r}"
        )
    if not curriculum.first <= final:
        raise ValueError(
            f"curriculum.first must be at most the task's own {curriculum.argument}={final}, got {curriculum.first}"
        )
    easiest = make_task(task_id, **{**arguments, curriculum.argument: curriculum.first})
    if (easiest.observation_space, easiest.action_space) != (task.observation_space, task.action_space):
        raise ValueError(f"curriculum.argument must leave the task's spaces as they are, got {curriculum.argument!r}")
