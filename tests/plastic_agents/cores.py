"""Cores for the tests: a small network of every kind, and cores that a user might write."""

from __future__ import annotations

import torch
from plastic_agents import CoreOutput, NetworkConfig, RecurrentCore, State
from torch import nn

CONFIGS = {
    "rnn-hebbian": NetworkConfig("hebbian", "rnn", 8),
    "lstm-hebbian": NetworkConfig("hebbian", "lstm", 8),
    "rnn-gradient": NetworkConfig("gradient", "rnn", 8),
    "lstm-gradient": NetworkConfig("gradient", "lstm", 8),
    "rnn-none": NetworkConfig("none", "rnn", 8),
    "gru-none": NetworkConfig("none", "gru", 8),
    "lstm-none": NetworkConfig("none", "lstm", 8, n_layers=2),
    "attention-none": NetworkConfig("none", "attention", 8, n_layers=2),
}


class Averager(RecurrentCore):
    """Leaky averages of the inputs with a linear readout, as a user might write it; its state has nested containers."""

    def __init__(self, input_size, output_size):
        super().__init__(input_size, output_size)
        self.keep = nn.Parameter(torch.rand(input_size))
        self.readout = nn.Linear(input_size, output_size)

    def initial_state(self, batch_size):
        return State(([{"average": self.keep.new_zeros(batch_size, self.input_size)}],))

    def step(self, x, state):
        average = self.keep * state.hidden[0][0]["average"] + x
        return CoreOutput(self.readout(average)), State(([{"average": average}],))


class FeedForward(RecurrentCore):
    """A core without memory: two tanh layers, as in Stable-Baselines3's MlpPolicy."""

    def __init__(self, input_size, output_size):
        super().__init__(input_size, output_size)
        self.layers = nn.Sequential(nn.Linear(input_size, 64), nn.Tanh(), nn.Linear(64, output_size))

    def initial_state(self, batch_size):
        return State(())

    def step(self, x, state):
        return CoreOutput(self.layers(x)), state


CORES = {**CONFIGS, "averager": Averager, "feed-forward": FeedForward}
