"""Proximal policy optimisation (PPO) for recurrent cores: the policy loss and the value loss.

`plastic_agents.actor_critic.on_policy` adds them, with the entropy, to the whole loss.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import Tensor

from plastic_agents.actor_critic.on_policy import RecurrentActorCritic
from plastic_agents.actor_critic.policy import RecurrentPolicy
from plastic_agents.actor_critic.rollout_buffer import Sequences


class RecurrentPPO(RecurrentActorCritic):
    """PPO (Schulman et al. 2017, arXiv 1707.06347) with a recurrent policy, whose core is plastic or any other.

    The interface is that of Stable-Baselines3's ``PPO``. Training runs over whole sequences, each from the recurrent
    state that the rollout stored at its first step; a minibatch consists of sequences. If episodes have a fixed length,
    let ``n_steps`` be a multiple of it: the rollout then stores no states.

    Args:
        policy: ``"RecurrentPolicy"`` (or its aliases ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``),
            ``"MlpLstmPolicy"`` (or ``"CnnLstmPolicy"``, ``"MultiInputLstmPolicy"``) for an `LstmPolicy`, or a subclass
            of `RecurrentPolicy`. ``policy_kwargs`` select its core, critic and outputs.
        env: environment, or its id; `plastic_agents.make_sb3_vec_env` makes fast environments.
        n_steps: number of steps of a rollout in each environment.
        batch_size: number of steps of a minibatch, rounded to whole sequences; ``None`` for the whole rollout.
        sequence_length: length of truncated back-propagation through time, a divisor of ``n_steps``. None:
            ``n_steps``, or ``batch_size`` if that is a divisor of ``n_steps``. With fewer environments than
            minibatches, the largest divisor of ``n_steps`` up to ``batch_size``.
        ent_coef: weight of the entropy in the loss; a number or, like ``learning_rate``, a schedule.
        reward_prediction_coef: weight of an auxiliary loss, the squared error of the predicted reward of the action
            taken; Discrete actions only. 0: no prediction.
        normalize_predicted_rewards: whether to predict the rewards of a minibatch in standard deviations from their
            mean.
        learning_rate, n_epochs, ...: as in Stable-Baselines3's ``PPO``.

    Raises:
        ValueError: an argument is out of range.
        FloatingPointError: training has diverged; raised by `learn`.
    """

    def __init__(
        self,
        policy: str | type[RecurrentPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int | None = 128,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        sequence_length: int | None = None,
        reward_prediction_coef: float = 0.0,
        normalize_predicted_rewards: bool = False,
        _init_setup_model: bool = True,
    ) -> None:
        self.n_epochs = n_epochs
        self.normalize_advantage = normalize_advantage
        self.clip_range = clip_range
        self.clip_range_vf = clip_range_vf
        self.target_kl = target_kl
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            batch_size=batch_size,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            sequence_length=sequence_length,
            reward_prediction_coef=reward_prediction_coef,
            normalize_predicted_rewards=normalize_predicted_rewards,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        # Code for Stable-Baselines3's PPO calls them.
        self.clip_range = FloatSchedule(self.clip_range)
        if self.clip_range_vf is not None:
            self.clip_range_vf = FloatSchedule(self.clip_range_vf)

    def _policy_loss(
        self, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        log_ratio = log_prob - old_log_prob
        ratio = log_ratio.exp()
        clip_range = self._scheduled(self.clip_range)
        clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
        loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        with torch.no_grad():
            metrics = {
                "policy_gradient_loss": loss.item(),
                # An unbiased estimator of low variance: http://joschu.net/blog/kl-approx.html
                "approx_kl": (ratio - 1 - log_ratio).mean().item(),
                "clip_fraction": ((ratio - 1).abs() > clip_range).float().mean().item(),
                "clip_range": clip_range,
            }
        if self.clip_range_vf is not None:
            metrics["clip_range_vf"] = self._scheduled(self.clip_range_vf)
        return loss, metrics

    def _value_loss(self, values: Tensor, sequences: Sequences) -> Tensor:
        if self.clip_range_vf is not None:
            clip_range = self._scheduled(self.clip_range_vf)
            values = sequences.old_values + (values - sequences.old_values).clamp(-clip_range, clip_range)
        return self._scaled_mse(values, sequences.returns)

    def _exceeds_target_kl(self, metrics: dict[str, float]) -> bool:
        return self.target_kl is not None and metrics["approx_kl"] > 1.5 * self.target_kl
