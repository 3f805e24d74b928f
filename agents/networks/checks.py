"""Argument checks that all networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.plasticity.state import State


def check_sizes(**sizes: int) -> None:
    """Raise ValueError unless each size is a positive int."""
    for name, value in sizes.items():
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")


_INTERFACE = ("input_size", "output_size", "initial_state", "step", "unroll")


def check_interface(network: nn.Module) -> None:
    """Raise TypeError unless the network has all that `agents.Network` asks for."""
    missing = [name for name in _INTERFACE if not hasattr(network, name)]
    if missing:
        raise TypeError(
            f"a network needs {', '.join(_INTERFACE)} (see agents.Network); {type(network).__name__} has no "
            + ", ".join(missing)
        )


def check_inputs(
    xs: Tensor, input_size: int, dtype: torch.dtype, state: State | None, starts: Tensor | None = None
) -> int:
    """Check a segment xs [T, B, I] against the network, its state and the episode starts; return B."""
    if xs.dim() != 3 or xs.shape[-1] != input_size or xs.shape[0] < 1:
        raise ValueError(f"inputs must have shape [T, B, {input_size}] with T >= 1, got {list(xs.shape)}")
    if xs.dtype != dtype:
        raise ValueError(f"inputs must have the network's dtype, {dtype}, got {xs.dtype}")
    if state is not None and state.hidden.h.shape[0] != xs.shape[1]:
        raise ValueError(f"state is of {state.hidden.h.shape[0]} sequences, inputs are of {xs.shape[1]}")
    if starts is not None and (starts.shape != xs.shape[:2] or starts.dtype != torch.bool):
        raise ValueError(
            f"starts must be bool of shape {list(xs.shape[:2])}, got {starts.dtype} of shape {list(starts.shape)}"
        )
    return xs.shape[1]
