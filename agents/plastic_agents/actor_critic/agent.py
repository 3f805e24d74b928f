"""`PolicyAgent`: a policy as an `Agent`, for the probes."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from plastic_agents.actor_critic.policy import RecurrentPolicy
from plastic_agents.analysis.agent import Agent
from plastic_envs import Task


class PolicyAgent(Agent):
    """An agent that plays a task with a policy, greedily, as ``predict(deterministic=True)`` does in an environment.

    The policy gets the task's observations. Do not use a policy that was trained behind a wrapper that changes
    observations, such as ``VecNormalize``. The core does not restart after an overflow (see
    `RecurrentPolicy.core_starts`).

    Args:
        task: the task to play.
        policy: the ``policy`` of a `RecurrentPPO` or `RecurrentA2C`.

    Raises:
        TypeError: ``task`` is no `Task`, or ``policy`` no `RecurrentPolicy`.
        ValueError: the spaces of the policy and the task differ.
    """

    def __init__(self, task: Task, policy: RecurrentPolicy) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"task must be a Task, for example from plastic_envs.make_task, got {task!r}")
        if not isinstance(policy, RecurrentPolicy):
            raise TypeError(f"policy must be a RecurrentPolicy, such as the policy of a RecurrentPPO, got {policy!r}")
        for name in ("observation_space", "action_space"):
            if getattr(policy, name) != getattr(task, name):
                raise ValueError(f"policy must have the {name} of {task!r}, got {getattr(policy, name)}")
        super().__init__(task, policy.core)
        self.policy = policy

    def preprocess(self, observation: PyTorchObs) -> Tensor:
        """Encode observations, a tensor [..., *shape] or a dict of such tensors, as the core's inputs [..., I]."""
        return self.policy.preprocess(observation)

    def combine(self, y: Tensor, inputs: Tensor) -> Tensor:
        """Add the policy's skip connection; see `RecurrentPolicy.skip`."""
        return self.policy.skip(y, inputs)

    @torch.no_grad()
    def decode(self, y: Tensor) -> np.ndarray:
        """Return the mode of the distribution over actions, [..., A] or [...]; Box actions are clipped to bounds."""
        parameters = self.policy.read_outputs(y).parameters
        actions = self.policy.to_actions(self.policy.distribution(parameters).mode())
        return actions.reshape(*y.shape[:-1], *actions.shape[1:])
