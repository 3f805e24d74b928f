"""One optimiser step with a clipped gradient that must be finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def make_step(loss: Tensor, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], max_norm: float) -> float:
    """Step down the gradient of ``loss``, clipped to an l2 norm of ``max_norm`` over all parameters.

    Returns:
        The gradient's norm before clipping.

    Raises:
        FloatingPointError: the gradient is not finite; the parameters are not changed.
    """
    optimizer.zero_grad()
    loss.backward()
    norm = float(nn.utils.clip_grad_norm_(parameters, max_norm))
    if not math.isfinite(norm):
        raise FloatingPointError(f"loss {loss.item()}, gradient norm {norm}")
    optimizer.step()
    return norm
