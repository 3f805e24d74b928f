"""`SupervisedAgent`: an observation encoder and a core that fit the spaces of a task, trained by supervision."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional

from plastic_agents.analysis.agent import Agent
from plastic_agents.models.config import NetworkConfig
from plastic_agents.models.core import CoreOutput, RecurrentCore
from plastic_agents.models.observation_encoder import ObservationEncoder
from plastic_envs import EpisodeBatch, Task


class SupervisedAgent(Agent):
    """An agent that is trained by supervision.

    An `ObservationEncoder` turns observations into the core's inputs. For a Box action the core's outputs are the
    action; for a Discrete action they are logits, and the agent takes the action with the largest logit.

    Args:
        task: the task to play, which gives the spaces and says how actions are scored.
        network: a description of the network, or a core of your own. I is the ``out_features`` of the observation
            encoder, O the size of a Box action or the number of Discrete actions.
        observation_encoder: an encoder for the task's observations. By default ``network`` describes it; for a core of
            your own the default encodes no images.

    Raises:
        TypeError: ``network`` is neither a description nor a core, or the observation space is not supported.
        ValueError: the core has other sizes than the task needs, or an encoder does not suit the observations.
    """

    def __init__(
        self,
        task: Task,
        network: NetworkConfig | RecurrentCore,
        observation_encoder: ObservationEncoder | None = None,
    ) -> None:
        if not isinstance(network, NetworkConfig | RecurrentCore):
            raise TypeError(f"network must be a NetworkConfig or a RecurrentCore, got {network!r}")
        action_space: Any = task.action_space
        output_size = int(action_space.n) if isinstance(action_space, spaces.Discrete) else action_space.shape[0]
        if observation_encoder is None:
            config = network if isinstance(network, NetworkConfig) else NetworkConfig()
            observation_encoder = config.make_observation_encoder(task.observation_space)
        input_size = observation_encoder.out_features
        if isinstance(network, NetworkConfig):
            network = network.make_core(input_size, output_size)
        super().__init__(task, network)
        self.observation_encoder = observation_encoder
        sizes = (self.core.input_size, self.core.output_size)
        if sizes != (input_size, output_size):
            raise ValueError(
                f"{task!r} needs a network with input_size={input_size} and output_size={output_size}, "
                f"got input_size={sizes[0]} and output_size={sizes[1]}"
            )

    def for_task(self, task: Task) -> SupervisedAgent:
        """Return an agent that plays another task of the same spaces with this agent's modules."""
        return SupervisedAgent(task, self.core, self.observation_encoder)

    def preprocess(self, observation: Any) -> Tensor:
        """Encode observations, a tensor [..., *shape] or a dict of such tensors, as the core's inputs [..., I]."""
        inputs: Tensor = self.observation_encoder(observation)
        return inputs

    def loss(self, output: CoreOutput, episode: EpisodeBatch) -> Tensor:
        """Return the mean over scored steps of the squared error in the task's units, or of the cross-entropy."""
        scored = self._to_device(episode.scored)
        target = self._to_device(episode.target)
        if isinstance(self.task.action_space, spaces.Discrete):
            return functional.cross_entropy(output.y[scored], target[scored])
        return (self.task.action_scale * (output.y[scored] - target[scored])).square().mean()

    def decode(self, y: Tensor) -> np.ndarray:
        """Return the actions with the largest logits [...], or the outputs clipped to the action space [..., A]."""
        y = y.cpu()
        if isinstance(self.task.action_space, spaces.Discrete):
            return y.argmax(-1).numpy()
        return y.numpy().clip(self.task.action_space.low, self.task.action_space.high)
