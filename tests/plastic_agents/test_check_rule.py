"""check_rule: it passes the registered rules, and names the promise that a wrong rule breaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from plastic_agents.models.plastic.rule import RULES, MatrixUpdate, PlasticityRule, Update
from plastic_agents.testing import check_rule
from torch import nn

# Recurrent fast weights of these rules, with a rectifier, diverge for some seeds.
BOUNDED = dict.fromkeys(("delta", "gated_delta"), ("lstm",))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_registered_rules_pass(rule):
    check_rule(rule, cells=BOUNDED.get(rule, ("rnn",)))


@dataclass(frozen=True)
class Rule(PlasticityRule):
    """A rule that keeps all promises, for faults to be put in: Hebbian, with a threshold and a trace."""

    slope: float = 0.5

    def make_parameters(self, n_in, n_out):
        return nn.ParameterDict({"start": nn.Parameter(torch.full((n_out,), 0.3))})

    def initial_state(self, parameters, n_in, n_out):
        return {"theta": parameters["start"], "trace": torch.full((n_in, n_out), 0.1)}

    def update(self, step):
        theta = 0.9 * step.state["theta"] + 0.1 * step.post
        trace = MatrixUpdate(step.pre, torch.tanh(step.post), rate=0.1 * step.eta, keep=1 - step.eta)
        return Update(
            step.pre,
            torch.tanh(step.post - self.slope * theta),
            add={"trace": 0.1 * step.signed_eta},
            state={"theta": theta, "trace": trace},
        )


def test_a_rule_object_passes_and_torch_keeps_its_random_state():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_rule(Rule(slope=0.2), cells=("tanh_rnn", "gru", "mgu"))
    assert torch.equal(torch.rand(2), expected)


class Hebbian(PlasticityRule):
    """A rule without a state, which every form but the compiled one supports."""

    def update(self, step):
        return Update(step.pre, step.post)


class OtherInOneForm(Hebbian):
    def update(self, step):
        factor = 1.001 if type(step.layer).__name__ == "ImplicitLayer" else 1.0
        return Update(step.pre, step.post, rate=factor * step.eta)


class OtherWithoutGradient(Hebbian):
    def update(self, step):
        return Update(step.pre, step.post, rate=step.eta * (1.0 if torch.is_grad_enabled() else 1.001))


class OtherWithOneSequence(Hebbian):
    def update(self, step):
        return Update(step.pre, step.post, rate=step.eta * (1.001 if len(step.post) == 1 else 1.0))


class MixesSequences(Hebbian):
    def update(self, step):
        return Update(step.pre, step.post - step.post.mean(dim=0, keepdim=True))


class KeepsMemory(Hebbian):
    """Episode starts can't restart a memory in the class."""

    memory: ClassVar[dict] = {}

    def update(self, step):
        key = (id(step.parameters), step.pre.dtype, step.pre.device, step.post.shape)
        before = self.memory.get(key, torch.zeros_like(step.post))
        self.memory[key] = step.post.detach()
        return Update(step.pre, step.post + before)


class Counts(Hebbian):
    count: ClassVar[list] = [0]

    def update(self, step):
        self.count[0] += 1
        return Update(step.pre, step.post * (1 + 1e-3 * self.count[0]))


class Overwrites(Hebbian):
    def update(self, step):
        with torch.no_grad():
            step.pre.mul_(0.5)
        return super().update(step)


class StartsAtRandom(Rule):
    def initial_state(self, parameters, n_in, n_out):
        return {**super().initial_state(parameters, n_in, n_out), "theta": torch.rand(n_out)}


class DividesByItsNorm(Hebbian):
    layers: ClassVar[tuple] = ("hidden_to_hidden",)

    def update(self, step):
        return Update(step.pre, step.post / step.post.norm(dim=-1, keepdim=True))


class RootOfZero(Hebbian):
    """Finite at zero, but its gradient is not."""

    def update(self, step):
        return Update(step.pre, step.post.square().sqrt())


class Detaches(Hebbian):
    def update(self, step):
        return Update(step.pre, step.post * step.post.detach())


class BlowsUp(Hebbian):
    max_norm: ClassVar[float] = 100.0

    def update(self, step):
        return Update(step.pre, step.post, keep=torch.full_like(step.eta, 1.1))


