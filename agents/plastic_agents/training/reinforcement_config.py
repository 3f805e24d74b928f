"""How a policy is trained from reward."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

import tyro
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from plastic_agents.actor_critic.a2c import RecurrentA2C
from plastic_agents.actor_critic.on_policy import RecurrentActorCritic
from plastic_agents.actor_critic.policy import HeadType
from plastic_agents.actor_critic.ppo import RecurrentPPO
from plastic_agents.actor_critic.schedules import CosineSchedule, LinearSchedule
from plastic_agents.models.config import NetworkConfig
from plastic_envs import Task

AlgorithmName = Literal["ppo", "a2c"]


@dataclass(frozen=True)
class ReinforcementConfig:
    """How a policy is trained from reward.

    Steps are counted over all environments. A rollout is a number of whole episodes in each of them.

    Attributes:
        algorithm: ``"ppo"`` or ``"a2c"``; both with Adam and normalised advantages.
        total_timesteps: steps of the whole run, rounded up to whole rollouts.
        n_envs: environments that are played at the same time.
        rollout_episodes: episodes that each plays before an update.
        n_epochs: passes over each rollout; 1 for a2c.
        n_minibatches: parts of a rollout, each of which makes an optimiser step; 1 for a2c.
        learning_rate: falls along a cosine to ``final_learning_rate`` times the first.
        final_learning_rate: where the cosine ends, as a part of ``learning_rate``.
        gamma: discount.
        gae_lambda: of generalised advantage estimation.
        clip_range: of ppo's ratios of probabilities.
        ent_coef: weight of the entropy; falls linearly to 0.
        vf_coef: weight of the squared error of the value.
        reward_prediction_coef: weight of the squared error of the predicted reward; for Discrete actions only.
        max_grad_norm: the gradient of all parameters together is clipped to this l2 norm.
        log_std_init: of Box actions: the first logarithm of the standard deviation.
        outputs: what says action and value, ``"readout"`` or ``"heads"``; see `RecurrentPolicy`.
        seed: of parameters, episodes, actions and minibatches.
        evaluate_every: steps between evaluations on held-out episodes (there is one at the end too).
        evaluation_episodes: how many episodes each evaluation plays.
        evaluation_arguments: arguments of the task that are others in evaluations, such as ``{"split": "test"}``.
        checkpoint_every: steps between checkpoints, where there is a run folder.
    """

    algorithm: Annotated[AlgorithmName, tyro.conf.Suppress] = "ppo"  # a command's own option
    total_timesteps: int = 2_000_000
    n_envs: int = 64
    rollout_episodes: int = 1
    n_epochs: int = 1
    n_minibatches: int = 1
    learning_rate: float = 3e-3
    final_learning_rate: float = 0.05
    gamma: float = 0.9
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.1
    vf_coef: float = 0.5
    reward_prediction_coef: float = 0.0
    max_grad_norm: float = 5.0
    log_std_init: float = -1.0
    outputs: HeadType = "readout"
    seed: int = 0
    evaluate_every: int = 100_000
    evaluation_episodes: int = 500
    evaluation_arguments: Annotated[Mapping[str, Any], tyro.conf.Suppress] = field(default_factory=dict)
    checkpoint_every: int = 100_000

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(AlgorithmName):
            raise ValueError(f"algorithm must be one of {get_args(AlgorithmName)}, got {self.algorithm!r}")
        if self.outputs not in get_args(HeadType):
            raise ValueError(f"outputs must be one of {get_args(HeadType)}, got {self.outputs!r}")
        for name in _COUNTS:
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
        for name in ("learning_rate", "clip_range", "max_grad_norm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        for name in ("ent_coef", "vf_coef", "reward_prediction_coef"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be 0 or more, and finite, got {value!r}")
        for name in ("gamma", "gae_lambda", "final_learning_rate"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {value!r}")
        if not math.isfinite(self.log_std_init):
            raise ValueError(f"log_std_init must be finite, got {self.log_std_init!r}")
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise ValueError(f"seed must be a whole number, 0 or more, got {self.seed!r}")
        if self.algorithm == "a2c" and (self.n_epochs, self.n_minibatches) != (1, 1):
            raise ValueError(
                f"n_epochs and n_minibatches must be 1 for a2c, got {self.n_epochs} and {self.n_minibatches}"
            )

    def rollout_size(self, task: Task) -> int:
        """Steps of one rollout in all environments."""
        return self.n_envs * self.rollout_episodes * task.episode_length

    def steps(self, task: Task) -> int:
        """``total_timesteps``, rounded up to whole rollouts."""
        size = self.rollout_size(task)
        return -(-self.total_timesteps // size) * size

    def make(self, env: VecEnv, task: Task, network: NetworkConfig, device: Any) -> RecurrentActorCritic:
        """The algorithm with a fresh policy for ``env``, which plays ``task``.

        Raises:
            ValueError: rewards are to be predicted for actions that are not Discrete.
        """
        if self.reward_prediction_coef and not isinstance(task.action_space, spaces.Discrete):
            raise ValueError(
                f"reward_prediction_coef must be 0 for actions that are not Discrete, got {self.reward_prediction_coef}"
            )
        untrained = replace(network, encoder=replace(network.encoder, pretraining=0))  # a learner sees to that
        arguments: dict[str, Any] = {
            "learning_rate": CosineSchedule(self.learning_rate, self.learning_rate * self.final_learning_rate),
            "n_steps": self.rollout_episodes * task.episode_length,
            "gamma": self.gamma,
            "gae_lambda": self.gae_lambda,
            "normalize_advantage": True,
            "ent_coef": LinearSchedule(self.ent_coef),
            "vf_coef": self.vf_coef,
            "max_grad_norm": self.max_grad_norm,
            "reward_prediction_coef": self.reward_prediction_coef,
            "policy_kwargs": {"network": untrained, "outputs": self.outputs, "log_std_init": self.log_std_init},
            "seed": self.seed,
            "device": device,
        }
        if self.algorithm == "a2c":
            return RecurrentA2C("RecurrentPolicy", env, use_rms_prop=False, **arguments)
        return RecurrentPPO(
            "RecurrentPolicy",
            env,
            n_epochs=self.n_epochs,
            n_minibatches=self.n_minibatches,
            clip_range=self.clip_range,
            **arguments,
        )


_COUNTS = (
    "total_timesteps",
    "n_envs",
    "rollout_episodes",
    "n_epochs",
    "n_minibatches",
    "evaluate_every",
    "evaluation_episodes",
    "checkpoint_every",
)
