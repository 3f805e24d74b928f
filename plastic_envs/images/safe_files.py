"""Reading of untrusted files, alone or in zip archives, within a bounded size; and detection of changed files."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

Identity = tuple[tuple[str, int, int], ...]


def is_hidden(name: str) -> bool:
    """Return whether files or folders of this name are hidden, as those of editors are, or metadata of macOS."""
    return name.startswith(".") or name == "__MACOSX"


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a regular file: reading a pipe might never end.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is refused: it is not a regular file")
    return path.open("rb")


def read_file(path: Path, at_most: int) -> bytes:
    """Read a file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a regular file, or has more bytes than `at_most`.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > at_most:
            raise ValueError(f"{path} is refused: it has {size} bytes, and must have at most {at_most}")
        return file.read(size)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive for reading its members into memory.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not a regular file, or not a zip archive.
    """
    open_regular(path).close()
    try:
        return zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path} is damaged or no zip archive: {error}") from None


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, at_most: int) -> bytes:
    """Read a member of a zip archive.

    Raises:
        ValueError: it is damaged, encrypted, neither stored nor deflated, or has more bytes than `at_most`, whatever
            the archive says about it.
    """
    where = f"{archive.filename} is refused: its member {member.filename!r}"
    # zipfile does not bound the output of the other methods.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{where} must be stored or deflated, got compression {member.compress_type}")
    if member.file_size > at_most:
        raise ValueError(f"{where} has {member.file_size} bytes, and must have at most {at_most}")
    try:
        with archive.open(member) as file:
            # A number bounds what is unpacked. The additional byte makes zipfile reach the end and check the checksum.
            return file.read(member.file_size + 1)
    except _ZIP_ERRORS as error:
        raise ValueError(f"{archive.filename} is damaged or refused: {error}") from None


# zipfile raises RuntimeError for encrypted members, and lets zlib.error pass for damaged ones.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


def identity(paths: Iterable[Path]) -> Identity:
    """Return names, sizes and modification times of these files and of the files in these folders."""
    return tuple(
        (str(file), status.st_size, status.st_mtime_ns) for path in paths for file, status in _files_below(path)
    )


def _files_below(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in sorted(names):
                place = os.path.join(folder, name)
                # A link may lead nowhere.
                yield place, os.stat(place, follow_symlinks=os.path.exists(place))
    elif path.exists():
        yield str(path), path.stat()
