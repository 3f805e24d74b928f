"""`PlasticityRule`: how the fast weights of one layer change at a step, and the register of all rules.

A rule is one file in `rules/` or in your own code: its source, its equation, and a function from what a layer computed
at a step to the update of the layer's fast weight. Networks, forms, probes and the command line need nothing else of
it.

Shape letters: B sequences, N a layer's inputs, M its outputs, E its extra outputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor, nn

from plastic_agents.models.plastic.fast_weights import AlphaInit

RuleClass = TypeVar("RuleClass", bound="type[PlasticityRule]")


@dataclass(frozen=True)
class MatrixUpdate:
    """Change of a matrix of the rule's state: ``S <- keep S + rate (pre (x) post)``.

    Attributes:
        pre, post: [B, n] and [B, m], for a matrix [B, n, m].
        rate: [B, 1].
        keep: [B, 1].
    """

    pre: Tensor
    post: Tensor
    rate: Tensor
    keep: Tensor


@dataclass(frozen=True)
class Update:
    """Change of a layer's fast weight: ``W <- keep W + rate alpha (pre (x) post)``, and of the rule's state.

    The network multiplies ``rate`` by the norm limit (see `plastic_agents.models.plastic.update.Plasticity`).

    Attributes:
        pre: [B, N], usually the layer's input.
        post: [B, M + E].
        rate: signed, [B, 1]; ``None`` for eta, the network's modulated rate.
        keep: factor of every element of W [B, 1]; ``None`` for 1 - decay.
        keep_columns: factor of each column of W [B, M + E]; ``None`` for 1.
        keep_rows: factor of each row of W [B, N]; ``None`` for 1.
        add: for each matrix of the rule's state to add, its coefficient [B, 1]: W also gets ``coefficient alpha S``,
            with S before this step's `MatrixUpdate`.
        state: the next value of each vector of the rule's state, and the `MatrixUpdate` of each matrix.
    """

    pre: Tensor
    post: Tensor
    rate: Tensor | None = None
    keep: Tensor | None = None
    keep_columns: Tensor | None = None
    keep_rows: Tensor | None = None
    add: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, Tensor | MatrixUpdate] = field(default_factory=dict)


class UnknownMatrixError(KeyError):
    """A form has no such matrix of the rule's state; the network raises ValueError for it."""


class FastLayer(Protocol):
    """A plastic layer at one step, in the representation of one of the forms."""

    def read(self, p: Tensor) -> Tensor:
        """See `LayerStep.read`."""

    def read_fast(self, p: Tensor) -> Tensor:
        """See `LayerStep.read_fast`."""

    def read_transposed(self, d: Tensor) -> Tensor:
        """See `LayerStep.read_transposed`."""

    def read_state(self, name: str, p: Tensor) -> Tensor:
        """See `LayerStep.read_state`."""


@dataclass(frozen=True, eq=False)
class LayerStep:
    """One layer at one step, as a rule sees it. Everything here was computed with the weights before the update.

    Attributes:
        pre: the layer's input p [B, N].
        post: the activity u to which the layer leads, after the nonlinearity [B, M]: relu(q) of the input layer, the
            activated gates of a recurrent cell, q of the readout.
        extra: the layer's extra outputs [B, E], see `PlasticityRule.extra_outputs`; None if it has none.
        eta: the modulated rate, ``rate * sigmoid(m)`` [B, 1]; ``rate / 2`` without modulation.
        signed_eta: the signed modulated rate, ``rate * tanh(m)`` [B, 1]; ``rate / 2`` without modulation.
        decay: the modulated decay, ``decay * sigmoid(m)`` [B, 1]; ``decay / 2`` without modulation.
        parameters: the rule's own parameters of this layer, from `PlasticityRule.make_parameters`.
        state: the vectors [B, n] of the rule's state; `read_state` reads its matrices.
        layer: the layer with its fast weights, which `read` and `read_fast` use.
        make_loss_gradient: makes `loss_gradient`.
    """

    pre: Tensor
    post: Tensor
    extra: Any
    eta: Tensor
    signed_eta: Tensor
    decay: Tensor
    parameters: Any
    state: Mapping[str, Tensor]
    layer: FastLayer
    make_loss_gradient: Callable[[], Tensor]

    @property
    def loss_gradient(self) -> Tensor:
        """The gradient dL/dq of the inner loss [B, M], for rules with `PlasticityRule.uses_loss_gradient`.

        Raises:
            ValueError: the rule does not have ``uses_loss_gradient``.
        """
        return self.make_loss_gradient()

    def read(self, p: Tensor) -> Tensor:
        """Return ``p (W~ + W) + b~ + b`` [B, M + E] of p [B, N]."""
        return self.layer.read(p)

    def read_fast(self, p: Tensor) -> Tensor:
        """Return ``p W`` [B, M + E] of p [B, N], without biases."""
        return self.layer.read_fast(p)

    def read_transposed(self, d: Tensor) -> Tensor:
        """Return ``d (W~ + W)^T`` [B, N] of d [B, M + E]."""
        return self.layer.read_transposed(d)

    def read_state(self, name: str, p: Tensor) -> Tensor:
        """Return ``p S`` [B, m] of p [B, n] and a matrix S [B, n, m] of the rule's state.

        Raises:
            ValueError: the rule's state has no such matrix.
        """
        return self.layer.read_state(name, p)


