"""Training from reward alone: a task in, a policy out, by runs that are evaluated, logged and resumed exactly."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from tqdm.auto import tqdm

from agents.actor_critic.config import ActorCriticConfig
from agents.actor_critic.player import PolicyPlayer
from agents.checkpoint import load_checkpoint, save_checkpoint
from agents.interrupt import Interrupted, deferred_interrupt
from agents.logs import RunLog
from agents.networks.factory import NetworkConfig
from agents.probes import Report, probe
from agents.runs import Progress, Run, check_arguments, check_device
from agents.sb3_vec_env import make_sb3_vec_env
from plastic_envs import make_task

KIND = "policy"


class PolicyLearner(Run):
    """Trains a recurrent actor-critic on a task by what it earns there.

    Every rollout begins with new episodes, and with all generators of random numbers seeded anew from (seed, number of
    steps made), so a run that is resumed from its checkpoint ends with the same bits as one that ran through.

    Args:
        task: id of an environment of this package, or of one that `plastic_envs.register` made.
        network: the policy's core.
        config: how to train.
        task_arguments: keyword arguments of the task.
        run_dir: folder for the checkpoint (``checkpoint.pt``) and TensorBoard's files; ``None`` writes nothing.
        device: where to train, such as ``"cpu"`` or ``"cuda"``.

    Attributes:
        model: the `RecurrentPPO` or `RecurrentA2C`, with all that Stable-Baselines3's algorithms have.
        player: its policy as a player of the evaluations' task, for the probes.

    Raises:
        ValueError: an unknown id or wrong argument.
        FileExistsError: ``run_dir`` holds the checkpoint of an earlier run: `load` resumes it.
    """

    def __init__(
        self,
        task: str,
        network: NetworkConfig,
        config: ActorCriticConfig,
        *,
        task_arguments: Mapping[str, Any] | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.task_id, self.network_config, self.config = task, network, config
        self.task_arguments = check_arguments(task_arguments or {})
        self.task = make_task(task, **self.task_arguments)
        env = make_sb3_vec_env(task, config.n_envs, env_arguments=self.task_arguments)
        self.model = config.make(env, self.task, network, check_device(device))
        self.player = PolicyPlayer(self._evaluation_task(), self.model.policy)
        self._begin_in(run_dir)

    def learn(self, progress_bar: bool = True) -> Report:
        """Train up to ``config.total_timesteps`` and return the last evaluation.

        On an interrupt (Ctrl-C) the rollout under way and its update are finished and a checkpoint written before
        KeyboardInterrupt is raised.

        Raises:
            FloatingPointError: loss or gradient is no longer finite; the last checkpoint is from before.
        """
        done, total = self.progress.step, self.config.steps(self.task)
        if done == total:
            return self.evaluate()
        self.model.num_timesteps = done  # where an earlier call broke off inside a rollout, that is played again
        log = RunLog(self.run_dir, purge_step=done + 1)
        log.settings(self._settings())
        if done == 0:
            self._pretrain(self.model.policy.core, log, progress_bar)
        pause = 0.5 if sys.stderr.isatty() else 30.0  # seconds between updates, which in a log file are lines
        bar = tqdm(total=total, initial=done, unit="step", disable=not progress_bar, mininterval=pause)
        with log, bar, deferred_interrupt() as interrupted:
            run = _Run(self, log, bar, interrupted)
            self.model.set_logger(Logger(None, [_Scalars(log)]))
            self.model.learn(total - done, callback=run, log_interval=1, reset_num_timesteps=False)
        assert run.report is not None  # the last rollout has evaluated
        return run.report

    def evaluate(self) -> Report:
        """Play the evaluation's held-out episodes greedily, the same at every evaluation; all of their steps count."""
        return probe(self.player, episodes=self.config.evaluation_episodes, interventions=("intact",), step=0)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all that `load` needs to go on exactly; the file appears whole or not at all."""
        return save_checkpoint(
            path,
            KIND,
            {
                "task_id": self.task_id,
                "task_arguments": json.dumps(self.task_arguments),
                "task": repr(self.task),
                "network_config": asdict(self.network_config),
                "config": asdict(self.config),
                "progress": asdict(self.progress),
                "parameters": self.model.get_parameters(),
            },
        )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        run_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
    ) -> PolicyLearner:
        """Read a checkpoint, to go on with `learn` or to probe the ``player``.

        Args:
            path: what `save` wrote; or ``checkpoint.pt`` in a run folder.
            run_dir: where the run goes on; by default the folder of a ``checkpoint.pt``.
            device: where to train on.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is cut short or no such checkpoint, or the task is another one now.
        """
        path = Path(path)
        content = load_checkpoint(path, KIND)
        try:
            config = ActorCriticConfig(**content["config"])
            network = NetworkConfig.from_plain(content["network_config"])
            progress = Progress(**content["progress"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} was written by another version of this project: {error}") from error
        arguments = json.loads(content["task_arguments"])
        learner = cls(content["task_id"], network, config, task_arguments=arguments, device=device)
        if repr(learner.task) != content["task"]:
            raise ValueError(f"{path} is of the task {content['task']}, got {learner.task!r}")
        learner.model.set_parameters(content["parameters"], device=device)
        learner.model.num_timesteps = progress.step
        learner._go_on_from(path, progress, run_dir)
        return learner


class _Run(BaseCallback):
    """What happens between rollouts: evaluations, checkpoints, interrupts and fresh seeds."""

    def __init__(self, learner: PolicyLearner, log: RunLog, bar: Any, interrupted: Interrupted) -> None:
        super().__init__()
        self.learner, self.log, self.bar, self.interrupted = learner, log, bar, interrupted
        self.report: Report | None = None
        self.began = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps > self.learner.progress.step:
            self._after_update()
        seed = rollout_seed(self.learner.config.seed, self.model.num_timesteps)
        self.model.set_random_seed(seed)
        # Episodes have ended with the last rollout: nothing is lost by a reset.
        model: Any = self.model
        model._last_obs = model.env.reset()
        model._last_episode_starts = np.ones(model.n_envs, dtype=bool)
        model._last_state = None

    def _on_training_end(self) -> None:
        self._after_update()

    def _after_update(self) -> None:
        learner, config, progress = self.learner, self.learner.config, self.learner.progress
        size, step = config.rollout_size(learner.task), self.model.num_timesteps
        progress.step = step
        progress.seconds += time.perf_counter() - self.began
        self.bar.update(size)
        last = step == config.steps(learner.task)
        if last or step % config.evaluate_every < size:
            self._evaluate()
        if learner.checkpoint_path is not None and (last or self.interrupted or step % config.checkpoint_every < size):
            learner.save(learner.checkpoint_path)
        if self.interrupted:
            raise KeyboardInterrupt
        self.began = time.perf_counter()

    def _evaluate(self) -> None:
        self.report = self.learner.evaluate()
        score = self.report.outcomes["intact"].normalised_score
        self.bar.set_postfix(normalised_score=f"{score:.3f}", refresh=False)
        self.learner._record(self.report, self.log)


class _Scalars(KVWriter):
    """What the algorithm logs, into the run's own log."""

    def __init__(self, log: RunLog) -> None:
        self.log = log

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        kept = {name: value for name, value in key_values.items() if "tensorboard" not in (key_excluded[name] or ())}
        self.log.scalars(step, kept)

    def close(self) -> None:
        """The run closes its log."""


def rollout_seed(seed: int, step: int) -> int:
    """The seed of the rollout that begins after ``step`` steps."""
    return int(np.random.SeedSequence(seed, spawn_key=(0, step)).generate_state(1)[0])
