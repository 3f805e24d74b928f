"""`Agent`: a recurrent core that acts on a task, whichever way it was trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from plastic_agents.models.core import (
    CoreOutput,
    Hooks,
    RecurrentCore,
    State,
    apply_hook,
    as_core,
    check_hooks,
    map_state,
)
from plastic_envs import EpisodeBatch, Task


class Agent(nn.Module, ABC):
    """A recurrent core with the code between it and the episodes of a task.

    A subclass writes `preprocess`, from observations to the core's inputs, and `decode`, from the core's outputs to
    actions. Probes then work on it. An agent is greedy: in evaluation mode it always answers the same episodes in the
    same way.

    Args:
        task: the task to play.
        core: the recurrent core.

    Raises:
        TypeError: ``core`` is no `RecurrentCore`.
    """

    def __init__(self, task: Task, core: RecurrentCore) -> None:
        super().__init__()
        self.task = task
        self.core = as_core("core", core)

    @abstractmethod
    def preprocess(self, observation: Any) -> Tensor:
        """Return the core's inputs [..., I] for observations: a tensor [..., *shape], or a dict of such tensors."""

    def combine(self, y: Tensor, inputs: Tensor) -> Tensor:
        """Return what `decode` gets for the core's outputs y [..., O] and its inputs [..., I]: here y itself."""
        return y

    @abstractmethod
    def decode(self, y: Tensor) -> np.ndarray:
        """Return the greedy actions for outputs y [..., O]: [..., A] for Box actions, [...] for Discrete."""

    @property
    def device(self) -> torch.device:
        """The device of the agent's parameters, on which `preprocess` gets its observations."""
        return next(chain(self.parameters(), self.buffers())).device

    def forward(self, episode: EpisodeBatch, hooks: Hooks | None = None) -> CoreOutput:
        """Run the core over whole episodes of a task that is not interactive; return y [T, B, O] and eta [T, B]."""
        inputs = self.preprocess(self._observe(np.ascontiguousarray(episode.observation.swapaxes(0, 1))))
        output: CoreOutput = self.core.unroll(inputs, hooks=hooks)[0]
        return output._replace(y=self.combine(output.y, inputs))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the agent into evaluation mode inside a ``with`` block."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    @torch.no_grad()
    def play(self, episode: EpisodeBatch, hooks: Hooks | None = None) -> tuple[np.ndarray, CoreOutput]:
        """Play whole episodes greedily.

        Args:
            episode: the episodes to play. In an interactive task, the agent's actions and their outcomes are written
                into a copy of the observations.
            hooks: by step, a function from the state before that step to the state from which the step is made.

        Returns:
            The actions as the task scores them, [B, T, A] or [B, T], and the core's output over [T, B], y as `combine`
            returned it.

        Raises:
            FloatingPointError: an output is NaN or infinite.
        """
        if not self.task.interactive:
            output = self(episode, hooks)
            return self.act(output), output
        hooks = hooks or {}
        check_hooks(hooks, self.task.episode_length)
        observation = episode.observation.copy()
        actions = np.zeros_like(episode.target)
        state = self.core.initial_state(len(episode))
        outputs = []
        for t in range(self.task.episode_length):
            state = apply_hook(hooks, t, state)
            x = self.preprocess(self._observe(observation[:, t]))
            output, state = self.core.step(x, state)
            output = output._replace(y=self.combine(output.y, x))
            outputs.append(output)
            actions[:, t] = self.act(CoreOutput(output.y.unsqueeze(0), None))[:, 0]
            if t + 1 < self.task.episode_length:
                reward = self.task.rewards(episode, actions[:, t], at=(slice(None), t))
                self.task.write_feedback(observation[:, t + 1], actions[:, t], reward, episode.scored[:, t])
        return actions, map_state(lambda *steps: torch.stack(steps), *outputs)

    def state_before(self, episode: EpisodeBatch, step: int) -> State:
        """Play ``episode`` and return the core's state before ``step``."""
        states: list[State] = []

        def record(state: State) -> State:
            states.append(state)
            return state

        self.play(episode, {step: record})
        return states[0]

    def act(self, output: CoreOutput) -> np.ndarray:
        """Return the actions [B, T, A] or [B, T] for the core's output over [T, B].

        Raises:
            FloatingPointError: an output is NaN or infinite.
        """
        if not torch.isfinite(output.y).all():
            raise FloatingPointError("the network's output is not finite: has its training diverged?")
        return self.decode(output.y.detach().transpose(0, 1))

    def _observe(self, observation: np.ndarray) -> Any:
        """Return the task's view of an episode's observations, as tensors on the agent's device."""
        observed = self.task.observe(observation)
        if isinstance(observed, dict):
            return {name: torch.as_tensor(value).to(self.device) for name, value in observed.items()}
        return torch.as_tensor(observed).to(self.device)

    def _to_device(self, array: np.ndarray) -> Tensor:
        """Return a task's array [B, T, ...] as a tensor [T, B, ...] on the agent's device."""
        return torch.as_tensor(np.array(array.swapaxes(0, 1), order="C")).to(self.device)
