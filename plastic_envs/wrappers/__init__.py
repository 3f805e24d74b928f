"""Wrappers of environments, most of them for reinforcement meta-learning."""

from plastic_envs.wrappers.flatten import VectorFlattenObservation
from plastic_envs.wrappers.previous_action_reward import PreviousActionReward, VectorPreviousActionReward
from plastic_envs.wrappers.trials import Trials, VectorTrials

__all__ = [
    "PreviousActionReward",
    "Trials",
    "VectorFlattenObservation",
    "VectorPreviousActionReward",
    "VectorTrials",
]
