"""Checkpoints: files that are written atomically, have a checksum, and run no code when they are read.

`plastic_agents.training.learner` writes those of runs, and `plastic_agents.actor_critic.save_load` those of
`RecurrentPPO.save` and `RecurrentA2C.save`.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from plastic_agents.atomic_files import replacing

FORMAT = 2  # version of the files; raise it with a change that makes older files unreadable
# The checksum follows torch's archive; readers of archives ignore it.
_CHECKSUM = b"\nplastic-rnn sha256 "
_CHECKSUM_SIZE = len(_CHECKSUM) + 64


def save_checkpoint(path: str | os.PathLike[str], kind: str, content: dict[str, Any]) -> Path:
    """Write ``content`` (tensors, numbers, strings, lists, dicts) to ``path``, atomically.

    Args:
        path: the file to write; its folder is created if necessary.
        kind: name of the content's kind, such as ``"supervised"``; `load_checkpoint` checks it.
        content: the content.
    """
    data = checkpoint_bytes(kind, content)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def checkpoint_bytes(kind: str, content: dict[str, Any]) -> bytes:
    """Return the content of a file as `save_checkpoint` writes it."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "kind": kind, "content": content}, buffer)
    return with_checksum(buffer.getvalue())


def with_checksum(archive: bytes) -> bytes:
    """Append the checksum that `load_checkpoint` checks to torch's archive."""
    return archive + _CHECKSUM + hashlib.sha256(archive).hexdigest().encode()


def checkpoint_kind(path: str | os.PathLike[str]) -> str:
    """Return the ``kind`` that `save_checkpoint` was given.

    Raises:
        FileNotFoundError, ValueError: as `load_checkpoint` does.
    """
    kind: str = _read(Path(path))["kind"]
    return kind


def load_checkpoint(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read the ``content`` that `save_checkpoint` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, is no checkpoint, or is one of another format or of another kind.
    """
    return _content(_read(Path(path)), path, kind)


def checkpoint_content(data: bytes, name: str, kind: str) -> dict[str, Any]:
    """Return the ``content`` in bytes as `checkpoint_bytes` returns them; errors call them ``name``.

    Raises:
        ValueError: as `load_checkpoint` does.
    """
    return _content(_parse(data, name), name, kind)


def _content(file: dict[str, Any], name: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    if file["kind"] != kind:
        raise ValueError(f"{name} is a checkpoint of kind {file['kind']!r}, expected {kind!r}")
    content: dict[str, Any] = file["content"]
    return content


def file_identity(path: Path) -> tuple[int, ...] | None:
    """Return numbers that change when the file is replaced or written to; None without a file."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def checking_content(path: str | os.PathLike[str], problem: str = "does not fit this installation") -> Iterator[None]:
    """Turn errors that unexpected content of a checkpoint causes into a ValueError that names the file."""
    try:
        yield
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, AttributeError | LookupError) else str(error)
        raise ValueError(f"{path} {problem}: {reason}") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    return _parse(path.read_bytes(), path)


def _parse(data: bytes, name: str | os.PathLike[str]) -> dict[str, Any]:
    archive, checksum = data[:-_CHECKSUM_SIZE], data[-_CHECKSUM_SIZE:]
    problem = f"{name} cannot be read as a checkpoint: "
    if not checksum.startswith(_CHECKSUM):
        raise ValueError(f"{problem}it does not end with a checksum: it is cut short, damaged, or of another library")
    if with_checksum(archive) != data:
        raise ValueError(problem + "its checksum does not match, so it is damaged")
    try:
        file = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types
        raise ValueError(problem + f"it holds more than tensors and plain data ({type(error).__name__})") from error
    file_format = file.get("format") if isinstance(file, dict) else None
    if file_format != FORMAT or file.keys() != {"format", "kind", "content"} or not isinstance(file["content"], dict):
        raise ValueError(f"{name} is a checkpoint of format {file_format}, this version reads format {FORMAT}")
    checked: dict[str, Any] = file
    return checked
