"""Training from reward alone: a task in, a policy out, by runs that are evaluated, logged and resumed exactly."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from tqdm.auto import tqdm

from plastic_agents.actor_critic.agent import PolicyAgent
from plastic_agents.actor_critic.vec_env import make_sb3_vec_env
from plastic_agents.analysis.probes import Report, probe
from plastic_agents.checkpoint import checking_content, file_identity
from plastic_agents.models.config import NetworkConfig
from plastic_agents.seeding import Stream, stream_seed
from plastic_agents.training.interrupt import Interrupted, deferred_interrupt
from plastic_agents.training.learner import Learner, OnEvaluation, check_arguments, check_device
from plastic_agents.training.reinforcement_config import ReinforcementConfig
from plastic_agents.training.tensorboard import RunLog
from plastic_envs import make_task


class ReinforcementLearner(Learner):
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

    _kind = "policy"
    _length = "total_timesteps"
    _state_names = ("parameters",)

    def __init__(
        self,
        task: str,
        network: NetworkConfig,
        config: ReinforcementConfig,
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
        self.agent = PolicyAgent(self.task, self.model.policy)
        self.evaluation_agent = PolicyAgent(self._evaluation_task(), self.model.policy)
        self._begin_in(run_dir)

    def learn(self, progress_bar: bool = True, on_evaluation: OnEvaluation | None = None) -> Report:
        """Train up to ``config.total_timesteps`` and return the last evaluation.

        On Ctrl-C or SIGTERM the rollout under way and its update are finished and a checkpoint written before
        KeyboardInterrupt or SystemExit(143) is raised; a second signal acts at once.

        Args:
            progress_bar: whether to show one.
            on_evaluation: called with each evaluation, as ``progress.evaluations`` keeps it.

        Raises:
            BlockingIOError: another run holds the run folder.
            FileExistsError: another run has written a checkpoint there meanwhile.
            FloatingPointError: loss or gradient is no longer finite; the last checkpoint is from before.
        """
        if self.progress.step == self._steps(self.config):
            return self.evaluate()
        with self._alone():
            return self._learn(progress_bar, on_evaluation)

    def _learn(self, progress_bar: bool, on_evaluation: OnEvaluation | None) -> Report:
        done, total = self.progress.step, self._steps(self.config)
        self.model.num_timesteps = done  # where an earlier call broke off inside a rollout, that is played again
        log = RunLog(self.run_dir, purge_step=done + 1)
        log.settings(self._settings())
        if done == 0:
            extractor: Any = self.model.policy.features_extractor  # a FeaturesExtractor
            self._pretrain(extractor.observation_encoder, log, progress_bar)
        pause = 0.5 if sys.stderr.isatty() else 30.0  # seconds between updates, which in a log file are lines
        bar = tqdm(total=total, initial=done, unit="step", disable=not progress_bar, mininterval=pause)
        with log, bar, deferred_interrupt() as interrupted:
            run = _RunCallback(self, log, bar, interrupted, on_evaluation)
            self.model.set_logger(Logger(None, [_Scalars(log)]))
            self.model.learn(total - done, callback=run, log_interval=1, reset_num_timesteps=False)
        assert run.report is not None  # the last rollout has evaluated
        return run.report

    def evaluate(self) -> Report:
        """Play the evaluation's held-out episodes greedily, the same at every evaluation; all of their steps count."""
        return probe(self.evaluation_agent, episodes=self.config.evaluation_episodes, interventions=("intact",), step=0)

    def _state(self) -> tuple[Any, ...]:
        return (self.model.get_parameters(),)

    def _steps(self, config: ReinforcementConfig) -> int:
        return config.steps(self.task)

    @staticmethod
    def _spans_run(config: ReinforcementConfig) -> bool:
        return config.final_learning_rate < 1 or config.ent_coef > 0

    @staticmethod
    def _config_from(plain: dict[str, Any]) -> ReinforcementConfig:
        return ReinforcementConfig(**plain)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        config: ReinforcementConfig | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
    ) -> ReinforcementLearner:
        """Read a checkpoint, to go on with `learn` or to probe the ``player``.

        A run may go on with another ``total_timesteps``, also after it has finished. With a constant learning rate
        (``final_learning_rate=1``) and ``ent_coef=0`` it then ends with the same bits as a run that was planned so;
        otherwise the schedules span the new number of steps from here on, and there is a warning.

        Args:
            path: what `save` wrote; or ``checkpoint.pt`` in a run folder.
            config: settings to go on with; only ``total_timesteps``, ``evaluate_every``, ``evaluation_episodes`` and
                ``checkpoint_every`` may be other than the run's.
            run_dir: where the run goes on; by default the folder of a ``checkpoint.pt``.
            device: where to train on.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or no such checkpoint, the task is another one now, or the run was made with
                other settings than ``config``.
        """
        path = Path(path)
        known_file = file_identity(path)
        content = cls._read(path, config)
        learner = cls._rebuild(
            path,
            content["task_id"],
            content["network_config"],
            content["config"] if config is None else config,
            task_arguments=content["task_arguments"],
            device=device,
        )
        learner._go_on_from(path, content, known_file, run_dir)
        with checking_content(path):
            if learner.progress.step % learner.config.rollout_size(learner.task):
                raise ValueError(f"step must be a number of whole rollouts, got {learner.progress.step}")
            learner.model.set_parameters(content["parameters"], device=device)
        learner.model.num_timesteps = learner.progress.step
        return learner


class _RunCallback(BaseCallback):
    """What happens between rollouts: evaluations, checkpoints, interrupts and fresh seeds."""

    def __init__(
        self,
        learner: ReinforcementLearner,
        log: RunLog,
        bar: Any,
        interrupted: Interrupted,
        on_evaluation: OnEvaluation | None,
    ) -> None:
        super().__init__()
        self.learner, self.log, self.bar, self.interrupted = learner, log, bar, interrupted
        self.on_evaluation = on_evaluation
        self.report: Report | None = None
        self.began = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps > self.learner.progress.step:
            self._after_update()
        seed = stream_seed(Stream.TRAINING, self.learner.config.seed, self.model.num_timesteps)
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
            raise self.interrupted.error()
        self.began = time.perf_counter()

    def _evaluate(self) -> None:
        self.report = self.learner.evaluate()
        score = self.report.outcomes["intact"].normalised_score
        self.bar.set_postfix(normalised_score=f"{score:.3f}", refresh=False)
        self.learner._record(self.report, self.log, self.on_evaluation)


class _Scalars(KVWriter):
    """What the algorithm logs, into the run's own log."""

    def __init__(self, log: RunLog) -> None:
        self.log = log

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        kept = {name: value for name, value in key_values.items() if "tensorboard" not in (key_excluded[name] or ())}
        self.log.scalars(step, kept)

    def close(self) -> None:
        """The run closes its log."""
