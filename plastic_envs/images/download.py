"""Downloads that are checked, resumed, and appear whole or not at all."""

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
# Seconds: the longest silence of a server, and the longest time for a whole file.
_SILENCE = 30.0
_WHOLE = 3600.0
_PROGRESS_EVERY = 2**22


@dataclass(frozen=True)
class Remote:
    """A file to be had from elsewhere.

    Attributes:
        name: its name here.
        md5: its checksum in hexadecimal digits, as its publishers or the libraries that use it state it.
        urls: where it lies; each is tried in turn.
        at_most: an upper bound for its size in bytes.
    """

    name: str
    md5: str
    urls: Sequence[str]
    at_most: int


def download(remote: Remote, folder: str | os.PathLike[str]) -> Path:
    """Bring a file into a folder, unless it is there.

    What has arrived is kept in `<name>.part`, from which the next attempt goes on where a server allows it. The file
    gets its name only if its checksum is right. Several processes may do this at the same time.

    Args:
        remote: the file.
        folder: where to; it is made if need be.

    Returns:
        The file's path.

    Raises:
        ConnectionError: no mirror gave the right file; what was wrong with each is said.
        ValueError: there is a file of this name with another checksum.
    """
    target = Path(folder) / remote.name
    if target.exists():
        _check(target, remote.md5)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    kept = target.with_name(f"{target.name}.part")
    # Each process writes to a file of its own; one of them continues the file that an earlier attempt left.
    part = target.with_name(f"{kept.name}.{os.getpid()}-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        os.replace(kept, part)
    failures = []
    try:
        for url in remote.urls:
            try:
                _fetch(url, part, remote)
            # HTTPException is what a server that breaks off, or that talks nonsense, leads to.
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{url}: {error}")
                continue
            found = _md5(part)
            if found == remote.md5:
                os.replace(part, target)
                return target
            part.unlink()
            failures.append(f"{url}: checksum (md5) should be {remote.md5}, is {found}")
    finally:
        # The next attempt continues from here.
        with suppress(FileNotFoundError):
            os.replace(part, kept)
    raise ConnectionError(f"{remote.name} could not be downloaded to {target}:\n  " + "\n  ".join(failures))


def _check(target: Path, md5: str) -> None:
    status = target.stat()
    found = _known_md5(target, status.st_size, status.st_mtime_ns)
    if found != md5:
        raise ValueError(
            f"{target} is there, but its checksum (md5) should be {md5}, is {found}: delete it to download it "
            "again, or leave out download to read it as it is"
        )


def _fetch(url: str, part: Path, remote: Remote) -> None:
    """Get what is missing of `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    deadline = time.monotonic() + _WHOLE
    try:
        response = urllib.request.urlopen(request, timeout=_SILENCE)
    except urllib.error.HTTPError as error:
        # Nothing lies beyond what is here: then all is here, or the wrong thing is, as the checksum will tell.
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        raise
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if goes_on else 0
        total = _total(response.headers.get("Content-Length"), have)
        with part.open("ab" if goes_on else "wb") as file:
            shown = have
            # `read1` returns as soon as there is anything, so that the time limit holds for slow servers too.
            while chunk := response.read1(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if have > remote.at_most:
                    break
                if time.monotonic() > deadline:
                    raise ConnectionError(f"stopped after {have} bytes, as it took more than {_WHOLE:.0f} seconds")
                if have - shown >= _PROGRESS_EVERY or have == total:
                    shown = have
                    _show_progress(remote.name, have, total)
    if have > remote.at_most:
        part.unlink()
        raise ConnectionError(f"the server sent more than {remote.at_most} bytes, the upper bound for {remote.name}")
    if total is not None and have < total:
        raise ConnectionError(f"broke off after {have} of {total} bytes")


def _total(length: str | None, have: int) -> int | None:
    if length is None:
        return None
    if not length.strip().isdecimal():
        raise ConnectionError(f"Content-Length must be a whole number, got {length!r}")
    return have + int(length)


def _show_progress(name: str, have: int, total: int | None) -> None:
    if sys.stderr.isatty():
        share = "" if total is None else f" of {total / 1e6:.0f}"
        end = "\n" if have == total else ""
        print(f"\r{name}: {have / 1e6:.0f}{share} MB", end=end, file=sys.stderr, flush=True)


@lru_cache(maxsize=16)
def _known_md5(path: Path, size: int, changed: int) -> str:
    """The checksum of a file, computed once while its size and time of change stay the same."""
    return _md5(path)


def _md5(path: Path) -> str:
    # Against accidents; the sums that are published are these.
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