@dataclass(frozen=True)
class PlasticityRule(ABC):
    """A plasticity rule. A subclass implements `update`; everything else has a default.

    Its class attributes say what the rule needs and which settings suit it. Constants of its equation are class
    attributes without annotations, so that a subclass can set others. A rule keeps no tensors: they belong to the
    network.
    `plastic_agents.testing.check_rule` checks a rule of your own.

    Class attributes:
        plastic_bias: whether the rule changes biases too. A bias is a row of the weight with p = 1.
        uses_loss_gradient: whether the rule reads `LayerStep.loss_gradient`; the network then has the parameter w_out.
        layers: kinds of layers that the rule changes by default (see `PlasticNetwork`); ``None`` for all.
        rate, decay, max_norm, alpha_init: the settings of `Plasticity` that are ``None`` there. ``decay`` None means
            the same as the rate.
    """

    plastic_bias: ClassVar[bool] = False
    uses_loss_gradient: ClassVar[bool] = False
    layers: ClassVar[tuple[str, ...] | None] = None
    rate: ClassVar[float] = 0.2
    decay: ClassVar[float | None] = None
    max_norm: ClassVar[float] = 1.0
    alpha_init: ClassVar[AlphaInit] = "random"

    def make_parameters(self, n_in: int, n_out: int) -> nn.Module:
        """Make the rule's own parameters for one layer: learned vectors, and projections such as ``nn.Linear``.

        Args:
            n_in: N.
            n_out: M + E.
        """
        return nn.Module()

    def initial_state(self, parameters: nn.Module, n_in: int, n_out: int) -> dict[str, Tensor]:
        """Return the rule's state for one layer at the start of an episode: vectors [n] and matrices [n, m], by name.

        Args:
            parameters: from `make_parameters`; the initial state may depend on them.
            n_in: N.
            n_out: M + E.
        """
        return {}

    def extra_outputs(self, n_in: int, n_out: int) -> int:
        """Return the number of outputs E that a layer with M = ``n_out`` outputs gets for the rule alone."""
        return 0

    @abstractmethod
    def update(self, step: LayerStep) -> Update:
        """Return the change of a layer's fast weight at one step.

        The function must be pure, and may use operations on the last axis only: all sequences are independent.
        """


RULES: dict[str, type[PlasticityRule]] = {}
"""The registered rules, by name."""

NO_LIMIT = math.inf


def register_rule(name: str) -> Callable[[RuleClass], RuleClass]:
    """Return a class decorator that registers a rule, so that its name can be given to networks and configurations.

    A class that is defined again, for example by rerunning a notebook cell, replaces the class of the same name.

    Raises:
        TypeError: the name is not a str, or the decorated class is not derived from `PlasticityRule`.
        ValueError: the name is taken.
    """
    if not isinstance(name, str):
        raise TypeError(f"name of a rule must be a str, as in @register_rule('covariance'), got {name!r}")

    def register(rule_class: RuleClass) -> RuleClass:
        if not isinstance(rule_class, type) or not issubclass(rule_class, PlasticityRule):
            raise TypeError(f"a rule must be a class derived from PlasticityRule, got {rule_class!r}")
        if name == "none" or (name in RULES and not _is_redefinition(RULES[name], rule_class)):
            raise ValueError(f"name of a rule must not be in use, got {name!r}")
        RULES[name] = rule_class
        return rule_class

    return register


def _is_redefinition(old: type[PlasticityRule], new: type[PlasticityRule]) -> bool:
    return (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)


def make_rule(rule: str | PlasticityRule) -> tuple[str, PlasticityRule]:
    """Return the name of a rule and the rule itself, from its registered name or from an object.

    Raises:
        ValueError: an unknown name.
        TypeError: neither a name nor a rule.
    """
    if isinstance(rule, PlasticityRule):
        names = (name for name, rule_class in RULES.items() if rule_class is type(rule))
        return next(names, type(rule).__name__), rule
    if not isinstance(rule, str):
        raise TypeError(f"rule must be the name of a rule or a PlasticityRule, got {rule!r}")
    if rule not in RULES:
        raise ValueError(f"rule must be one of {tuple(RULES)}, or a PlasticityRule, got {rule!r}")
    return rule, RULES[rule]()


# At the end, because the rules import this module: they are registered whichever of the two is imported first.
import plastic_agents.models.plastic.rules  # noqa: E402, F401
