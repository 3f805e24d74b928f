"""What probes play with: a network that acts on a task, however it was trained."""

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
    """A network with what stands between it and the episodes of a task.

    Deriving classes say how an observation becomes the network's input (`observe`), and its output an action
    (`choose`). Playing is greedy: the same episodes are always answered in the same way.

    Args:
        task: what is played.
        core: the network.
    """

    def __init__(self, task: Task, core: RecurrentCore) -> None:
        super().__init__()
        self.task = task
        self.core = as_core("core", core)

    @abstractmethod
    def preprocess(self, observation: Any) -> Tensor:
        """What the task shows, a tensor [..., D] or a dict of tensors, as the network takes it, [..., I]."""

    @abstractmethod
    def decode(self, y: Tensor) -> np.ndarray:
        """The greedy actions, [..., A] for Box ones or [...] for Discrete ones, of the network's output [..., O]."""

    @property
    def device(self) -> torch.device:
        """Where the player is, and its inputs have to be."""
        return next(chain(self.parameters(), self.buffers())).device

    def forward(self, episode: EpisodeBatch, hooks: Hooks | None = None) -> CoreOutput:
        """The network's output over whole episodes of a task that is not interactive: y [T, B, O], eta [T, B]."""
        inputs = self.preprocess(self._shown(np.ascontiguousarray(episode.observation.swapaxes(0, 1))))
        output: CoreOutput = self.core.unroll(inputs, hooks=hooks)[0]
        return output

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the agent into evaluation mode for the time of a ``with`` block."""
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
            episode: what to play; where the task is interactive, the player's own actions are filled in.
            hooks: by step, a function from the state before that step to the one from which the step is made.

        Returns:
            The actions as the task scores them, [B, T, A] or [B, T], and the network's output over [T, B].

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
            x = self.preprocess(self._shown(observation[:, t]))
            output, state = self.core.step(x, state)
            outputs.append(output)
            actions[:, t] = self.act(CoreOutput(output.y.unsqueeze(0), None))[:, 0]
            if t + 1 < self.task.episode_length:
                reward = self.task.rewards(episode, actions[:, t], at=(slice(None), t))
                self.task.write_feedback(observation[:, t + 1], actions[:, t], reward, episode.scored[:, t])
        return actions, map_state(lambda *steps: torch.stack(steps), *outputs)

    def state_before(self, episode: EpisodeBatch, step: int) -> State:
        """The network's state before ``step``, having played ``episode`` up to there."""
        caught: list[State] = []

        def catch(state: State) -> State:
            caught.append(state)
            return state

        self.play(episode, {step: catch})
        return caught[0]

    def act(self, output: CoreOutput) -> np.ndarray:
        """What the player does, given the network's output over [T, B]: actions [B, T, A] or [B, T].

        Raises:
            FloatingPointError: an output is NaN or infinite.
        """
        if not torch.isfinite(output.y).all():
            raise FloatingPointError("the network's output is not finite: has its training diverged?")
        return self.decode(output.y.detach().transpose(0, 1))

    def _shown(self, observation: np.ndarray) -> Any:
        """What the task shows of an episode's observations, beside the parameters."""
        shown = self.task.observe(observation)
        if isinstance(shown, dict):
            return {name: torch.as_tensor(part).to(self.device) for name, part in shown.items()}
        return torch.as_tensor(shown).to(self.device)

    def _to_device(self, array: np.ndarray) -> Tensor:
        """[B, T, ...] from the task to [T, B, ...] beside the parameters."""
        return torch.as_tensor(np.ascontiguousarray(array.swapaxes(0, 1))).to(self.device)
