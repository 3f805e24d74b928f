"""The state of a core as nested dicts of tensors, the form in which other libraries carry it from step to step."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def to_nested(state: Any) -> Any:
    """Return a state as nested dicts: fields of named tuples by name, items of tuples and lists by index.

    Entries that are None are left out. A state that is a tensor is returned as it is.

    Args:
        state: a structure as `plastic_agents.models.core.map_state` takes it.
    """
    if isinstance(state, Tensor):
        return state
    return {name: to_nested(value) for name, value in _entries(state).items() if value is not None}


def from_nested(nested: Any, like: Any) -> Any:
    """Undo `to_nested`.

    Args:
        nested: nested dicts of tensors, or a tensor.
        like: a state of the same structure; its tensors do not matter.

    Raises:
        KeyError: an entry is missing.
    """
    if like is None or isinstance(like, Tensor):
        return None if like is None else nested
    entries = {
        name: None if value is None else from_nested(nested[name], value) for name, value in _entries(like).items()
    }
    if isinstance(like, dict):
        return entries
    return type(like)(*entries.values()) if hasattr(like, "_fields") else type(like)(entries.values())


def _entries(state: Any) -> dict[str, Any]:
    if isinstance(state, dict):
        return state
    if hasattr(state, "_fields"):
        fields: dict[str, Any] = state._asdict()
        return fields
    return {str(index): value for index, value in enumerate(state)}
