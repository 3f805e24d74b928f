"""Checks of the updates that a plasticity rule returns; each error names the rule, the layer and the entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from plastic_agents.models.plastic.rule import MatrixUpdate, Update


def check_update(
    rule: str, layer: str, update: Any, shape: tuple[int, int, int], state: Mapping[str, tuple[int, ...]]
) -> None:
    """Check the types and shapes of what a rule returned for one layer.

    Args:
        rule: the rule's name.
        layer: the layer's name.
        update: what the rule returned.
        shape: shape of the layer's fast weight, [B, n_in, n_out].
        state: shapes of the rule's initial state, without B.

    Raises:
        TypeError: it is no `Update`, or an entry is no tensor.
        ValueError: a wrong shape, a missing or unknown entry of the state, or an unknown matrix to add.
    """
    where = f"of rule {rule} in layer {layer}"
    if not isinstance(update, Update):
        raise TypeError(f"the update {where} must be an Update, got {type(update).__name__}")
    _check_state(where, update, state)
    batch_size, n_in, n_out = shape
    for name in update.add:
        if state.get(name) != (n_in, n_out):
            raise ValueError(f"add {where} must name matrices of shape {[n_in, n_out]} in its state, got {name!r}")
    sizes = {"pre": n_in, "post": n_out, "keep_rows": n_in, "keep_columns": n_out}  # all others are numbers
    for name, entry_shape in state.items():
        ends = (f"state.{name}",) if len(entry_shape) == 1 else (f"state.{name}.pre", f"state.{name}.post")
        sizes |= dict(zip(ends, entry_shape, strict=True))
    for name, value in _entries(update):
        expected = (batch_size, sizes.get(name, 1))
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} {where} must be a tensor, got {type(value).__name__}")
        if value.shape != expected:
            raise ValueError(f"{name} {where} must have shape {list(expected)}, got {list(value.shape)}")


def check_initial_state(rule: str, layer: str, state: Mapping[str, Any]) -> None:
    """Check the types and shapes of a rule's initial state for one layer.

    Raises:
        TypeError: an entry is no tensor.
        ValueError: an entry is neither a vector nor a matrix.
    """
    for name, value in state.items():
        where = f"state {name!r} of rule {rule} in layer {layer}"
        if not isinstance(value, Tensor):
            raise TypeError(f"{where} must be a tensor, got {type(value).__name__}")
        if value.dim() not in (1, 2):
            raise ValueError(f"{where} must have shape [n] or [n, m], got {list(value.shape)}")


def _check_state(where: str, update: Update, state: Mapping[str, tuple[int, ...]]) -> None:
    if update.state.keys() != state.keys():
        raise ValueError(f"the state {where} must have the entries {list(state)}, got {list(update.state)}")
    for name, shape in state.items():
        if isinstance(update.state[name], MatrixUpdate) != (len(shape) == 2):
            expected = "a MatrixUpdate" if len(shape) == 2 else "a tensor"
            raise TypeError(f"state {name!r} {where} must be {expected}, got {type(update.state[name]).__name__}")


def check_finite(rule: str, layer: str, update: Update) -> None:
    """Check that all numbers of an update are finite.

    Raises:
        ValueError: one is not.
    """
    for name, value in _entries(update):
        if not torch.isfinite(value).all():
            raise ValueError(f"{name} of rule {rule} in layer {layer} must be finite, got {value}")


def _entries(update: Update) -> Iterator[tuple[str, Any]]:
    """Yield every tensor of an update, with a name for errors."""
    for name in ("pre", "post", "rate", "keep", "keep_rows", "keep_columns"):
        value = getattr(update, name)
        if value is not None or name in ("pre", "post"):
            yield name, value
    for name, coefficient in update.add.items():
        yield f"add.{name}", coefficient
    for name, value in update.state.items():
        if isinstance(value, MatrixUpdate):
            for part in ("pre", "post", "rate", "keep"):
                yield f"state.{name}.{part}", getattr(value, part)
        else:
            yield f"state.{name}", value
