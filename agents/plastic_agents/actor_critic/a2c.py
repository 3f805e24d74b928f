"""Advantage actor-critic (A2C) for recurrent cores: the policy loss.

`plastic_agents.actor_critic.on_policy` adds the value loss and the entropy.
"""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import Tensor

from plastic_agents.actor_critic.on_policy import RecurrentActorCritic
from plastic_agents.actor_critic.policy import RecurrentPolicy


class RecurrentA2C(RecurrentActorCritic):
    """A2C (Mnih et al. 2016, arXiv 1602.01783) with a recurrent policy: one update per rollout.

    Args:
        use_rms_prop: whether the optimiser is RMSprop, as in Stable-Baselines3's ``A2C``.
        rms_prop_eps: epsilon of RMSprop.
        policy, env, sequence_length, ent_coef, reward_prediction_coef, ...: as in `plastic_agents.RecurrentPPO`.

    Raises:
        ValueError: an argument is out of range.
        FloatingPointError: training has diverged; raised by `learn`.
    """

    # Unlike PPO's, the loss does not keep the policy near that of the rollout, so a second pass is not valid.
    n_epochs = 1
    default_log_interval = 100

    def __init__(
        self,
        policy: str | type[RecurrentPolicy],
        env: GymEnv | str | None,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 8,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = 1e-5,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        normalize_advantage: bool = False,
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
        self.rms_prop_eps = rms_prop_eps
        self.use_rms_prop = use_rms_prop
        self.normalize_advantage = normalize_advantage
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            batch_size=None,
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

    def _default_optimizer(self) -> dict[str, Any]:
        if not self.use_rms_prop or "optimizer_class" in self.policy_kwargs:
            return {}
        rms_prop = {"alpha": 0.99, "eps": self.rms_prop_eps, "weight_decay": 0}
        return {"optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": rms_prop}

    def _policy_loss(
        self, log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        loss = -(advantages * log_prob).mean()
        return loss, {"policy_loss": loss.item()}
