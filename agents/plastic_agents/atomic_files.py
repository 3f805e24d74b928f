"""Atomic replacement of files, and locks of folders."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

# os.umask reads the mask only by setting it, which is not thread-safe: read it once, on import.
_UMASK = os.umask(0o077)
os.umask(_UMASK)
_LOCK = ".lock"  # name of the lock file in a folder


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` to write to, which replaces ``path`` when the context ends.

    The folder is created if necessary. On an error the temporary file is removed, and the file at ``path`` is not
    changed. The temporary name has the suffix of ``path``, from which some writers choose a format.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-", suffix=f"-{path.name}")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp gives access to the owner only; set the permissions that open() would have set.
        temporary.chmod(0o666 & ~_UMASK)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # Python names no file if the disk is full
        raise


def write_json(path: str | os.PathLike[str], content: object) -> None:
    """Write plain data as JSON, atomically.

    Raises:
        ValueError: a number is not finite; JSON has no NaN or infinity.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def remove_temporaries(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files of processes that were killed while they were replacing ``path``.

    No other process may be replacing ``path`` at the same time.
    """
    path = Path(path)
    name = re.compile(rf"\.tmp-\w+-{re.escape(path.name)}")
    for file in path.parent.iterdir():
        if name.fullmatch(file.name):
            file.unlink(missing_ok=True)


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[bool]:
    """Lock ``folder`` for this process; the operating system releases the lock if the process is killed.

    The folder is created if necessary.

    Yields:
        Whether the folder is locked; on a file system without locks it is not, and there is a warning.

    Raises:
        BlockingIOError: another run has locked the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK
    file = _open_locked(path)
    if file is None:
        yield False
        return
    with file:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield True
        finally:
            if sys.platform != "win32":  # Windows does not remove open files
                path.unlink(missing_ok=True)


def _open_locked(path: Path) -> TextIO | None:
    """Open and lock the file at ``path``, which another process may remove at any time; None without locks."""
    while True:
        file = path.open("a+")
        try:
            _lock(file)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise BlockingIOError(
                f"{path.parent} is in use by another run ({holder}): wait until it ends, or choose another folder"
            ) from None
        except OSError as error:
            file.close()
            warnings.warn(
                f"{path.parent} cannot be locked ({error}): two simultaneous runs in it would overwrite each other",
                stacklevel=2,
            )
            return None
        file.close()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: TextIO) -> None:
        file.seek(1 << 20)  # far behind the text, since other processes cannot read a locked range
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from None

else:
    import fcntl

    def _lock(file: TextIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
