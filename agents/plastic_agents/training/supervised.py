"""The supervised wrapper: batches of a task in, a trained network out."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from plastic_agents.analysis.probes import Report, probe
from plastic_agents.analysis.supervised_agent import SupervisedAgent
from plastic_agents.checkpoint import checking_content, file_identity
from plastic_agents.models.config import NetworkConfig
from plastic_agents.models.core import RecurrentCore
from plastic_agents.optimisation import make_step
from plastic_agents.seeding import Stream, stream_rng, stream_seed
from plastic_agents.training.distributed import ProcessGroup
from plastic_agents.training.interrupt import deferred_interrupt
from plastic_agents.training.learner import Learner, OnEvaluation, check_arguments, check_device
from plastic_agents.training.supervised_config import Curriculum, SupervisedConfig
from plastic_agents.training.tensorboard import RunLog
from plastic_envs import EpisodeBatch, Task, make_task


class SupervisedLearner(Learner):
    """Trains a network on batches drawn straight from a task.

    The batch of step k, and what dropout draws there, are functions of (seed, k) alone, so a run that is resumed from
    its checkpoint ends with the same bits as one that ran through. Started by ``torchrun``, each process takes its
    share of that batch, and the first alone writes files.

    Args:
        task: id of an environment, such as ``"PlasticRNN/CueReward-v0"``, or a `Task`.
        network: a description, or a network with the interface of `plastic_agents.models.config.Network`.
        config: how to train.
        task_arguments: keyword arguments of the task, where it is given by id.
        run_dir: folder for the checkpoint (``checkpoint.pt``) and TensorBoard's files; ``None`` writes nothing.
        device: where to train, such as ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: an unknown id or wrong argument, a network that does not fit, a task whose observations depend on
            the player's actions, or what several processes cannot train together.
        FileExistsError: ``run_dir`` holds the checkpoint of an earlier run: `load` resumes it.
    """

    _kind = "supervised"
    _length = "steps"
    _state_names = ("model", "optimizer")
    _joint = True

    def __init__(
        self,
        task: Task | str,
        network: NetworkConfig | RecurrentCore,
        config: SupervisedConfig = SupervisedConfig(),
        *,
        task_arguments: Mapping[str, Any] | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.task_id = task if isinstance(task, str) else None
        self.task_arguments = check_arguments(task_arguments or {})
        if self.task_id is None and self.task_arguments:
            raise ValueError(f"task_arguments go with a task given by id, got {self.task_arguments} with {task!r}")
        self.task = make_task(task, **self.task_arguments) if isinstance(task, str) else task
        if self.task.interactive:
            raise ValueError(f"{self.task!r} shows players the outcome of their own actions: train it by reinforcement")
        if config.curriculum is not None:
            _check_curriculum(config.curriculum, self.task, self.task_id, self.task_arguments)
        self.config = config
        self.network_config = network if isinstance(network, NetworkConfig) else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.agent = SupervisedAgent(self.task, network).to(check_device(device))
        self._processes = ProcessGroup.here()
        self._processes.check(config.batch_size, self.agent, self.agent.device)
        self._objective: nn.Module = _Objective(self.agent)
        self._evaluated = self._make_evaluated()
        self.optimizer = torch.optim.AdamW(
            self.agent.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, amsgrad=True
        )
        self._begin_in(run_dir)

    @property
    def evaluation_agent(self) -> SupervisedAgent:
        """The network on the task of evaluations; `model`, unless ``config.evaluation_arguments`` make that another."""
        return self._evaluated.train(self.agent.training)

    def learn(self, progress_bar: bool = True, on_evaluation: OnEvaluation | None = None) -> Report:
        """Train up to ``config.steps`` and return the last evaluation.

        On Ctrl-C or SIGTERM the step under way is finished and a checkpoint written before KeyboardInterrupt or
        SystemExit(143) is raised; a second signal acts at once. Of several processes all stop after the same step.

        Args:
            progress_bar: whether to show one.
            on_evaluation: called with each evaluation, as ``progress.evaluations`` keeps it.

        Raises:
            BlockingIOError: another run holds the run folder.
            FileExistsError: another run has written a checkpoint there meanwhile.
            FloatingPointError: loss or gradient is no longer finite; the last checkpoint is from before.
            ValueError: processes begin at different steps, as where they do not share the folder of the run.
        """
        step = self.progress.step
        if not self._processes.agree(step, self.agent.device):
            raise ValueError(f"all processes must see the same run_dir, this one found {step} steps in it")
        if step == self.config.steps:
            return self.evaluate()
        with self._alone():
            return self._learn(progress_bar, on_evaluation)

    def _learn(self, progress_bar: bool, on_evaluation: OnEvaluation | None) -> Report:
        config, progress, processes = self.config, self.progress, self._processes
        progress_bar = progress_bar and processes.first
        log = RunLog(self.run_dir if processes.first else None, purge_step=progress.step + 1)
        log.settings(self._settings())
        self.agent.train()
        if progress.step == 0:
            self._pretrain(self.agent.observation_encoder, log, progress_bar)
        self._objective = processes.join(_Objective(self.agent), self.agent.device)
        pause = 0.5 if sys.stderr.isatty() else 30.0  # seconds between updates, which in a log file are lines
        bar = tqdm(total=config.steps, initial=progress.step, unit="step", disable=not progress_bar, mininterval=pause)
        report = None
        with log, bar, deferred_interrupt() as interrupted:
            while progress.step < config.steps:
                began = time.perf_counter()
                loss, gradient_norm, eta = self._train_step(progress.step)
                progress.step += 1
                progress.seconds += time.perf_counter() - began
                bar.update()
                if progress.step % 10 == 0:
                    loss, eta = self._mean(loss, eta)
                    bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
                    values = {"loss": loss, "gradient_norm": gradient_norm, "eta": eta}
                    values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
                    log.scalars(progress.step, {f"train/{name}": value for name, value in values.items()})
                last = progress.step == config.steps
                if last or progress.step % config.evaluate_every == 0:
                    report = self.evaluate()
                    self._record(report, log, on_evaluation)
                (stop,) = self._mean(float(bool(interrupted)))  # one that was interrupted stops all
                if last or stop or progress.step % config.checkpoint_every == 0:
                    self._checkpoint()
                if stop:
                    raise interrupted.error()
        assert report is not None  # the last step has evaluated
        return report

    def evaluate(self) -> Report:
        """Play the evaluation's held-out episodes, the same at every evaluation."""
        return probe(self.evaluation_agent, episodes=self.config.evaluation_episodes, interventions=("intact",))

    def _state(self) -> tuple[Any, ...]:
        return self.agent.state_dict(), self.optimizer.state_dict()

    def _steps(self, config: SupervisedConfig) -> int:
        return config.steps

    @staticmethod
    def _spans_run(config: SupervisedConfig) -> bool:
        return config.curriculum is not None or (config.schedule == "cosine" and config.final_learning_rate < 1)

    @staticmethod
    def _config_from(plain: dict[str, Any]) -> SupervisedConfig:
        return SupervisedConfig.from_plain(plain)

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
        """Read a checkpoint, to go on with `learn` or to probe the ``model``.

        A run may go on with another number of ``steps``, also after it has finished. With a constant learning rate
        and no curriculum it then ends with the same bits as a run that was planned so; otherwise the schedules span
        the new number of steps from here on, and there is a warning.

        Args:
            path: what `save` wrote; or ``checkpoint.pt`` in a run folder.
            task: the task, if the run was given one that is not behind an id.
            network: a network like the run's, if the run was given one instead of a description.
            config: settings to go on with; only ``steps``, ``evaluate_every``, ``evaluation_episodes`` and
                ``checkpoint_every`` may be other than the run's.
            run_dir: where the run goes on; by default the folder of a ``checkpoint.pt``.
            device: where to train on.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or no such checkpoint, or it is of another task or network, or was made with
                other settings than ``config``.
        """
        path = Path(path)
        known_file = file_identity(path)
        content = cls._read(path, config)
        if content["task_id"] is None and task is None:
            raise ValueError(f"{path} was made with a task of its own, {content['task']}: give it as task=")
        if content["network_config"] is None and network is None:
            raise ValueError(f"{path} was made with a network of its own: give one like it as network=")
        learner = cls._rebuild(
            path,
            content["task_id"] if task is None else task,
            content["network_config"] if network is None else network,
            content["config"] if config is None else config,
            task_arguments=content["task_arguments"] if task is None else None,
            device=device,
        )
        learner._go_on_from(path, content, known_file, run_dir)
        with checking_content(path, f"is of another network than {learner.agent.core}"):
            learner.agent.load_state_dict(content["model"])
        with checking_content(path):
            learner.optimizer.load_state_dict(content["optimizer"])
        return learner

    def _make_evaluated(self) -> SupervisedAgent:
        task = self._evaluation_task()
        return self.agent if task is self.task else self.agent.for_task(task)

    def _train_step(self, step: int) -> tuple[float, float, float]:
        """Make one optimiser step; return the loss, the gradient's norm before clipping, and the mean rate eta.

        Of several processes, loss and eta are of this one's share, such that their mean is that of the batch.
        """
        config = self.config
        rng = stream_rng(Stream.TRAINING, config.seed, step)
        batch = self._training_task(step).sample(rng, config.batch_size)
        share = batch[self._processes.share(config.batch_size)]
        # The loss is a mean over scored steps, of which shares may have unequal parts.
        weight = self._processes.count * int(share.scored.sum()) / int(batch.scored.sum())
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step)
        # DropBlock and dropout draw from torch's own generators.
        with torch.random.fork_rng([self.agent.device] if self.agent.device.type == "cuda" else []):
            torch.manual_seed(stream_seed(Stream.DROPOUT, config.seed, step, self._processes.rank))
            loss, eta = self._objective(share)
        loss = weight * loss
        try:
            norm = make_step(loss, self.optimizer, self.agent.parameters(), config.max_gradient_norm)
        except FloatingPointError as error:
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
        return make_task(self.task_id, **{**self.task_arguments, curriculum.argument: value})

    def _checkpoint(self) -> None:
        if self.checkpoint_path is not None and self._processes.first:
            self.save(self.checkpoint_path)
        self._mean(0.0)  # the others wait: torchrun ends all processes where one has ended by an interrupt

    def _mean(self, *values: float) -> tuple[float, ...]:
        return self._processes.mean(values, self.agent.device)


class _Objective(nn.Module):
    """Loss and mean rate eta of a batch, in the form of a module, as DistributedDataParallel needs it."""

    def __init__(self, model: SupervisedAgent) -> None:
        super().__init__()
        self.agent = model

    def forward(self, episode: EpisodeBatch) -> tuple[Tensor, float]:
        output = self.agent(episode)
        eta = math.nan if output.eta is None else output.eta.mean().item()
        return self.agent.loss(output, episode), eta


def _check_curriculum(curriculum: Curriculum, task: Task, task_id: str | None, arguments: Mapping[str, Any]) -> None:
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
    easiest = make_task(task_id, **{**arguments, curriculum.argument: curriculum.first})
    if (easiest.observation_space, easiest.action_space) != (task.observation_space, task.action_space):
        raise ValueError(f"curriculum.argument must leave the task's spaces as they are, got {curriculum.argument!r}")
