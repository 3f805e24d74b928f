"""A network fitted to the spaces of a task: observations rescaled on the way in, actions on the way out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional

from agents.networks.factory import NetworkConfig
from agents.networks.output import Output
from agents.plasticity.state import Hooks, State, apply_hook, check_hooks
from plastic_envs import Episode, Task

_INTERFACE = ("input_size", "output_size", "initial_state", "step", "unroll")


class TaskNetwork(nn.Module):
    """What is trained by supervision, saved, evaluated and probed.

    Observations are rescaled to [-1, 1] by the bounds of their space. For a Box action the network's outputs are the
    action, clipped to the space when it acts; for a Discrete one they are logits and the largest acts.

    Args:
        task: gives the spaces, and how actions are scored.
        network: a description, or a network made for the task: I = length of an observation, O = that of an action or
            the number of discrete actions.

    Raises:
        ValueError: a network of other sizes than the task's, or unbounded observations.
        TypeError: a network that lacks a part of the interface.
    """

    network: Any  # an nn.Module with the interface of agents.networks.factory.Network
    low: Tensor
    half_range: Tensor

    def __init__(self, task: Task, network: NetworkConfig | nn.Module) -> None:
        super().__init__()
        self.task = task
        space, action = task.observation_space, task.action_space
        input_size = space.shape[0]
        output_size = int(action.n) if isinstance(action, spaces.Discrete) else action.shape[0]
        self.network = network.make(input_size, output_size) if isinstance(network, NetworkConfig) else network
        missing = [name for name in _INTERFACE if not hasattr(self.network, name)]
        if missing:
            raise TypeError(
                f"a network needs {', '.join(_INTERFACE)} (see agents.Network); {type(self.network).__name__} has no "
                + ", ".join(missing)
            )
        sizes = (self.network.input_size, self.network.output_size)
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

    def rescale(self, observation: Tensor) -> Tensor:
        """Observation [..., I] to [-1, 1]."""
        return (observation - self.low) / self.half_range - 1

    def run(self, episode: Episode, hooks: Hooks | None = None) -> Output:
        """The network's output over whole episodes of a task that is not interactive: y [T, B, O], eta [T, B]."""
        inputs = self.rescale(self._to_device(episode.observation))
        output: Output = self.network.unroll(inputs, hooks=hooks)[0]
        return output

    @torch.no_grad()
    def play(self, episode: Episode, hooks: Hooks | None = None) -> tuple[np.ndarray, Output]:
        """Play whole episodes greedily.

        Args:
            episode: what to play; where the task is interactive, the player's own actions are filled in.
            hooks: by step, a function from the state before that step to the one from which the step is made.

        Returns:
            The actions as the task scores them, [B, T, A] or [B, T], and the network's output over [T, B].
        """
        if not self.task.interactive:
            output = self.run(episode, hooks)
            return self.actions(output), output
        hooks = hooks or {}
        check_hooks(hooks, self.task.episode_length)
        observation = episode.observation.copy()
        actions = np.zeros_like(episode.target)
        state = self.network.initial_state(len(episode))
        outputs = []
        for t in range(self.task.episode_length):
            state = apply_hook(hooks, t, state)
            x = self.rescale(torch.as_tensor(observation[:, t]).to(self.low.device))
            output, state = self.network.step(x, state)
            outputs.append(output)
            actions[:, t] = self.actions(Output(output.y.unsqueeze(0), None))[:, 0]
            if t + 1 < self.task.episode_length:
                reward = self.task.rewards(episode, actions[:, t], at=(slice(None), t))
                self.task.respond(observation[:, t + 1], actions[:, t], reward, episode.scored[:, t])
        eta = None if outputs[0].eta is None else torch.stack([output.eta for output in outputs])
        return actions, Output(torch.stack([output.y for output in outputs]), eta)

    def state_before(self, episode: Episode, step: int) -> State:
        """The network's state before ``step``, having played ``episode`` up to there."""
        caught: list[State] = []

        def catch(state: State) -> State:
            caught.append(state)
            return state

        self.play(episode, {step: catch})
        return caught[0]

    def loss(self, output: Output, episode: Episode) -> Tensor:
        """Mean over scored steps: squared error in the task's own units, or cross-entropy for discrete actions."""
        scored = self._to_device(episode.scored)
        target = self._to_device(episode.target)
        if isinstance(self.task.action_space, spaces.Discrete):
            return functional.cross_entropy(output.y[scored], target[scored])
        return (self.task.action_scale * (output.y[scored] - target[scored])).square().mean()

    def actions(self, output: Output) -> np.ndarray:
        """What the network does: actions as the task scores them, [B, T, A] or [B, T].

        Raises:
            FloatingPointError: an output is NaN or infinite.
        """
        if not torch.isfinite(output.y).all():
            raise FloatingPointError("the network's output is not finite: has its training diverged?")
        y = output.y.detach().transpose(0, 1).cpu()
        if isinstance(self.task.action_space, spaces.Discrete):
            return y.argmax(-1).numpy()
        return y.numpy().clip(self.task.action_space.low, self.task.action_space.high)

    def _to_device(self, array: np.ndarray) -> Tensor:
        """[B, T, ...] from the task to [T, B, ...] beside the parameters."""
        return torch.as_tensor(np.ascontiguousarray(array.swapaxes(0, 1))).to(self.low.device)
