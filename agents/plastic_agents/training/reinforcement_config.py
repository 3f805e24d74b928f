"""Settings of training by reinforcement learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from plastic_agents.config_checks import (
    COUNT,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    SEED,
    Check,
    check_fields,
    mapping,
    optional_count,
)
from plastic_agents.plain_data import register
from plastic_envs import Task
from plastic_envs.validation import flag, one_of, real_number

AlgorithmName = Literal["ppo", "a2c"]
OutputsName = Literal["readout", "heads"]  # the policy's, whose module needs stable-baselines3


@register
@dataclass(frozen=True)
class ReinforcementConfig:
    """Settings of training by reinforcement learning.

    Steps are counted over all environments. In a rollout, each environment plays a fixed number of whole episodes. The
    defaults are those of `plastic_agents.RecurrentPPO`; the recipes have settings with which memory tasks are learned.

    Attributes:
        algorithm: ``"ppo"`` or ``"a2c"``; both use Adam and normalised advantages.
        total_timesteps: steps of the whole run, rounded up to whole rollouts.
        n_envs: number of parallel environments.
        rollout_episodes: episodes per environment and rollout.
        n_epochs: passes over each rollout; 1 for a2c.
        batch_size: steps of a minibatch, rounded to whole sequences; ``None`` for the whole rollout, as in a2c.
        learning_rate: falls along a cosine to ``final_learning_rate`` times this value.
        final_learning_rate: end of the cosine, as a fraction of ``learning_rate``.
        gamma: discount.
        gae_lambda: of generalised advantage estimation.
        clip_range: of the probability ratios of ppo.
        ent_coef: weight of the entropy; falls linearly to 0.
        vf_coef: weight of the squared error of the value.
        reward_prediction_coef: weight of the squared error of the predicted reward; for Discrete actions only.
        normalize_predicted_rewards: whether to predict rewards in standard deviations from their mean.
        max_grad_norm: l2 norm to which the gradient of all parameters together is clipped.
        log_std_init: initial log standard deviation of Box actions.
        outputs: source of action and value, ``"readout"`` or ``"heads"``; see `RecurrentPolicy`.
        seed: of parameters, episodes, actions and minibatches.
        evaluate_every: steps between evaluations on validation episodes; the last step is followed by one too.
        evaluation_episodes: number of episodes of each evaluation.
        evaluation_arguments: arguments of the task that differ in validation and test, such as ``{"split": "test"}``.
            Validation episodes then have the classes of the split "validation" instead; without such classes, those of
            training.
        checkpoint_every: steps between checkpoints, which need a run folder.
    """

    algorithm: AlgorithmName = "ppo"
    total_timesteps: int = 2_000_000
    n_envs: int = 64
    rollout_episodes: int = 1
    n_epochs: int = 10
    batch_size: int | None = 128
    learning_rate: float = 3e-4
    final_learning_rate: float = 1.0
    gamma: float = 0.99
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    reward_prediction_coef: float = 0.0
    normalize_predicted_rewards: bool = False
    max_grad_norm: float = 0.5
    log_std_init: float = 0.0
    outputs: OutputsName = "heads"
    seed: int = 0
    evaluate_every: int = 100_000
    evaluation_episodes: int = 500
    evaluation_arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoint_every: int = 100_000

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS)
        if self.algorithm == "a2c" and (self.n_epochs, self.batch_size) != (1, None):
            raise ValueError(
                f"n_epochs must be 1 and batch_size None for a2c, got {self.n_epochs} and {self.batch_size}"
            )

    def rollout_size(self, task: Task) -> int:
        """Return the number of steps of one rollout, over all environments."""
        return self.n_envs * self.rollout_episodes * task.episode_length

    def steps(self, task: Task) -> int:
        """Return ``total_timesteps``, rounded up to whole rollouts."""
        size = self.rollout_size(task)
        return -(-self.total_timesteps // size) * size


_COUNTS = (
    "total_timesteps",
    "n_envs",
    "rollout_episodes",
    "n_epochs",
    "evaluate_every",
    "evaluation_episodes",
    "checkpoint_every",
)
_CHECKS: dict[str, Check] = {
    "algorithm": partial(one_of, choices=get_args(AlgorithmName)),
    "outputs": partial(one_of, choices=get_args(OutputsName)),
    **dict.fromkeys(_COUNTS, COUNT),
    "batch_size": optional_count,
    **dict.fromkeys(("learning_rate", "clip_range", "max_grad_norm"), POSITIVE),
    **dict.fromkeys(("ent_coef", "vf_coef", "reward_prediction_coef"), NON_NEGATIVE),
    **dict.fromkeys(("gamma", "gae_lambda", "final_learning_rate"), FRACTION),
    "log_std_init": real_number,
    "normalize_predicted_rewards": flag,
    "seed": SEED,
    "evaluation_arguments": mapping,
}
