"""The check of a core: content with those that keep the promises, and with none that breaks one."""

from __future__ import annotations

import pytest
import torch
from plastic_agents import CoreOutput, NetworkConfig
from plastic_agents.testing import check_core

from tests.plastic_agents.cores import CORES


@pytest.mark.parametrize("core", CORES)
def test_cores_pass(core):
    make = CORES[core]
    check_core(make.make_core(5, 3) if isinstance(make, NetworkConfig) else make(5, 3))


def test_a_core_is_left_as_it_was():
    core = Core()
    before = {name: value.clone() for name, value in core.state_dict().items()}
    check_core(core)
    assert core.training
    assert all(torch.equal(value, before[name]) for name, value in core.state_dict().items())


class Core(torch.nn.Module):
    """A core with all promises kept, for faults to be put in."""

    def __init__(self):
        super().__init__()
        self.input_size, self.output_size = 4, 2
        self.recurrent = torch.nn.Linear(4 + 5, 5)
        self.readout = torch.nn.Linear(5, 2)

    def initial_state(self, batch_size):
        return (self.readout.weight.new_zeros(batch_size, 5),)

    def step(self, x, state):
        (h,) = state
        h = torch.tanh(self.recurrent(torch.cat([x, h], dim=-1)))
        return CoreOutput(self.readout(h), None), (h,)

    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        state = self.initial_state(xs.shape[1]) if state is None else state
        ys = []
        for t, x in enumerate(xs):
            if episode_starts is not None:
                state = tuple(torch.where(episode_starts[t][:, None], 0.0, part) for part in state)
            output, state = self.step(x, state)
            ys.append(output.y)
        return CoreOutput(torch.stack(ys), None), state


class StateOnTheCPU(Core):
    def initial_state(self, batch_size):
        return (torch.zeros(batch_size, 5, dtype=self.readout.weight.dtype),)


class MaskOnTheCPU(Core):
    mask = torch.ones(5)

    def step(self, x, state):
        return super().step(x, (state[0] * self.mask,))


class StateInFloat32(Core):
    def initial_state(self, batch_size):
        return (self.readout.weight.new_zeros(batch_size, 5, dtype=torch.float32),)


class StateWithoutBatch(Core):
    def initial_state(self, batch_size):
        return (self.readout.weight.new_zeros(5),)


class OutputOfAnotherSize(Core):
    def step(self, x, state):
        output, state = super().step(x, state)
        return CoreOutput(output.y[..., :1], None), state


class EtaOfAnotherShape(Core):
    def step(self, x, state):
        output, state = super().step(x, state)
        return CoreOutput(output.y, output.y), state


class OverwritesItsState(Core):
    def step(self, x, state):
        output, (h,) = super().step(x, state)
        return output, (state[0].copy_(h),)


class StateOfAnotherStructure(Core):
    def step(self, x, state):
        output, state = super().step(x, state[:1])
        return output, (*state, x)


class StateOfAnotherShape(Core):
    def step(self, x, state):
        output, (h,) = super().step(x, (state[0][:, :5],))
        return output, (torch.cat([h, h], dim=-1),)


class MixesSequences(Core):
    def step(self, x, state):
        output, (h,) = super().step(x, state)
        return output, (h - h.mean(dim=0),)


class IgnoresStarts(Core):
    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        return super().unroll(xs, state)


class IgnoresTheState(Core):
    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        return super().unroll(xs, None, episode_starts)


class GoesOnFromTheLastSegment(Core):
    last = None

    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        output, state = super().unroll(xs, self.last if state is None else state, episode_starts)
        self.last = state
        return output, state


class StepsDifferently(Core):
    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        output, state = super().unroll(xs, state, episode_starts)
        return CoreOutput(output.y + 1e-3, None), state


class StepInPlaceOfAnotherKind(Core):
    def act(self, x, state, episode_starts):
        return self.step(x, state)


@pytest.mark.parametrize(
    ("core", "message"),
    [
        (StateOnTheCPU, "initial_state must make tensors on the device of the parameters, got one on cpu"),
        (MaskOnTheCPU, "step makes a tensor that is not on the parameters' device"),
        (StateInFloat32, "in the dtype of the parameters, torch.float64, got torch.float32"),
        (StateWithoutBatch, r"tensors of initial_state\(3\) must have shape \[3, ...\], got \[5\]"),
        (OutputOfAnotherSize, r"y must be torch.float64 of shape \[3, 2\], got torch.float64 of shape \[3, 1\]"),
        (EtaOfAnotherShape, r"eta must have shape \[3\], got \[3, 2\]"),
        (OverwritesItsState, "step must leave the state that it is given as it is"),
        (StateOfAnotherStructure, "step must keep the structure of the state"),
        (StateOfAnotherShape, "step must keep shapes and dtypes of the state"),
        (MixesSequences, "sequences must not depend on others of the batch"),
        (IgnoresStarts, "unroll must restart from initial_state where episode_starts is true"),
        (IgnoresTheState, "unroll must equal step repeated"),
        (GoesOnFromTheLastSegment, "unroll without a state must start anew"),
        (StepsDifferently, "unroll must equal step repeated"),
        (StepInPlaceOfAnotherKind, "act must equal step, with episode starts"),
    ],
)
def test_broken_promises_are_named(core, message):
    check_core(Core())
    with pytest.raises(AssertionError, match=message):
        check_core(core())


def test_a_core_that_lacks_a_part_is_refused():
    with pytest.raises(TypeError, match="Linear has no input_size"):
        check_core(torch.nn.Linear(2, 2))