class GrowsSlowly(Hebbian):
    """Feeds a rounding error that doubles at every step into the layer, while all numbers stay small."""

    rate: ClassVar[float] = 1.0
    max_norm: ClassVar[float] = 10.0

    def initial_state(self, parameters, n_in, n_out):
        return {"chaos": torch.full((n_out,), 0.3)}

    def update(self, step):
        chaos = step.state["chaos"]
        return Update(step.pre, chaos, state={"chaos": 3.9 * chaos * (1 - chaos)})


class Branches(Hebbian):
    def update(self, step):
        return Update(step.pre, step.post if step.post.sum() > 1e6 else 0.5 * step.post)


class ConstantInFloat32(Hebbian):
    def update(self, step):
        return Update(step.pre, step.post, keep=torch.full((len(step.pre), 1), 0.9))


class ReadsInFloat32(Hebbian):
    def update(self, step):
        return Update(step.pre, step.read(torch.ones(step.pre.shape)))


class ConstantOnTheCPU(Hebbian):
    def update(self, step):
        return Update(step.pre, step.post, keep=torch.full((len(step.pre), 1), 0.9, dtype=step.pre.dtype))


class FactorOnTheCPU(Hebbian):
    def update(self, step):
        return Update(step.pre, step.post * torch.full(step.post.shape[-1:], 0.9, dtype=step.pre.dtype))


class AddsEarlierSequences(Hebbian):
    def update(self, step):
        return Update(step.pre, step.post.cumsum(0) if len(step.post) > 1 else step.post)


DTYPE, DEVICE = (f"an update's tensors must have the {name} of the layer's input" for name in ("dtype", "device"))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (OtherInOneForm, "form implicit: the form must equal the reference, got a difference of .* in y"),
        (OtherWithoutGradient, "form dense: the form must equal the reference under torch.no_grad, got .* in y"),
        (OtherWithOneSequence, "form dense: sequences must not depend on other sequences of the batch, got"),
        (AddsEarlierSequences, "form dense: sequences must not depend on other sequences of the batch, got"),
        (MixesSequences, "form dense: sequences must not depend on other sequences of the batch, got"),
        (KeepsMemory, "form dense: update must be a pure function of the step"),
        (Counts, "form dense: update must be a pure function of the step"),
        (Overwrites, "form dense: update must not overwrite what it reads"),
        (StartsAtRandom, "form dense: an episode start must restore the initial state"),
        (DividesByItsNorm, "form (dense|compiled): a network of zeros must give finite numbers, got y ="),
        (RootOfZero, "form (dense|compiled): a network of zeros must give finite numbers, got gradient of .* ="),
        (Detaches, "the gradient must equal finite differences, got .*Jacobian mismatch"),
        (BlowsUp, r"(numbers must be finite after 500 steps|outputs of a new network must be at most 10000 in 500)"),
        (GrowsSlowly, "float32 must be within 0.01 of float64 for 500 steps, got a difference of .* in y"),
        (Branches, "torch.func.vmap of the gradient must work, .* got vmap"),
        (ConstantInFloat32, f"{DTYPE}.* got keep with dtype torch.float32 for torch.bfloat16"),
        (ReadsInFloat32, f"{DTYPE}.* got expected"),
        (ConstantOnTheCPU, f"{DEVICE}.* got keep with device cpu for meta"),
        (FactorOnTheCPU, f"{DEVICE}.* got .* meta"),
    ],
)
def test_broken_promises_are_named(rule, message):
    location = rf"rule {rule.__name__}, cell tanh_rnn(, 1 recurrent layer, plastic in .*)?: (form \w+: )?"
    with pytest.raises(AssertionError, match=f"(?s)^{location}.*{message}"):
        check_rule(rule(), cells=("tanh_rnn",))


def test_errors_at_construction_pass_through():
    class NoUpdate(Hebbian):
        def update(self, step):
            return step.pre, step.post

    with pytest.raises(TypeError, match="the update of rule NoUpdate in layer input must be an Update, got tuple"):
        check_rule(NoUpdate())
    with pytest.raises(ValueError, match="rule must be one of"):
        check_rule("unknown")
