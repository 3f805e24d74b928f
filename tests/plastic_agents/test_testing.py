"""check_core: it accepts cores that follow the interface, and names the requirement that a core violates."""

from __future__ import annotations

import pytest
import torch
from plastic_agents import CoreOutput, NetworkConfig, RecurrentCore, State
from plastic_agents.testing import check_core

from tests.plastic_agents.cores import CORES


@pytest.mark.parametrize("core", CORES)
def test_check_core_accepts_valid_cores(core):
    make = CORES[core]
    check_core(make.make_core(5, 3) if isinstance(make, NetworkConfig) else make(5, 3))


def test_check_core_does_not_change_the_core():
    core = Core()
    before = {name: value.clone() for name, value in core.state_dict().items()}
    check_core(core)
    assert core.training
    assert all(torch.equal(value, before[name]) for name, value in core.state_dict().items())


class Core(RecurrentCore):
    """A valid core; subclasses violate one requirement each."""

    def __init__(self):
        super().__init__(input_size=4, output_size=2)
        self.recurrent = torch.nn.Linear(4 + 5, 5)
        self.readout = torch.nn.Linear(5, 2)

    def initial_state(self, batch_size):
        return State((self.readout.weight.new_zeros(batch_size, 5),))

    def step(self, x, state):
        (h,) = state.hidden
        h = torch.tanh(self.recurrent(torch.cat([x, h], dim=-1)))
        return CoreOutput(self.readout(h)), State((h,))


class StateOnTheCPU(Core):
    def initial_state(self, batch_size):
        return State((torch.zeros(batch_size, 5, dtype=self.readout.weight.dtype),))


class MaskOnTheCPU(Core):
    mask = torch.ones(5)

    def step(self, x, state):
        return super().step(x, State((state.hidden[0] * self.mask,)))


class StateInFloat32(Core):
    def initial_state(self, batch_size):
        return State((self.readout.weight.new_zeros(batch_size, 5, dtype=torch.float32),))


class StateWithoutBatch(Core):
    def initial_state(self, batch_size):
        return State((self.readout.weight.new_zeros(5),))


class OutputOfAnotherSize(Core):
    def step(self, x, state):
        output, state = super().step(x, state)
        return CoreOutput(output.y[..., :1]), state


class EtaOfAnotherShape(Core):
    def step(self, x, state):
        output, state = super().step(x, state)
        return CoreOutput(output.y, output.y), state


class OverwritesItsState(Core):
    def step(self, x, state):
        output, after = super().step(x, state)
        return output, State((state.hidden[0].copy_(after.hidden[0]),))


class StateOfAnotherStructure(Core):
    def step(self, x, state):
        output, after = super().step(x, State(state.hidden[:1]))
        return output, State((*after.hidden, x))


class StateOfAnotherShape(Core):
    def step(self, x, state):
        output, after = super().step(x, State((state.hidden[0][:, :5],)))
        return output, State((torch.cat([after.hidden[0], after.hidden[0]], dim=-1),))


class MixesSequences(Core):
    def step(self, x, state):
        output, after = super().step(x, state)
        return output, State((after.hidden[0] - after.hidden[0].mean(dim=0),))


class IgnoresEpisodeStarts(Core):
    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        return super().unroll(xs, state, None, hooks)


class IgnoresTheState(Core):
    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        return super().unroll(xs, None, episode_starts, hooks)


class ResumesTheLastSegment(Core):
    last_state = None

    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        output, state = super().unroll(xs, self.last_state if state is None else state, episode_starts, hooks)
        self.last_state = state
        return output, state


class UnrollsDifferently(Core):
    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        output, state = super().unroll(xs, state, episode_starts, hooks)
        return CoreOutput(output.y + 1e-3), state


class ActsWithoutRestarts(Core):
    def act(self, x, state, episode_starts=None):
        return super().act(x, state)


class AddsEarlierSequences(Core):
    def step(self, x, state):
        output, after = super().step(x, state)
        return output, State((after.hidden[0].cumsum(dim=0),))


class ActsDifferentlyWithoutStarts(Core):
    def act(self, x, state, episode_starts=None):
        return super().act(x + 1 if episode_starts is None else x, state, episode_starts)


class HasEta(Core):
    def step(self, x, state):
        output, after = super().step(x, state)
        return CoreOutput(output.y, output.y[:, 0]), after


class LosesItsEta(HasEta):
    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        output, state = super().unroll(xs, state, episode_starts, hooks)
        return CoreOutput(output.y, 0 * output.eta), state


class Detaches(Core):
    def unroll(self, xs, state=None, episode_starts=None, hooks=None):
        output, state = super().unroll(xs, state, episode_starts, hooks)
        return CoreOutput(output.y.detach()), state


@pytest.mark.parametrize(
    ("core", "message"),
    [
        (AddsEarlierSequences, "sequences must not depend on other sequences of the batch"),
        (ActsDifferentlyWithoutStarts, "act must equal step, without episode starts"),
        (LosesItsEta, "unroll must equal step repeated"),
        (Detaches, "unroll must have the gradient of step repeated"),
        (StateOnTheCPU, "initial_state must make tensors on the device of the parameters, got one on cpu"),
        (MaskOnTheCPU, "step makes a tensor that is not on the parameters' device"),
        (StateInFloat32, "in the dtype of the parameters, torch.float64, got torch.float32"),
        (StateWithoutBatch, r"tensors of initial_state\(3\) must have shape \[3, ...\], got \[5\]"),
        (OutputOfAnotherSize, r"y must be torch.float64 of shape \[3, 2\], got torch.float64 of shape \[3, 1\]"),
        (EtaOfAnotherShape, r"eta must have shape \[3\], got \[3, 2\]"),
        (OverwritesItsState, "step must not change the state that it takes"),
        (StateOfAnotherStructure, "step must keep the structure of the state"),
        (StateOfAnotherShape, "step must keep shapes and dtypes of the state"),
        (MixesSequences, "sequences must not depend on other sequences of the batch"),
        (IgnoresEpisodeStarts, "unroll must restart from initial_state where episode_starts is true"),
        (IgnoresTheState, "unroll must equal step repeated"),
        (ResumesTheLastSegment, "unroll without a state must start from initial_state"),
        (UnrollsDifferently, "unroll must equal step repeated"),
        (ActsWithoutRestarts, "act must equal step, with episode starts"),
    ],
)
def test_violated_requirements_are_named(core, message):
    check_core(Core())
    with pytest.raises(AssertionError, match=message):
        check_core(core())


def test_a_module_that_is_no_core_is_refused():
    with pytest.raises(TypeError, match=r"core must be a plastic_agents\.RecurrentCore, got Linear"):
        check_core(torch.nn.Linear(2, 2))


def test_an_initial_state_that_is_no_state_is_refused():
    class BareState(Core):
        def initial_state(self, batch_size):
            return super().initial_state(batch_size).hidden

        def step(self, x, state):
            output, state = super().step(x, State(state))
            return output, state.hidden

    with pytest.raises(TypeError, match="initial_state must return a State, got tuple"):
        check_core(BareState())
