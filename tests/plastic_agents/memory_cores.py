"""Cores for CueReward that need no training, and whose memory is in a known part of the state."""

from __future__ import annotations

from typing import NamedTuple

import torch
from plastic_agents import CoreOutput, RecurrentCore, State
from torch import nn


class Table(NamedTuple):
    """Presentations seen so far: [B, slots, cue + reward + 1 if filled]."""

    entries: torch.Tensor


class Notebook(RecurrentCore):
    """Writes each presentation into a table and answers queries with the reward of the nearest cue.

    Args:
        task: the CueReward task.
        memory: the part of the state that holds the table, "fast" or "hidden".
    """

    def __init__(self, task, memory):
        super().__init__(task.observation_space.shape[0], 1)
        self.slots, self.memory = task.query_start, memory

    def initial_state(self, batch_size):
        empty = torch.zeros(batch_size, self.slots, self.input_size)
        return State(hidden=Table(empty), fast=Table(empty.clone()))

    def step(self, x, state):
        entries = getattr(state, self.memory).entries
        cue, reward, query = x[:, :-2], x[:, -2], x[:, -1] > 0
        filled = entries[..., -1] > 0
        distance = (entries[..., :-2] - cue[:, None]).square().sum(-1) + 1e6 * ~filled
        nearest = distance.argmin(-1)
        answer = torch.where(filled.any(-1), entries[torch.arange(len(x)), nearest, -2], 0.0)
        slot = filled.sum(-1).clamp(max=self.slots - 1)
        written = entries.clone()
        written[torch.arange(len(x)), slot] = torch.cat([cue, reward[:, None], torch.ones(len(x), 1)], -1)
        entries = torch.where(query[:, None, None], entries, written)
        return CoreOutput(answer[:, None]), state._replace(**{self.memory: Table(entries)})


class Correlator(RecurrentCore):
    """Adds reward * cue to a fast matrix [B, cue, 1] at presentations, and answers queries with gain * cue @ matrix.

    Args:
        task: the CueReward task.
        rate: the size of each update, which the core returns as eta. With ``None`` it is 0.05 and eta is ``None``.
    """

    def __init__(self, task, rate=None):
        super().__init__(task.observation_space.shape[0], 1)
        self.rate = rate
        self.gain = nn.Parameter(torch.ones(()))

    def initial_state(self, batch_size):
        matrix = self.gain.new_zeros(batch_size, self.input_size - 2, 1)
        return State(hidden=self.gain.new_zeros(batch_size, self.input_size), fast={"memory": [matrix]})

    def step(self, x, state):
        cue, reward, query = x[:, :-2], x[:, -2], x[:, -1] > 0
        (matrix,) = state.fast["memory"]
        answer = self.gain * (cue[:, None] @ matrix)[:, 0]
        update = (0.05 if self.rate is None else self.rate) * reward[:, None, None] * cue[:, :, None]
        matrix = torch.where(query[:, None, None], matrix, matrix + update)
        eta = None if self.rate is None else x.new_full((len(x),), self.rate)
        return CoreOutput(answer, eta), State(hidden=x, fast={"memory": [matrix]})
