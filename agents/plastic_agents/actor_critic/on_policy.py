"""The base class of the recurrent algorithms: rollouts that carry the recurrent state, and updates over sequences."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from plastic_agents.actor_critic.action_masks import environment_masks, offers_masks
from plastic_agents.actor_critic.heads import LatentHeads, PolicyOutput
from plastic_agents.actor_critic.lstm_policy import LstmPolicy, check_no_lstm_arguments
from plastic_agents.actor_critic.policy import MAX_ACTIVITY, RecurrentPolicy
from plastic_agents.actor_critic.rollout_buffer import SequenceRolloutBuffer, Sequences
from plastic_agents.actor_critic.save_load import SCHEDULES, ModelFiles
from plastic_agents.actor_critic.schedules import own_schedule
from plastic_agents.config_checks import COUNT, FRACTION, NON_NEGATIVE, POSITIVE, Check
from plastic_agents.models.core import State, map_state
from plastic_agents.optimisation import make_step
from plastic_envs.validation import flag, one_of

Self = TypeVar("Self", bound="RecurrentActorCritic")

# The smallest weight of a new rollout in the mean square of returns, which therefore forgets returns of long ago.
_SMALLEST_SCALE_WEIGHT = 0.02
# Share of steps with a restart after an overflow above which users are warned.
_MANY_OVERFLOWS = 0.01

_CHECKS: dict[str, Check] = {
    **dict.fromkeys(("n_steps", "n_epochs", "batch_size", "sequence_length"), COUNT),
    **dict.fromkeys(("gamma", "gae_lambda"), FRACTION),
    **dict.fromkeys(("learning_rate", "ent_coef", "vf_coef", "reward_prediction_coef"), NON_NEGATIVE),
    **dict.fromkeys(("clip_range", "clip_range_vf", "target_kl"), POSITIVE),
    "max_grad_norm": lambda name, value: math.inf if value == math.inf else POSITIVE(name, value),
    **dict.fromkeys(("normalize_advantage", "normalize_predicted_rewards"), flag),
}
_OPTIONAL = ("batch_size", "sequence_length", "clip_range", "clip_range_vf", "target_kl")  # A2C has no clip_range


class RecurrentActorCritic(ModelFiles):
    """The base class of `RecurrentPPO` and `RecurrentA2C`."""

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        # One policy supports all observation spaces; the names of Stable-Baselines3 and sb3-contrib are aliases.
        **dict.fromkeys(("RecurrentPolicy", "MlpPolicy", "CnnPolicy", "MultiInputPolicy"), RecurrentPolicy),
        **dict.fromkeys(("MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy"), LstmPolicy),
    }
    policy: RecurrentPolicy  # type: ignore[assignment]  # not an ActorCriticPolicy, because it has a recurrent state
    rollout_buffer: SequenceRolloutBuffer  # type: ignore[assignment]  # no RolloutBuffer, which knows no sequences
    default_log_interval: ClassVar[int] = 1
    n_epochs: int = 1
    normalize_advantage: bool

    def __init__(
        self,
        policy: str | type[RecurrentPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule,
        batch_size: int | None,
        use_sde: bool,
        sde_sample_freq: int,
        sequence_length: int | None,
        reward_prediction_coef: float,
        normalize_predicted_rewards: bool,
        **kwargs: Any,
    ) -> None:
        if use_sde or sde_sample_freq != -1:
            raise ValueError(
                "use_sde must be False and sde_sample_freq -1: the recurrent policies explore by the standard "
                "deviation of Box actions, which policy_kwargs={'log_std_init': ...} sets"
            )
        if isinstance(policy, str):
            one_of("policy", policy, tuple(self.policy_aliases))
        if isinstance(env, VectorEnv):
            raise TypeError(f"env must be made a VecEnv first, by make_sb3_vec_env or SB3VecEnv, got {env!r}")
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.reward_prediction_coef = reward_prediction_coef
        self.normalize_predicted_rewards = normalize_predicted_rewards
        self._last_state: State | None = None
        self._has_masks = False
        self._has_warned_of_overflows = False
        super().__init__(
            policy,  # type: ignore[arg-type]  # not an ActorCriticPolicy
            env,  # type: ignore[arg-type]  # None for a model that is loaded to predict
            learning_rate,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
            **kwargs,
        )
        if policy in ("CnnPolicy", "CnnLstmPolicy") and not is_image_space(
            self.observation_space, normalized_image=not self.policy_kwargs.get("normalize_images", True)
        ):
            raise ValueError(
                f"{policy!r} needs images, uint8 from 0 to 255 or with normalize_images=False any Box of three axes, "
                f"got {self.observation_space}: use {policy.replace('Cnn', 'Mlp')!r}"
            )

    def _setup_model(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name, None)
            # A schedule has no range, and None is a setting of some arguments only.
            if not (callable(value) or (value is None and name in _OPTIONAL)):
                setattr(self, name, check(name, value))
        if self.normalize_advantage and self.n_steps * self.n_envs == 1:
            raise ValueError("n_steps must be more than 1 with one environment, to normalise advantages, got 1")
        length, self.n_minibatches = self._divide_rollout()
        for name in SCHEDULES:
            if hasattr(self, name):
                setattr(self, name, own_schedule(getattr(self, name)))
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        self.rollout_buffer = SequenceRolloutBuffer(
            self.n_steps,
            self.observation_space,
            self.action_space,
            device=self.device,
            gae_lambda=self.gae_lambda,
            gamma=self.gamma,
            n_envs=self.n_envs,
            sequence_length=length,
        )
        self.policy_kwargs = self._policy_arguments()
        policy: Any = self.policy_class(
            self.observation_space,
            self.action_space,
            self.lr_schedule,
            **{**self._default_optimizer(), **self.policy_kwargs},
        )
        self.policy = policy.to(self.device)
        self._has_masks = self.env is not None and offers_masks(self.env)

    def _divide_rollout(self) -> tuple[int, int]:
        """Return the length of sequences and the number of minibatches.

        By default sequences are as long as the rollout, or as ``batch_size`` if that divides it. If there are fewer
        environments than minibatches, they are as long as the largest divisor of ``n_steps`` up to ``batch_size``.

        Raises:
            ValueError: ``sequence_length`` does not divide ``n_steps``, or sequences would be shorter than half of
                ``batch_size``.
        """
        n_steps, batch_size, length = self.n_steps, self.batch_size, self.sequence_length
        n_minibatches = 1 if batch_size is None else max(round(n_steps * self.n_envs / batch_size), 1)
        if length is None:
            length = n_steps
            if batch_size is not None and (n_steps % batch_size == 0 or n_minibatches > self.n_envs):
                length = max(divisor for divisor in range(1, batch_size + 1) if n_steps % divisor == 0)
                if 2 * length < min(batch_size, n_steps):
                    raise ValueError(
                        f"batch_size must be near a divisor of n_steps={n_steps}, into whose sequences the rollout is "
                        f"cut, got {batch_size}; or set sequence_length"
                    )
        elif n_steps % length:
            raise ValueError(f"sequence_length must divide n_steps={n_steps}, got {length}")
        return length, min(n_minibatches, n_steps // length * self.n_envs)

    def _default_optimizer(self) -> dict[str, Any]:
        """Return the arguments of the policy for its optimiser, which ``policy_kwargs`` replace."""
        return {}

    def _policy_arguments(self) -> dict[str, Any]:
        """Return ``policy_kwargs`` with defaults that depend on other arguments and on the environment."""
        if self.policy_class is RecurrentPolicy:
            check_no_lstm_arguments(self.policy_kwargs)
        arguments = dict(self.policy_kwargs)
        if self.reward_prediction_coef > 0 and not arguments.setdefault("predicts_reward", True):
            raise ValueError(
                "policy_kwargs['predicts_reward'] must be True for the auxiliary loss of reward_prediction_coef="
                f"{self.reward_prediction_coef}, got {arguments['predicts_reward']!r}"
            )
        normalised = self._vec_normalize_env is not None and self._vec_normalize_env.norm_obs
        if normalised and "features_extractor_class" not in arguments:
            # The bounds of the space are not those of normalised observations.
            arguments["features_extractor_kwargs"] = {
                "rescale": False,
                **(arguments.get("features_extractor_kwargs") or {}),
            }
        return arguments

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the environment of further training, as in Stable-Baselines3.

        Raises:
            ValueError: ``env`` normalises observations, which the policy rescales by their bounds.
        """
        env = self._wrap_env(env, self.verbose)
        self._check_normalisation(env)
        super().set_env(env, force_reset)
        self._has_masks = offers_masks(env)

    def predict(  # type: ignore[override]  # the state is a State
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: State | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, State]:
        """Return actions and the next state; see `RecurrentPolicy.predict`.

        Raises:
            ValueError: the model's environment has action masks, and ``action_masks`` is ``None``.
        """
        if action_masks is None and self._has_masks:
            raise ValueError(
                "action_masks must be given, because the environment has them: env.env_method('action_masks'), or "
                "evaluate with sb3_contrib.common.maskable.evaluation.evaluate_policy"
            )
        return self.policy.predict(observation, state, episode_start, deterministic, action_masks)

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train for ``total_timesteps`` steps, counted over all environments; as in Stable-Baselines3.

        ``log_interval`` is by default 1 for PPO and 100 for A2C, and ``tb_log_name`` is the algorithm's name.

        Raises:
            TypeError: a schedule is a function or of an unknown class, which `save` could not write after training.
            FloatingPointError: training has diverged.
        """
        self._check_schedules()
        return super().learn(
            total_timesteps,
            callback,
            self.default_log_interval if log_interval is None else log_interval,
            tb_log_name or type(self).__name__,
            reset_num_timesteps,
            progress_bar,
        )

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: SequenceRolloutBuffer,  # type: ignore[override]  # no RolloutBuffer
        n_rollout_steps: int,
    ) -> bool:
        """Play ``n_rollout_steps`` steps in each environment; return False if the callback stops the rollout.

        At a truncation (``TimeLimit.truncated``), the reward is bootstrapped with the value of the last observation.

        Raises:
            FloatingPointError: the policy's outputs are not finite.
        """
        assert self._last_obs is not None
        assert self._last_episode_starts is not None
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.on_rollout_start()
        state = self._last_state
        if state is None:
            state = self.policy.initial_state(env.num_envs)
        new_obs: Any = self._last_obs
        dones = self._last_episode_starts
        n_overflows = 0
        for _ in range(n_rollout_steps):
            obs, episode_starts = new_obs, dones
            action_masks = environment_masks(env) if self._has_masks else None
            with torch.no_grad(), self._divergence_located():
                starts = torch.as_tensor(episode_starts, dtype=torch.bool, device=self.device)
                n_starts = int(starts.sum())
                starts = self.policy.core_starts(state, starts)
                n_overflows += int(starts.sum()) - n_starts
                rollout_buffer.begin_step(state, starts.cpu().numpy())
                masks = None if action_masks is None else torch.as_tensor(action_masks, device=self.device)
                actions, values, log_probs, state = self.policy(
                    obs_as_tensor(obs, self.device), state, starts, action_masks=masks
                )
            # Callbacks read these locals under the names and types of Stable-Baselines3's algorithms.
            clipped_actions = self.policy.to_actions(actions)
            actions = actions.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            self.num_timesteps += env.num_envs
            callback.update_locals(locals())
            continue_training = callback.on_step()
            # Also before a stop, after which a user may continue training.
            self._last_obs, self._last_episode_starts, self._last_state = new_obs, dones, state
            if not continue_training:
                return False
            self._update_info_buffer(infos, dones)
            bootstrap = self._truncation_bootstrap(infos, dones, state)
            rollout_buffer.add(obs, actions, rewards, bootstrap, episode_starts, values, log_probs, action_masks)
        # Bootstrap the value of the next observation where the episode has not ended.
        last_values = torch.zeros(env.num_envs)
        if not dones.all():
            with torch.no_grad(), self._divergence_located():
                last_values = self.policy.predict_values(obs_as_tensor(new_obs, self.device), state)
        rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
        self._update_value_scale(rollout_buffer.returns)
        self._log_overflows(n_overflows / (n_rollout_steps * env.num_envs))
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _log_overflows(self, rate: float) -> None:
        """Log at which share of a rollout's steps a core restarted after an overflow; warn once if many did."""
        if rate > 0:
            self.logger.record("rollout/overflow_rate", rate)
        if rate > _MANY_OVERFLOWS and not self._has_warned_of_overflows:
            self._has_warned_of_overflows = True
            warnings.warn(
                f"hidden activity exceeded {MAX_ACTIVITY:g} at {rate:.1%} of the steps of a rollout, after which a "
                "core restarts without memory: bound or normalise the observations, for example by VecNormalize, or "
                "choose a cell with bounded activity, such as 'tanh_rnn' or 'lstm'",
                stacklevel=2,
            )

    def _update_value_scale(self, returns: np.ndarray) -> None:
        """Set the unit of the value head to the root mean square of all returns so far, or to 1 if that is less.

        Otherwise the squared errors of large returns would dominate the loss.
        """
        heads = self.policy.heads
        if isinstance(heads, LatentHeads):
            weight = max(returns.size / self.num_timesteps, _SMALLEST_SCALE_WEIGHT)
            mean_square = heads.value_scale.item() ** 2
            mean_square += min(weight, 1.0) * (float(np.square(returns).mean()) - mean_square)
            heads.rescale_value(max(mean_square**0.5, 1.0))

    def _truncation_bootstrap(self, infos: list[dict[str, Any]], dones: np.ndarray, state: State) -> np.ndarray:
        """Return the discounted value of the last observation of each truncated episode, else 0: [n_envs]."""
        bootstrap = np.zeros(len(dones), dtype=np.float32)
        truncated = [i for i in np.flatnonzero(dones) if infos[i].get("TimeLimit.truncated", False)]
        if truncated:
            final_obs = [infos[i]["terminal_observation"] for i in truncated]
            stacked: Any
            if isinstance(final_obs[0], dict):
                stacked = {name: np.stack([obs[name] for obs in final_obs]) for name in final_obs[0]}
            else:
                stacked = np.stack(final_obs)
            with torch.no_grad(), self._divergence_located():
                lanes = torch.as_tensor(truncated, device=self.device)
                obs_tensor = self.policy.obs_to_tensor(stacked)[0]
                values = self.policy.predict_values(obs_tensor, map_state(lambda tensor: tensor[lanes], state))
            bootstrap[truncated] = self.gamma * values.cpu().numpy()
        return bootstrap

    def train(self) -> None:
        """Update the policy: ``n_epochs`` passes over the sequences of the rollout, in minibatches.

        Raises:
            FloatingPointError: the loss, its gradient or a parameter is not finite.
        """
        self._set_update_mode()
        self._update_learning_rate(self.policy.optimizer)
        totals: dict[str, list[float]] = {}
        with self._divergence_located():
            for epoch in range(self.n_epochs):
                self._n_updates += 1
                if not self._train_epoch(totals):
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {totals['approx_kl'][-1]:.2f}")
                    break
            if not all(torch.isfinite(parameter).all() for parameter in self.policy.parameters()):
                raise FloatingPointError("a parameter is not finite")
            self._update_statistics()
        for name, values in totals.items():
            self.logger.record(f"train/{name}", float(np.mean(values)))
        buffer = self.rollout_buffer
        self.logger.record(
            "train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        )
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _set_update_mode(self) -> None:
        """Set the policy to evaluation mode, as in the rollout.

        In training mode, batch normalisation and dropout would change the probability ratios before the first step of
        an update.
        """
        self.policy.set_training_mode(False)
        for module in self.policy.modules():
            # cuDNN differentiates recurrent modules in training mode only; without dropout the outputs are the same.
            if isinstance(module, nn.RNNBase) and not module.dropout:
                module.train()

    def _update_statistics(self) -> None:
        """Update the running statistics of batch normalisation, for the next rollout and its update."""
        self.policy.set_training_mode(True)  # the network of a frozen encoder stays in evaluation mode
        norms = [m for m in self.policy.modules() if isinstance(m, _BatchNorm) and m.training]
        self.policy.set_training_mode(False)
        if not norms:
            return
        for norm in norms:
            norm.train()
        with torch.no_grad():
            for sequences in self.rollout_buffer.sequences(self.n_minibatches, self.policy.initial_state):
                self._evaluate(sequences)
        self.policy.set_training_mode(False)

    @contextmanager
    def _divergence_located(self) -> Iterator[None]:
        """Add the step and the most likely causes to the message of a FloatingPointError."""
        try:
            yield
        except FloatingPointError as error:
            raise FloatingPointError(
                f"step {self.num_timesteps}, update {self._n_updates}: {error}; a lower learning_rate than "
                f"{self.lr_schedule(self._current_progress_remaining):.3g} or max_grad_norm than "
                f"{self.max_grad_norm} may help"
            ) from error

    def _train_epoch(self, totals: dict[str, list[float]]) -> bool:
        """Pass over all sequences; append metrics to ``totals``; return False if the KL limit ends the update."""
        for sequences in self.rollout_buffer.sequences(self.n_minibatches, self.policy.initial_state):
            loss, metrics = self._loss(sequences)
            for name, value in metrics.items():
                totals.setdefault(name, []).append(value)
            if self._exceeds_target_kl(metrics):
                return False
            norm = make_step(loss, self.policy.optimizer, self.policy.parameters(), self.max_grad_norm)
            totals.setdefault("gradient_norm", []).append(norm)
        return True

    def _loss(self, sequences: Sequences) -> tuple[Tensor, dict[str, float]]:
        """Return the loss and the metrics for the log."""
        output, log_prob, entropy, eta = self._evaluate(sequences)
        advantages = sequences.advantages
        if self.normalize_advantage:
            advantages = _standardised(advantages)
        policy_loss, metrics = self._policy_loss(log_prob, sequences.old_log_prob, advantages)
        value_loss = self._value_loss(output.value, sequences)
        entropy_loss = -entropy.mean()
        loss = policy_loss + self._scheduled(self.ent_coef) * entropy_loss + self.vf_coef * value_loss
        metrics |= {
            "value_loss": value_loss.item(),
            "entropy_loss": entropy_loss.item(),
        }
        if output.rewards is not None:
            predicted = output.rewards.gather(1, sequences.actions.unsqueeze(1)).squeeze(1)
            rewards = sequences.rewards
            if self.normalize_predicted_rewards:
                rewards = _standardised(rewards)
            prediction_loss = functional.mse_loss(predicted, rewards)
            loss = loss + self.reward_prediction_coef * prediction_loss
            metrics["reward_prediction_loss"] = prediction_loss.item()
        if eta is not None:
            metrics["eta"] = eta.mean().item()
        metrics["loss"] = loss.item()
        return loss, metrics

    def _evaluate(self, sequences: Sequences) -> tuple[PolicyOutput, Tensor, Tensor, Tensor | None]:
        return self.policy.evaluate_actions(
            sequences.observations,
            sequences.actions,
            sequences.state,
            sequences.core_starts,
            sequences.action_masks,
        )

    def _policy_loss(
        self, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the policy loss and its metrics; all arguments have shape [N]."""
        raise NotImplementedError

    def _scheduled(self, value: float | Schedule) -> float:
        """Return the value of a number or a schedule at this point of training."""
        return FloatSchedule(value if callable(value) else float(value))(self._current_progress_remaining)

    def _value_loss(self, values: Tensor, sequences: Sequences) -> Tensor:
        return self._scaled_mse(values, sequences.returns)

    def _scaled_mse(self, values: Tensor, returns: Tensor) -> Tensor:
        """Return the mean squared error of values [N] in units of the value head."""
        scale = self.policy.heads.value_scale.to(values)
        return functional.mse_loss(values / scale, returns / scale)

    def _exceeds_target_kl(self, metrics: dict[str, float]) -> bool:
        """Return whether the KL divergence from the rollout's policy is so large that this update must stop."""
        return False


def _standardised(values: Tensor) -> Tensor:
    """Return values [N] minus their mean, in standard deviations; a single one stays as it is."""
    return (values - values.mean()) / (values.std() + 1e-8) if len(values) > 1 else values
