"""A network fitted to the spaces of a task: observations rescaled on the way in, actions on the way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

from plastic_agents.analysis.agent import Agent
from plastic_agents.models.config import NetworkConfig
from plastic_agents.models.core import CoreOutput, RecurrentCore
from plastic_agents.models.image_core import image_shape
from plastic_envs import EpisodeBatch, Task


class SupervisedAgent(Agent):
    """What is trained by supervision, saved, evaluated and probed.

    Observations are rescaled to [-1, 1] by the bounds of their space; the parts of a Dict are flattened and put one
    after the other, in the space's order. For a Box action the network's outputs are the
    action, clipped to the space when it acts; for a Discrete one they are logits and the largest acts.

    Args:
        task: gives the spaces, and how actions are scored.
        network: a description, or a network made for the task: I = numbers in an observation, O = that of an action or
            the number of discrete actions.

    Raises:
        ValueError: a network of other sizes than the task's, or unbounded observations.
        TypeError: a network that lacks a part of the interface.
    """

    low: Tensor
    half_range: Tensor

    def __init__(self, task: Task, network: NetworkConfig | RecurrentCore) -> None:
        space: Any = spaces.flatten_space(task.observation_space)
        action = task.action_space
        input_size = space.shape[0]
        output_size = int(action.n) if isinstance(action, spaces.Discrete) else action.shape[0]
        if isinstance(network, NetworkConfig):
            network = network.make(input_size, output_size, image_shape(task.observation_space))
        super().__init__(task, network)
        sizes = (self.core.input_size, self.core.output_size)
        if sizes != (input_size, output_size):
            raise ValueError(
                f"{task!r} needs a network with input_size={input_size} and output_size={output_size}, "
                f"got input_size={sizes[0]} and output_size={sizes[1]}"
            )
        if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
            raise ValueError(f"{task!r} must have a bounded observation space, got {space}")
        half_range = (space.high - space.low) / 2
        self.register_buffer("low", torch.as_tensor(space.low), persistent=False)
        # A value that cannot vary has no range to be divided by.
        self.register_buffer("half_range", torch.as_tensor(np.where(half_range > 0, half_range, 1)), persistent=False)

    def preprocess(self, observation: Any) -> Tensor:
        """Observation [..., I], or a dict of such parts, as one [..., I] in [-1, 1]."""
        if isinstance(observation, dict):
            shapes = {name: len(part.shape) for name, part in self.task.observation_space.items()}
            parts = [part.flatten(-shapes[name]) for name, part in observation.items()]
            observation = torch.cat(parts, dim=-1)
        return (observation - self.low) / self.half_range - 1

    def loss(self, output: CoreOutput, episode: EpisodeBatch) -> Tensor:
        """Mean over scored steps: squared error in the task's own units, or cross-entropy for discrete actions."""
        scored = self._to_device(episode.scored)
        target = self._to_device(episode.target)
        if isinstance(self.task.action_space, spaces.Discrete):
            return functional.cross_entropy(output.y[scored], target[scored])
        return (self.task.action_scale * (output.y[scored] - target[scored])).square().mean()

    def decode(self, y: Tensor) -> np.ndarray:
        """The largest of the logits, or outputs clipped to the space: [..., O] to [...] or [..., A]."""
        y = y.cpu()
        if isinstance(self.task.action_space, spaces.Discrete):
            return y.argmax(-1).numpy()
        return y.numpy().clip(self.task.action_space.low, self.task.action_space.high)
