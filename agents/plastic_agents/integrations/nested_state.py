"""A network's state as nested dicts of tensors, which is what other libraries carry from step to step."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def to_nested(state: Any) -> Any:
    """Return a state as nested dicts: fields of named tuples by name, items of tuples and lists by index.

    What is None is left out; a tensor stays one.

    Args:
        state: a structure as `plastic_agents.models.core.map_state` takes it.
    """
    if isinstance(state, Tensor):
        return state
    return {name: to_nested(part) for name, part in _parts(state).items() if part is not None}


def from_nested(nested: Any, like: Any) -> Any:
    """Undo `to_nested`.

    Args:
        nested: nested dicts of tensors, or a tensor.
        like: a state of the same structure; its tensors are not looked at.

    Raises:
        KeyError: a part is missing.
    """
    if like is None or isinstance(like, Tensor):
        return None if like is None else nested
    parts = {name: None if part is None else from_nested(nested[name], part) for name, part in _parts(like).items()}
    if isinstance(like, dict):
        return parts
    return type(like)(*parts.values()) if hasattr(like, "_fields") else type(like)(parts.values())


def _parts(state: Any) -> dict[str, Any]:
    if isinstance(state, dict):
        return state
    if hasattr(state, "_fields"):
        fields: dict[str, Any] = state._asdict()
        return fields
    return {str(place): part for place, part in enumerate(state)}
