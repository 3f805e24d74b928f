"""Directories for compiled libraries, and the checks that a library must pass before it is loaded.

Loading a library runs its code. A library must therefore be in a directory that belongs to the user and that no one
else may write to, and its content must match its digest: loading a truncated library would end the process.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def private_directories() -> Iterator[Path]:
    """Yield the directories to try, best first; all exist, are writable, and belong to the user alone.

    These are the user's cache, a directory in the temporary directory (for users without a home, or with a cache that
    is read-only or writable by others), and at last one that is removed when the process ends.
    """
    for directory in candidates():
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_private(directory, stat.S_ISDIR):
                with tempfile.TemporaryFile(dir=directory):
                    pass
                yield directory
        except OSError:
            continue
    temporary = Path(tempfile.mkdtemp(prefix="plastic-rnn-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    yield temporary


def candidates() -> Iterator[Path]:
    """Yield the directories that outlive the process, best first; they need not exist."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    with contextlib.suppress(RuntimeError):  # there may be no home directory
        yield (cache if cache.is_absolute() else Path.home() / ".cache") / "plastic-rnn"
    user = os.geteuid() if hasattr(os, "geteuid") else "user"
    yield Path(tempfile.gettempdir()) / f"plastic-rnn-{user}"


def cached_library(directory: Path, key: str) -> Path | None:
    """Return the library stored under ``key``, or None; remove libraries with damaged content.

    A library's name is its key and a digest of its content.
    """
    with contextlib.suppress(OSError):  # another process may remove a file at any time
        if not _is_private(directory, stat.S_ISDIR):
            return None
        for path in directory.glob(f"{key}-*.so"):
            if not _is_private(path, stat.S_ISREG):
                continue
            if path.stem == f"{key}-{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}":
                return path
            path.unlink()
    return None


def remove_abandoned(directory: Path) -> None:
    """Remove the directories of killed builds, which are older than an hour."""
    for path in directory.glob("build-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.lstat().st_mtime > 3600 and _is_private(path, stat.S_ISDIR):
                shutil.rmtree(path, ignore_errors=True)


def _is_private(path: Path, is_kind: Callable[[int], bool]) -> bool:
    """Return whether the path itself (no link) is of this kind, belongs to the user, and is writable by no one else."""
    info = path.lstat()
    if not is_kind(info.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows: only the user can write to these directories
        return True
    return info.st_uid == os.geteuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
