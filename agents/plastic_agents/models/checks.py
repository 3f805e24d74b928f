"""Checks of the inputs and states passed to a core; each error names the argument and its fault."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def one_step(value: Any) -> Any:
    """Return the tensor of one step as a segment; return other values unchanged, for `check_inputs` to refuse."""
    return value.unsqueeze(0) if isinstance(value, Tensor) else value


def check_inputs(xs: Tensor, input_size: int, parameter: Tensor | None, episode_starts: Tensor | None = None) -> None:
    """Check a segment xs [T, B, I] and its episode starts.

    Args:
        xs: the inputs.
        input_size: I.
        parameter: any parameter of the core, for its dtype and device; ``None`` if it has none.
        episode_starts: bool [T, B], or None.

    Raises:
        TypeError: the inputs or the episode starts are no tensors.
        ValueError: a wrong shape, dtype or device.
    """
    if not isinstance(xs, Tensor):
        raise TypeError(f"inputs must be a tensor, got {type(xs).__name__}")
    if xs.dim() != 3 or xs.shape[-1] != input_size or xs.shape[0] < 1:
        raise ValueError(f"inputs must have shape [T, B, {input_size}] with T >= 1, got {list(xs.shape)}")
    if parameter is not None and xs.dtype != parameter.dtype:
        raise ValueError(f"inputs must have the network's dtype, {parameter.dtype}, got {xs.dtype}")
    if parameter is not None and xs.device != parameter.device:
        raise ValueError(f"inputs must be on the network's device, {parameter.device}, got {xs.device}")
    if episode_starts is not None:
        _check_episode_starts(episode_starts, xs)


def _check_episode_starts(episode_starts: Tensor, xs: Tensor) -> None:
    if not isinstance(episode_starts, Tensor):
        raise TypeError(f"episode_starts must be a tensor, got {type(episode_starts).__name__}")
    expected = (xs.shape[:2], torch.bool, xs.device)
    if (episode_starts.shape, episode_starts.dtype, episode_starts.device) != expected:
        raise ValueError(
            f"episode_starts must be bool of shape {list(xs.shape[:2])} on {xs.device}, got {episode_starts.dtype} of "
            f"shape {list(episode_starts.shape)} on {episode_starts.device}"
        )


def check_state(state: Any, initial: Any, batch_size: int, name: str = "state") -> None:
    """Compare every leaf of ``state`` with an initial state, which may have another number of sequences.

    Raises:
        ValueError: a leaf is missing, or its shape, dtype, device or layout differs; the message names the leaf.
    """
    if isinstance(initial, Tensor):
        _check_leaf(name, state, initial, (batch_size, *initial.shape[1:]))
        return
    if type(state) is not type(initial):
        expected, got = ("None" if value is None else type(value).__name__ for value in (initial, state))
        raise ValueError(f"{name} must be {expected}, as this network's initial_state makes it, got {got}")
    if initial is None:
        return
    if isinstance(initial, dict):
        if state.keys() != initial.keys():
            raise ValueError(f"{name} must have the keys {list(initial)}, got {list(state)}")
        for key, initial_leaf in initial.items():
            check_state(state[key], initial_leaf, batch_size, f"{name}.{key}")
        return
    if len(state) != len(initial):
        raise ValueError(f"{name} must have length {len(initial)}, got {len(state)}")
    fields = getattr(initial, "_fields", range(len(initial)))
    for field, leaf, initial_leaf in zip(fields, state, initial, strict=True):
        check_state(leaf, initial_leaf, batch_size, f"{name}.{field}")


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
