"""Reinforcement learning on a task: runs of an actor-critic that are evaluated, logged and resumed exactly."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecEnv

from plastic_agents.actor_critic.a2c import RecurrentA2C
from plastic_agents.actor_critic.agent import PolicyAgent
from plastic_agents.actor_critic.on_policy import RecurrentActorCritic
from plastic_agents.actor_critic.ppo import RecurrentPPO
from plastic_agents.actor_critic.schedules import CosineSchedule, LinearSchedule
from plastic_agents.actor_critic.vec_env import make_sb3_vec_env
from plastic_agents.analysis.report import Report
from plastic_agents.checkpoint import checking_content
from plastic_agents.models.config import NetworkConfig
from plastic_agents.seeding import Stream, preserved_generators, stream_seed
from plastic_agents.training.interrupt import Interrupted, deferred_interrupt
from plastic_agents.training.learner import Learner, LearnerState, OnEvaluation, check_device
from plastic_agents.training.progress_bar import make_progress_bar
from plastic_agents.training.reinforcement_config import ReinforcementConfig
from plastic_agents.training.tensorboard import RunLog


class ReinforcementLearner(Learner):
    """Trains a recurrent actor-critic on a task by reinforcement learning.

    At the start of every rollout, all environments are reset and all random number generators are seeded from (seed,
    number of steps so far), so a run that is resumed from its checkpoint ends with the same bits as a run without
    interruption.

    Args:
        task: id of an environment of this package, or of one that `plastic_envs.register` registered.
        network: description of the policy's core.
        config: settings of training.
        task_arguments: keyword arguments of the task.
        run_dir: folder for the checkpoint (``checkpoint.pt``) and TensorBoard's files; ``None`` writes nothing.
        device: device of training, such as ``"cpu"`` or ``"cuda"``.

    Attributes:
        model: the algorithm, a `RecurrentPPO` or `RecurrentA2C` of stable-baselines3.
        agent: the `PolicyAgent` of the model's policy on ``task``.
        evaluation_agent: the same policy on the task of test episodes, for the probes.
        validation_agent: the same policy on the task of validation episodes.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown id or wrong argument.
        FileExistsError: ``run_dir`` holds the checkpoint of an earlier run: `load` resumes it.
    """

    _checkpoint_kind = "policy"
    _config_class = ReinforcementConfig
    _length_setting = "total_timesteps"
    _tensor_names = ("parameters",)
    _first_counted_step = 0

    def __init__(
        self,
        task: str,
        network: NetworkConfig,
        config: ReinforcementConfig,
        *,
        task_arguments: Mapping[str, Any] | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
        _state: LearnerState | None = None,
    ) -> None:
        if not isinstance(task, str):
            raise TypeError(f"task must be an environment id, got {task!r}")
        if not isinstance(network, NetworkConfig):
            raise TypeError(f"network must be a NetworkConfig, got {network!r}")
        super().__init__(task, network, config, task_arguments, run_dir, _state)
        # Without a module prefix, which Gymnasium would import: a checkpoint must not choose what is imported.
        # Nothing reads the scores of the oracle on training episodes, which take longer than the episodes themselves.
        arguments = {**self.task_arguments, "reference_scores": False}
        env = make_sb3_vec_env(task.rpartition(":")[2], config.n_envs, env_kwargs=arguments)
        with preserved_generators():
            self.model = self._make_model(env, network, check_device(device))
        self.agent = PolicyAgent(self.task, self.model.policy)
        test_task = self._evaluation_task()
        self.evaluation_agent = PolicyAgent(test_task, self.model.policy)
        self.validation_agent = PolicyAgent(self._validation_task(test_task), self.model.policy)
        if _state is not None:
            size = config.rollout_size(self.task)
            if self.progress.step % size:
                raise ValueError(f"step must be a multiple of the rollout size {size}, got {self.progress.step}")
            self.model.set_parameters(_state.tensors["parameters"], device=device)
            self.model.num_timesteps = self.progress.step

    def _make_model(self, env: VecEnv, network: NetworkConfig, device: torch.device) -> RecurrentActorCritic:
        """Make the algorithm with an untrained policy.

        Raises:
            ValueError: rewards are to be predicted for actions that are not Discrete.
        """
        config = self.config
        if config.reward_prediction_coef and not isinstance(self.task.action_space, spaces.Discrete):
            raise ValueError(
                "reward_prediction_coef must be 0 for actions that are not Discrete, got "
                f"{config.reward_prediction_coef}"
            )
        # The learner pretrains the encoder itself.
        network = replace(network, encoder=replace(network.encoder, pretraining=0))
        n_steps = config.rollout_episodes * self.task.episode_length
        arguments: dict[str, Any] = {
            "learning_rate": CosineSchedule(config.learning_rate, config.learning_rate * config.final_learning_rate),
            "n_steps": n_steps,
            "sequence_length": n_steps,
            "gamma": config.gamma,
            "gae_lambda": config.gae_lambda,
            "normalize_advantage": True,
            "ent_coef": LinearSchedule(config.ent_coef),
            "vf_coef": config.vf_coef,
            "max_grad_norm": config.max_grad_norm,
            "reward_prediction_coef": config.reward_prediction_coef,
            "normalize_predicted_rewards": config.normalize_predicted_rewards,
            "policy_kwargs": {"network": network, "outputs": config.outputs, "log_std_init": config.log_std_init},
            "seed": config.seed,
            "device": device,
        }
        if config.algorithm == "a2c":
            return RecurrentA2C("RecurrentPolicy", env, use_rms_prop=False, **arguments)
        return RecurrentPPO(
            "RecurrentPolicy",
            env,
            n_epochs=config.n_epochs,
            batch_size=config.batch_size,
            clip_range=config.clip_range,
            **arguments,
        )

    def learn(self, progress_bar: bool = True, on_evaluation: OnEvaluation | None = None) -> Report:
        """Train up to ``config.total_timesteps`` and return the last evaluation, on validation episodes.

        ``evaluate("test")`` then gives the figure to report.

        On Ctrl-C or SIGTERM, `learn` finishes the current rollout and its update and writes a checkpoint before it
        raises KeyboardInterrupt or SystemExit(143); a second signal acts at once.

        Args:
            progress_bar: whether to show a progress bar.
            on_evaluation: called with each evaluation, an entry of ``progress.evaluations``.

        Raises:
            BlockingIOError: another run holds the run folder.
            FileExistsError: another run has written a checkpoint there in the meantime.
            FloatingPointError: loss or gradient is not finite; the last checkpoint is older.
            RuntimeError: an earlier call was interrupted inside an update; the last checkpoint is whole.
        """
        if self.progress.step == self._total_steps(self.config):
            return self.evaluate()
        with self._lock_run_dir(), preserved_generators():
            return self._learn(progress_bar, on_evaluation)

    def _learn(self, progress_bar: bool, on_evaluation: OnEvaluation | None) -> Report:
        self._check_between_steps()
        step, total = self.progress.step, self._total_steps(self.config)
        self.model.num_timesteps = step  # an earlier call may have ended with an error inside a rollout
        log = RunLog(self.run_dir, purge_step=step + 1)
        log.settings(self._logged_settings())
        if step == 0:
            extractor: Any = self.model.policy.features_extractor  # a FeaturesExtractor
            self._pretrain_encoder(extractor.observation_encoder, log, progress_bar)
        bar = make_progress_bar(total, show=progress_bar, initial=step)
        with log, bar, deferred_interrupt() as interrupted:
            callback = _RunCallback(self, log, bar, interrupted, on_evaluation)
            self.model.set_logger(Logger(None, [_ScalarWriter(log)]))
            self.model.learn(total - step, callback=callback, log_interval=1, reset_num_timesteps=False)
        assert callback.report is not None  # there is an evaluation after the last rollout
        return callback.report

    def _tensors(self) -> dict[str, Any]:
        return {"parameters": self.model.get_parameters()}

    def _total_steps(self, config: ReinforcementConfig) -> int:
        return config.steps(self.task)

    @staticmethod
    def _schedule_depends_on_length(config: ReinforcementConfig) -> bool:
        return config.final_learning_rate < 1 or config.ent_coef > 0

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        config: ReinforcementConfig | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        device: str | torch.device = "cpu",
    ) -> ReinforcementLearner:
        """Load a run from a checkpoint, to resume it with `learn` or to probe its agents.

        You may change ``total_timesteps``, also after the run has finished. With a constant learning rate
        (``final_learning_rate=1``) and ``ent_coef=0``, the run then ends with the same bits as a run that was planned
        with this number. Otherwise the schedules span the new number of steps from here on, and there is a warning.

        Args:
            path: a file that `save` wrote, or ``checkpoint.pt`` in a run folder.
            config: settings with which the run resumes; only ``total_timesteps``, ``evaluate_every``,
                ``evaluation_episodes`` and ``checkpoint_every`` may differ from those of the run.
            run_dir: folder in which the run resumes; by default that of a ``checkpoint.pt``.
            device: device of training.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is damaged or no checkpoint of reinforcement learning, the task has changed, or the
                run has other settings than ``config``.
        """
        state = cls._read_state(path, config, run_dir)
        if state.task_id is None or state.network_config is None:
            raise ValueError(f"{path} cannot be resumed: it must hold the id of a task and a description of a network")
        with checking_content(path, "cannot be resumed"):
            return cls(
                state.task_id,
                state.network_config,
                state.config if config is None else config,
                task_arguments=state.task_arguments,
                device=device,
                _state=state,
            )


class _RunCallback(BaseCallback):
    """The work between rollouts: evaluations, checkpoints, interrupts and seeding."""

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
        self.start = time.perf_counter()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.model.num_timesteps > self.learner.progress.step:
            self._after_update()
        seed = stream_seed(Stream.TRAINING, self.learner.config.seed, self.model.num_timesteps)
        self.model.set_random_seed(seed)
        # Rollouts consist of whole episodes, so a reset cuts none off.
        model: Any = self.model
        model._last_obs = model.env.reset()
        model._last_episode_starts = np.ones(model.n_envs, dtype=bool)
        model._last_state = None

    def _on_rollout_end(self) -> None:
        self.learner._is_inside_update = True

    def _on_training_end(self) -> None:
        self._after_update()

    def _after_update(self) -> None:
        learner, config, progress = self.learner, self.learner.config, self.learner.progress
        size, step = config.rollout_size(learner.task), self.model.num_timesteps
        progress.step = step
        learner._is_inside_update = False
        progress.seconds += time.perf_counter() - self.start
        self.bar.update(size)
        finished = step == config.steps(learner.task)
        if finished or step % config.evaluate_every < size:
            self._evaluate()
        if learner.checkpoint_path is not None and (
            finished or self.interrupted or step % config.checkpoint_every < size
        ):
            learner.save(learner.checkpoint_path)
        if self.interrupted:
            raise self.interrupted.error()
        self.start = time.perf_counter()

    def _evaluate(self) -> None:
        self.report = self.learner.evaluate()
        score = self.report["intact"].normalised_score
        self.bar.set_postfix(normalised_score=f"{score:.3f}", refresh=False)
        self.learner._record_evaluation(self.report, self.log, self.on_evaluation)


class _ScalarWriter(KVWriter):
    """Writes the algorithm's scalars to the log of the run."""

    def __init__(self, log: RunLog) -> None:
        self.log = log

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        excluded = {name for name, formats in key_excluded.items() if "tensorboard" in (formats or ())}
        self.log.scalars(step, {name: value for name, value in key_values.items() if name not in excluded})

    def close(self) -> None:
        """Do nothing: the learner closes the log."""
