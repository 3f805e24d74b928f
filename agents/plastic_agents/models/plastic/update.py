"""Settings of the plasticity rules, the modulated rate, and the limit on the norm of an update.

Source: Duan et al., "Hebbian and Gradient-based Plasticity Enables Robust Memory and Rapid Learning in RNNs",
ICLR 2023 (arXiv 2302.03235), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from plastic_agents.config_checks import FRACTION, POSITIVE, Check, check_fields
from plastic_agents.models.plastic.fast_weights import AlphaInit
from plastic_agents.plain_data import register
from plastic_envs.validation import flag, one_of, whole_number

Rule = Literal["hebbian", "gradient"]


@register
@dataclass(frozen=True)
class Plasticity:
    """Settings of a plasticity rule; the defaults are the authors'.

    Attributes:
        modulated: the network sets its own rate, ``eta_0 sigmoid(m)``, with one more readout unit m. Otherwise the
            rate is the constant ``eta_0 / 2``, which is what m = 0 would give.
        rate: eta_0, the largest rate, in [0, 1].
        decay: the same for the decay of the fast weights; ``None`` means ``rate``.
        extra: number of readout units besides the outputs (and m), free for the rule to use.
        alpha_init: how the plasticity coefficients start: ``"random"`` (uniform in [-1, 1]), ``"+1"``, ``"-1"``, or
            ``"absent"`` (fixed at 1).
        max_norm: largest l2 norm of one sequence's update over all layers, before rate and coefficients.
    """

    modulated: bool = True
    rate: float = 0.2
    decay: float | None = None
    extra: int = 4
    alpha_init: AlphaInit = "random"
    max_norm: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, _CHECKS)

    @property
    def decay_rate(self) -> float:
        """The largest decay of the fast weights in one step."""
        return self.rate if self.decay is None else self.decay


_CHECKS: dict[str, Check] = {
    "modulated": flag,
    "rate": FRACTION,
    "decay": lambda name, value: None if value is None else FRACTION(name, value),
    "extra": partial(whole_number, at_least=0),
    "alpha_init": partial(one_of, choices=get_args(AlphaInit)),
    "max_norm": POSITIVE,
}


class Activations(NamedTuple):
    """Activations of one step, from which a rule computes its directions.

    Attributes:
        x: input [B, I].
        a: input layer, after relu [B, H].
        previous_h: hidden activity before the step [B, H].
        units: the cell's units after their nonlinearity [B, G]: h itself, or the LSTM's gates i, f, g, o.
        h: hidden activity after the step [B, H].
        readout: o [B, R], in the order outputs, extra, m.
    """

    x: Tensor
    a: Tensor
    previous_h: Tensor
    units: Tensor
    h: Tensor
    readout: Tensor


class OuterProduct(NamedTuple):
    """Update direction of one layer's weight, ``pre`` [B, in] (x) ``post`` [B, out]; ``post`` is also its bias's."""

    pre: Tensor
    post: Tensor


class Directions(NamedTuple):
    """Update directions of the four plastic layers, before rate, norm limit and coefficients."""

    input: OuterProduct
    input_to_hidden: OuterProduct
    hidden_to_hidden: OuterProduct
    readout: OuterProduct


class Rates(NamedTuple):
    """How one step changes the fast weights: ``W <- (1 - decay) W + write * alpha * (pre (x) post)``; each [B].

    ``eta`` is the modulated rate before the norm limit.
    """

    eta: Tensor
    write: Tensor
    decay: Tensor


def update_rates(
    plasticity: Plasticity, plastic_bias: bool, readout: Tensor, directions: Sequence[OuterProduct]
) -> Rates:
    """Return rate, norm-limited rate and decay of one step, from the ``readout`` [B, R] and the update directions.

    The norm needs no matrix, because each update is of rank one: ``n^2 = sum over layers (|p|^2 [+ 1]) |u|^2``.
    ``min(1, max_norm / n)`` is written with a clamp under the root: finite, forward and backward, at n = 0.
    """
    gate = torch.sigmoid(readout[:, -1]) if plasticity.modulated else torch.full_like(readout[:, -1], 0.5)
    bias_term = 1.0 if plastic_bias else 0.0
    squared_norm = torch.zeros_like(gate)
    for pre, post in directions:
        squared_norm = squared_norm + (pre.square().sum(-1) + bias_term) * post.square().sum(-1)
    limit = plasticity.max_norm * torch.rsqrt(squared_norm.clamp(min=plasticity.max_norm**2))
    eta = plasticity.rate * gate
    return Rates(eta=eta, write=eta * limit, decay=plasticity.decay_rate * gate)
