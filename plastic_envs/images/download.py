"""Downloads that are checked, resumed, and appear whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 2**18
_TIMEOUT = 30.0
_PROGRESS_EVERY = 2**22


@dataclass(frozen=True)
class Remote:
    """A file to be had from elsewhere.

    Attributes:
        name: its name here.
        md5: its checksum in hexadecimal digits, as its publishers or the libraries that use it state it.
        urls: where it lies; each is tried in turn.
    """

    name: str
    md5: str
    urls: Sequence[str]


def download(remote: Remote, folder: str | os.PathLike[str]) -> Path:
    """Bring a file into a folder, unless it is there.

    What has arrived is kept in `<name>.part`, from which the next attempt goes on where a server allows it. The file
    gets its name only if its checksum is right.

    Args:
        remote: the file.
        folder: where to; it is made if need be.

    Returns:
        The file's path.

    Raises:
        ConnectionError: no mirror gave the right file; what was wrong with each is said.
    """
    target = Path(folder) / remote.name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    failures = []
    for url in remote.urls:
        try:
            _fetch(url, part)
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
    raise ConnectionError(f"{remote.name} could not be downloaded to {target}:\n  " + "\n  ".join(failures))


def _fetch(url: str, part: Path) -> None:
    """Get what is missing of `part`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        # Nothing lies beyond what is here: then all is here, or the wrong thing is, as the checksum will tell.
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        raise
    with response:
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        have = have if goes_on else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        with part.open("ab" if goes_on else "wb") as file:
            shown = have
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                if have - shown >= _PROGRESS_EVERY or have == total:
                    shown = have
                    _show_progress(part, have, total)
    if total is not None and have < total:
        raise ConnectionError(f"broke off after {have} of {total} bytes")


def _show_progress(part: Path, have: int, total: int | None) -> None:
    if sys.stderr.isatty():
        share = "" if total is None else f" of {total / 1e6:.0f}"
        end = "\n" if have == total else ""
        print(f"\r{part.stem}: {have / 1e6:.0f}{share} MB", end=end, file=sys.stderr, flush=True)


def _md5(path: Path) -> str:
    # Against accidents; the sums that are published are these.
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
