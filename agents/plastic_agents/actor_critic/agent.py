"""A policy as a player, so that the probes that look into supervised networks look into it too."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from plastic_agents.actor_critic.policy import RecurrentPolicy
from plastic_agents.analysis.agent import Agent
from plastic_envs import Task


class PolicyAgent(Agent):
    """A policy that plays a task greedily, as ``predict(deterministic=True)`` does in the task's environment.

    Observations are those of the task: a policy that learnt behind a wrapper that changes them, such as
    ``VecNormalize``, is not what is played here. The core does not restart after an overflow (`RecurrentPolicy`'s
    ``core_starts``).

    Args:
        task: what is played.
        policy: the ``policy`` of a `RecurrentPPO` or `RecurrentA2C`.

    Raises:
        ValueError: the policy's spaces are not the task's.
    """

    def __init__(self, task: Task, policy: RecurrentPolicy) -> None:
        for name in ("observation_space", "action_space"):
            if getattr(policy, name) != getattr(task, name):
                raise ValueError(f"policy must have the {name} of {task!r}, got {getattr(policy, name)}")
        super().__init__(task, policy.core)
        self.policy = policy

    def preprocess(self, observation: PyTorchObs) -> Tensor:
        """Observations, [..., D] or a dict, through the policy's features extractor."""
        return self.policy.inputs(observation)

    @torch.no_grad()
    def decode(self, y: Tensor) -> np.ndarray:
        """The mode of the distribution over actions, Box actions cut to their bounds: [..., O] to [..., A] or [...]."""
        parameters = self.policy.read_outputs(y).parameters
        actions = self.policy.to_actions(self.policy.distribution(parameters).mode())
        return actions.reshape(*y.shape[:-1], *actions.shape[1:])
