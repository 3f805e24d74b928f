"""Settings of plasticity, the modulated rates, and the limit on the norm of an update.

Source: Duan et al., "Hebbian and Gradient-based Plasticity Enables Robust Memory and Rapid Learning in RNNs",
ICLR 2023 (arXiv 2302.03235), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from plastic_agents.config_checks import FRACTION, POSITIVE, Check, check_fields
from plastic_agents.models.plastic.fast_weights import AlphaInit
from plastic_agents.models.plastic.rule import PlasticityRule, Update
from plastic_agents.plain_data import register
from plastic_envs.validation import flag, one_of, whole_number

LAYER_KINDS = ("input", "input_to_hidden", "hidden_to_hidden", "readout")


@register
@dataclass(frozen=True)
class Plasticity:
    """Settings of plasticity. ``None`` stands for the rule's default; those of the authors' two rules are theirs.

    Attributes:
        modulated: the network sets its own rate, ``eta_0 sigmoid(m)``, with one more readout unit m. Otherwise the
            rate is the constant ``eta_0 / 2``, which is what m = 0 would give.
        rate: eta_0, the largest rate of writing, in [0, 1]; None: the rule's default.
        decay: the largest decay of fast weights in a step, in [0, 1], which the rate unit modulates like the rate;
            None: the rule's default, which is the rate in the rules of the paper.
        extra: number of readout units besides the outputs (and m), free for the rule to use.
        alpha_init: how the plasticity coefficients start: ``"random"`` (uniform in [-1, 1]), ``"+1"``, ``"-1"``, or
            ``"absent"`` (fixed at 1).
        max_norm: largest l2 norm of one sequence's update over all layers, before rate and coefficients; infinity for
            no limit.
        layers: kinds of layers that are plastic, of ``"input"``, ``"input_to_hidden"``, ``"hidden_to_hidden"`` and
            ``"readout"``.
    """

    modulated: bool = True
    rate: float | None = None
    decay: float | None = None
    extra: int = 4
    alpha_init: AlphaInit | None = None
    max_norm: float | None = None
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS)


def _or_none(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def _layer_kinds(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not value or set(value) - set(LAYER_KINDS) or len(set(value)) < len(value):
        raise ValueError(f"{name} must hold one or more of {LAYER_KINDS}, each once, got {value!r}")
    return tuple(kind for kind in LAYER_KINDS if kind in value)


_CHECKS: dict[str, Check] = {
    "modulated": flag,
    "rate": _or_none(FRACTION),
    "decay": _or_none(FRACTION),
    "extra": partial(whole_number, at_least=0),
    "alpha_init": _or_none(partial(one_of, choices=get_args(AlphaInit))),
    "max_norm": _or_none(lambda name, value: math.inf if value == math.inf else POSITIVE(name, value)),
    "layers": _or_none(_layer_kinds),
}


class Settings(NamedTuple):
    """`Plasticity` with the rule's defaults filled in."""

    modulated: bool
    rate: float
    decay: float
    extra: int
    alpha_init: AlphaInit
    max_norm: float
    layers: tuple[str, ...]


def settings_of(plasticity: Plasticity, rule: PlasticityRule) -> Settings:
    """Return the settings of a network with this rule."""
    rate = rule.rate if plasticity.rate is None else plasticity.rate
    rule_decay = rate if rule.decay is None else rule.decay
    return Settings(
        modulated=plasticity.modulated,
        rate=rate,
        decay=rule_decay if plasticity.decay is None else plasticity.decay,
        extra=plasticity.extra,
        alpha_init=plasticity.alpha_init or rule.alpha_init,
        max_norm=rule.max_norm if plasticity.max_norm is None else plasticity.max_norm,
        layers=plasticity.layers or rule.layers or LAYER_KINDS,
    )


class Rates(NamedTuple):
    """The modulated rates of a step, each [B, 1]; see `plastic_agents.models.plastic.rule.LayerStep`."""

    eta: Tensor
    signed_eta: Tensor
    decay: Tensor


def modulated_rates(settings: Settings, readout: Tensor) -> Rates:
    """Return the rates of a step from its readout [B, R], whose last unit is m if the network is modulated."""
    m = readout[:, -1:]
    if settings.modulated:
        gate, signed_gate = torch.sigmoid(m), torch.tanh(m)
    else:
        gate = signed_gate = torch.full_like(m, 0.5)
    return Rates(settings.rate * gate, settings.rate * signed_gate, settings.decay * gate)


def norm_limit(max_norm: float, plastic_bias: bool, updates: Iterable[Update]) -> Tensor | None:
    """Return ``min(1, max_norm / n)`` [B, 1], n being the norm of the updates of all layers; None without a limit.

    The norm needs no matrix, because each update is of rank one: ``n^2 = sum over layers (|p|^2 [+ 1]) |u|^2``.
    The clamp under the root makes the limit finite, forward and backward, at n = 0.
    """
    if max_norm == math.inf:
        return None
    squared_norms = [
        (update.pre.square().sum(-1, keepdim=True) + (1.0 if plastic_bias else 0.0))
        * update.post.square().sum(-1, keepdim=True)
        for update in updates
    ]
    squared_norm = sum(squared_norms[1:], start=squared_norms[0])
    return max_norm * torch.rsqrt(squared_norm.clamp(min=max_norm**2))


def completed(update: Update, eta: Tensor, decay: Tensor, limit: Tensor | None) -> Update:
    """Return an update with its rate, after the norm limit, and its ``keep`` filled in; eta and decay are [B, 1]."""
    rate = eta if update.rate is None else update.rate
    return replace(
        update,
        rate=rate if limit is None else rate * limit,
        keep=1 - decay if update.keep is None else update.keep,
    )
