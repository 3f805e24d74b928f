"""Networks that tests train: small ones of every kind, and one of a user's own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from agents import NetworkConfig, Output

CONFIGS = {
    "rnn-hebbian": NetworkConfig("hebbian", "rnn", 8),
    "lstm-hebbian": NetworkConfig("hebbian", "lstm", 8),
    "rnn-gradient": NetworkConfig("gradient", "rnn", 8),
    "lstm-gradient": NetworkConfig("gradient", "lstm", 8),
    "rnn-none": NetworkConfig("none", "rnn", 8),
    "gru-none": NetworkConfig("none", "gru", 8),
    "lstm-none": NetworkConfig("none", "lstm", 8),
}


class Averages(NamedTuple):
    """State of `Averager`: a dict in a list in a tuple, which is what people do."""

    traces: tuple


class Averager(nn.Module):
    """Leaky averages of its inputs, read out linearly: a user's own core, with a state of its own kind."""

    def __init__(self, input_size, output_size):
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.keep = nn.Parameter(torch.rand(input_size))
        self.readout = nn.Linear(input_size, output_size)

    def initial_state(self, batch_size):
        return Averages(([{"average": self.keep.new_zeros(batch_size, self.input_size)}],))

    def step(self, x, state):
        average = self.keep * state.traces[0][0]["average"] + x
        return Output(self.readout(average), None), Averages(([{"average": average}],))

    def unroll(self, xs, state=None, starts=None, hooks=None):
        state = self.initial_state(xs.shape[1]) if state is None else state
        ys = []
        for t, x in enumerate(xs):
            average = state.traces[0][0]["average"]
            if starts is not None:
                average = torch.where(starts[t][:, None], 0, average)
            output, state = self.step(x, Averages(([{"average": average}],)))
            ys.append(output.y)
        return Output(torch.stack(ys), None), state


class FeedForward(nn.Module):
    """A core without memory: two tanh layers, as in Stable-Baselines3's MlpPolicy."""

    def __init__(self, input_size, output_size):
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.layers = nn.Sequential(nn.Linear(input_size, 64), nn.Tanh(), nn.Linear(64, output_size))

    def initial_state(self, batch_size):
        return ()

    def step(self, x, state):
        return Output(self.layers(x), None), state

    def unroll(self, xs, state=None, starts=None, hooks=None):
        return Output(self.layers(xs), None), ()


CORES = {**CONFIGS, "averager": Averager, "feed-forward": FeedForward}
