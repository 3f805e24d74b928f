"""Checkpoints: files that appear whole or not at all, and cannot run code when they are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from agents.files import replacing

_MARK = "plastic-envs checkpoint"


def save_checkpoint(path: str | os.PathLike[str], kind: str, content: dict[str, Any]) -> Path:
    """Write ``content`` (tensors, numbers, strings, lists, dicts) to ``path``, under a temporary name first.

    Args:
        path: the file to write; its folder is made if need be.
        kind: what wrote it, such as ``"supervised"``; `load_checkpoint` wants the same.
        content: what to keep.
    """
    with replacing(path) as temporary:
        torch.save({"mark": _MARK, "kind": kind, **content}, temporary)
    return Path(path)


def checkpoint_kind(path: str | os.PathLike[str]) -> str:
    """The ``kind`` that `save_checkpoint` was given.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint` does.
    """
    kind: str = _read(Path(path))["kind"]
    return kind


def load_checkpoint(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short, is no checkpoint, or was written by something else than ``kind``.
    """
    content = _read(Path(path))
    if content["kind"] != kind:
        raise ValueError(f"{path} is a checkpoint of kind {content['kind']!r}, wanted {kind!r}")
    return content


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged or foreign file
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is cut short, damaged, or something else"
        ) from error
    if not isinstance(content, dict) or content.get("mark") != _MARK:
        raise ValueError(f"{path} is a torch file, but no checkpoint of this project")
    return content
