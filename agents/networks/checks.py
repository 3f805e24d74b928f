"""Argument checks that all networks share."""

from __future__ import annotations

from typing import Any

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


def one_step(value: Any) -> Any:
    """A step's tensor as a segment of one step; what is no tensor stays as it is, for `check_inputs` to refuse."""
    return value.unsqueeze(0) if isinstance(value, Tensor) else value


def check_inputs(
    xs: Tensor, input_size: int, weight: Tensor, initial: State, state: State | None, starts: Tensor | None = None
) -> int:
    """Check a segment xs [T, B, I], its state and the episode starts against the network; return B.

    Args:
        xs: the inputs.
        input_size: I.
        weight: any of the network's parameters, for its dtype and device.
        initial: the network's initial state of any number of sequences, to compare ``state`` with.
        state: the state before the segment, or None.
        starts: bool [T, B], or None.

    Raises:
        TypeError: the inputs or the starts are no tensors.
        ValueError: a wrong shape, dtype or device; the message names what has it.
    """
    if not isinstance(xs, Tensor):
        raise TypeError(f"inputs must be a tensor, got {type(xs).__name__}")
    if xs.dim() != 3 or xs.shape[-1] != input_size or xs.shape[0] < 1:
        raise ValueError(f"inputs must have shape [T, B, {input_size}] with T >= 1, got {list(xs.shape)}")
    if xs.dtype != weight.dtype:
        raise ValueError(f"inputs must have the network's dtype, {weight.dtype}, got {xs.dtype}")
    if xs.device != weight.device:
        raise ValueError(f"inputs must be on the network's device, {weight.device}, got {xs.device}")
    if state is not None:
        check_state(state, initial, xs.shape[1])
    if starts is not None:
        _check_starts(starts, xs)
    return xs.shape[1]


def _check_starts(starts: Tensor, xs: Tensor) -> None:
    if not isinstance(starts, Tensor):
        raise TypeError(f"starts must be a tensor, got {type(starts).__name__}")
    if starts.shape != xs.shape[:2] or starts.dtype != torch.bool or starts.device != xs.device:
        raise ValueError(
            f"starts must be bool of shape {list(xs.shape[:2])} on {xs.device}, got {starts.dtype} of shape "
            f"{list(starts.shape)} on {starts.device}"
        )


def check_state(state: Any, initial: Any, batch_size: int, name: str = "state") -> None:
    """Compare every leaf of ``state`` with an initial state, which may be one of another number of sequences.

    Raises:
        ValueError: a leaf is missing, or its shape, dtype, device or layout differ; the message names it.
    """
    if isinstance(initial, Tensor):
        _check_leaf(name, state, initial, (batch_size, *initial.shape[1:]))
    elif type(state) is not type(initial):
        wanted, got = ("None" if value is None else type(value).__name__ for value in (initial, state))
        raise ValueError(f"{name} must be {wanted}, as this network's initial_state makes it, got {got}")
    elif initial is not None:
        for field, value, wanted_value in zip(initial._fields, state, initial, strict=True):
            check_state(value, wanted_value, batch_size, f"{name}.{field}")


def _check_leaf(name: str, value: Any, like: Tensor, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.shape != shape:
        raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
    if value.dtype != like.dtype or value.device != like.device or value.layout != like.layout:
        raise ValueError(
            f"{name} must be {like.dtype} on {like.device}, {like.layout}, got {value.dtype} on {value.device}, "
            f"{value.layout}"
        )
