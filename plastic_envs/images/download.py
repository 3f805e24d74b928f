"""Downloads that verify checksums, resume, and create complete files atomically."""

from __future__ import annotations

import hashlib
import http.client
import os
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_CHUNK = 2**18
# Timeouts in seconds: for each read from the server, and for a complete file.
_READ_TIMEOUT = 30.0
_FILE_TIMEOUT = 3600.0
# Number of bytes between updates of the progress.
_PROGRESS_EVERY = 2**22


@dataclass(frozen=True)
class Remote:
    """A file on the internet.

    Attributes:
        name: the name of the local file.
        md5: the hexadecimal checksum, as published by the authors or by libraries that use the file.
        urls: mirrors, in the order in which they are tried.
        max_size: an upper bound of the size in bytes.
    """

    name: str
    md5: str
    urls: Sequence[str]
    max_size: int


def download(remote: Remote, folder: str | os.PathLike[str]) -> Path:
    """Download a file into a folder, unless the folder already has it.

    An incomplete download is kept as `<name>.part`, and the next call resumes it if the server supports ranges. The
    file gets its name only after its checksum was verified. Several processes can download it at the same time.

    Args:
        remote: the file.
        folder: the folder, which is created if necessary.

    Returns:
        The path of the file.

    Raises:
        ConnectionError: no mirror sent the correct file. The error describes the failure of each mirror.
        ValueError: the folder has a file of this name with another checksum.
    """
    target = Path(folder) / remote.name
    if target.exists():
        _check(target, remote.md5)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    incomplete = target.with_name(f"{target.name}.part")
    # Each process writes to a separate file; one of them resumes the incomplete file of an earlier attempt.
    part = target.with_name(f"{incomplete.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        os.replace(incomplete, part)
    failures = []
    try:
        for url in remote.urls:
            try:
                _fetch(url, part, remote)
            # Servers that close the connection or break the protocol cause an HTTPException.
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{url}: {error}")
                continue
            md5 = _md5(part)
            if md5 == remote.md5:
                os.replace(part, target)
                return target
            part.unlink()
            failures.append(f"{url}: checksum (md5) must be {remote.md5}, got {md5}")
    finally:
        # The next attempt resumes this file.
        with suppress(FileNotFoundError):
            os.replace(part, incomplete)
    raise ConnectionError(f"{remote.name} could not be downloaded to {target}:\n  " + "\n  ".join(failures))


def _check(target: Path, expected_md5: str) -> None:
    status = target.stat()
    md5 = _cached_md5(target, status.st_size, status.st_mtime_ns)
    if md5 != expected_md5:
        raise ValueError(
            f"checksum (md5) of {target} must be {expected_md5}, got {md5}: delete the file to download it again, "
            "or leave out download to read it as it is"
        )


def _fetch(url: str, part: Path, remote: Remote) -> None:
    """Download the missing bytes of `part`."""
    n_bytes = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={n_bytes}-"} if n_bytes else {})
    deadline = time.monotonic() + _FILE_TIMEOUT
    try:
        response = urllib.request.urlopen(request, timeout=_READ_TIMEOUT)
    except urllib.error.HTTPError as error:
        # HTTP 416: the partial file is complete or wrong; the checksum decides.
        if n_bytes and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        raise
    with response:
        is_partial = response.status == http.HTTPStatus.PARTIAL_CONTENT
        n_bytes = n_bytes if is_partial else 0
        total = _total(response.headers.get("Content-Length"), n_bytes)
        with part.open("ab" if is_partial else "wb") as file:
            reported = n_bytes
            # `read1` returns as soon as any bytes arrive, so that the timeout applies to slow servers too.
            while chunk := response.read1(_CHUNK):
                file.write(chunk)
                n_bytes += len(chunk)
                if n_bytes > remote.max_size:
                    break
                if time.monotonic() > deadline:
                    raise ConnectionError(f"timed out after {_FILE_TIMEOUT:.0f} seconds and {n_bytes} bytes")
                if n_bytes - reported >= _PROGRESS_EVERY or n_bytes == total:
                    reported = n_bytes
                    _show_progress(remote.name, n_bytes, total)
    if n_bytes > remote.max_size:
        part.unlink()
        raise ConnectionError(f"{remote.name} must have at most {remote.max_size} bytes, and the server sent more")
    if total is not None and n_bytes < total:
        raise ConnectionError(f"the connection closed after {n_bytes} of {total} bytes")


def _total(length: str | None, n_bytes: int) -> int | None:
    if length is None:
        return None
    if not length.strip().isdecimal():
        raise ConnectionError(f"Content-Length must be a whole number, got {length!r}")
    return n_bytes + int(length)


def _show_progress(name: str, n_bytes: int, total: int | None) -> None:
    if sys.stderr.isatty():
        of_total = "" if total is None else f" of {total / 1e6:.0f}"
        end = "\n" if n_bytes == total else ""
        print(f"\r{name}: {n_bytes / 1e6:.0f}{of_total} MB", end=end, file=sys.stderr, flush=True)


@lru_cache(maxsize=16)
def _cached_md5(path: Path, size: int, modified: int) -> str:
    """Return the checksum of a file, computed once for each size and modification time."""
    return _md5(path)


def _md5(path: Path) -> str:
    # MD5 protects against accidents only; publishers give no other checksums.
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
