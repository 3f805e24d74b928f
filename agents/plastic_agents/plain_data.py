"""Settings of a model as plain data: numbers, strings, tensors, and lists and dicts of such, which can run no code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from plastic_agents.actor_critic.schedules import CosineSchedule, LinearSchedule
from plastic_agents.models.config import NetworkConfig

_KIND = "__kind__"
_SCHEDULES = {kind.__name__: kind for kind in (CosineSchedule, LinearSchedule)}


def to_plain(value: Any) -> Any:
    """``value`` as plain data; what cannot be, such as a function, as a note that it was there."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.number | np.bool_):
        return value.item()
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, NetworkConfig | CosineSchedule | LinearSchedule):
        return {_KIND: type(value).__name__, **asdict(value)}
    if isinstance(value, spaces.Space):  # a Dict space is a mapping too
        return _space_to_plain(value)
    if isinstance(value, Mapping):
        return {name: to_plain(item) for name, item in value.items()}
    return {_KIND: "left out", "was": repr(value)}


def from_plain(value: Any, name: str) -> Any:
    """The reverse of `to_plain`.

    Raises:
        ValueError: a part was left out; ``name`` says of what it is a part.
    """
    if isinstance(value, list):
        return [from_plain(item, name) for item in value]
    if not isinstance(value, dict):
        return value
    if _KIND not in value:
        return {key: from_plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    kind, content = value[_KIND], {key: item for key, item in value.items() if key != _KIND}
    if kind == "left out":
        raise ValueError(
            f"the model was made with {name} = {content['was']}, which is not kept in files: give it to load, as "
            f"{name.partition('[')[0]}="
        )
    if kind == "NetworkConfig":
        return NetworkConfig.from_plain(content)
    if kind in _SCHEDULES:
        return _SCHEDULES[kind](**content)
    return _space_from_plain(kind, content)


def _space_to_plain(space: spaces.Space[Any]) -> dict[str, Any]:
    if isinstance(space, spaces.Box):
        bounds = {"low": torch.as_tensor(space.low), "high": torch.as_tensor(space.high)}
        return {_KIND: "Box", **bounds, "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return {_KIND: "Discrete", "n": int(space.n), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiDiscrete):
        return {_KIND: "MultiDiscrete", "nvec": torch.as_tensor(space.nvec), "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return {_KIND: "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {_KIND: "Dict", "spaces": [[name, _space_to_plain(part)] for name, part in space.spaces.items()]}
    raise TypeError(f"spaces of kind {type(space).__name__} cannot be saved, got {space}")


def _space_from_plain(kind: str, content: dict[str, Any]) -> spaces.Space[Any]:
    dtype: Any = np.dtype(content["dtype"]).type if "dtype" in content else None
    if kind == "Box":
        return spaces.Box(content["low"].numpy(), content["high"].numpy(), dtype=dtype)
    if kind == "Discrete":
        return spaces.Discrete(content["n"], dtype=dtype)
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(content["nvec"].numpy(), dtype=dtype)
    if kind == "MultiBinary":
        return spaces.MultiBinary(content["n"])
    if kind == "Dict":
        return spaces.Dict({name: from_plain(part, name) for name, part in content["spaces"]})
    raise ValueError(f"unknown kind {kind!r}: written by another version of this project")
