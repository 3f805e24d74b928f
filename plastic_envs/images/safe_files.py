"""Reading of untrusted files and zip archives with bounded sizes, and detection of changed files."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

# Readers look for files at most at this many levels below a folder.
_MAX_DEPTH = 3
# Name, size and modification time of each file.
FileStamps = tuple[tuple[str, int, int], ...]


def is_hidden(name: str) -> bool:
    """Return whether a file or folder with this name is hidden or holds metadata of macOS."""
    return name.startswith(".") or name == "__MACOSX"


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading bytes.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a regular file. Reading a pipe could block forever.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path} is refused: it is not a regular file")
    return path.open("rb")


def read_file(path: Path, max_size: int) -> bytes:
    """Read a file of at most `max_size` bytes.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a regular file or is too large.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_size:
            raise ValueError(f"{path} is refused: it must have at most {max_size} bytes, got {size}")
        return file.read(size)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive for reading its members into memory.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a regular file or not a zip archive.
    """
    open_regular(path).close()
    try:
        return zipfile.ZipFile(path)
    except _ZIP_ERRORS as error:
        raise ValueError(f"{path} is damaged or not a zip archive: {error}") from None


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_size: int) -> bytes:
    """Read a member of at most `max_size` bytes of a zip archive.

    Raises:
        ValueError: the member is damaged, encrypted or neither stored nor deflated, or its actual size is too large or
            differs from the size in the archive's directory.
    """
    refusal = f"{archive.filename} is refused: its member {member.filename!r}"
    # zipfile does not bound the output of other compression methods.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{refusal} must be stored or deflated, got compression {member.compress_type}")
    if member.file_size > max_size:
        raise ValueError(f"{refusal} must have at most {max_size} bytes, got {member.file_size}")
    try:
        with archive.open(member) as file:
            # The argument bounds the unpacked size. The extra byte makes zipfile reach the end and verify the checksum.
            return file.read(member.file_size + 1)
    except _ZIP_ERRORS as error:
        raise ValueError(f"{archive.filename} is damaged or refused: {error}") from None


# zipfile raises RuntimeError for encrypted members, and does not catch zlib.error of damaged ones.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)


def file_stamps(paths: Iterable[Path]) -> FileStamps:
    """Return the names, sizes and modification times of these files and of all files in these folders.

    Symbolic links to folders are followed, as readers do. Files more than three levels below the folders do not count.
    """
    return tuple(
        (str(file), status.st_size, status.st_mtime_ns) for path in paths for file, status in _files_below(path)
    )


def _files_below(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    if path.is_dir():
        for folder, subfolders, names in os.walk(path, followlinks=True):
            # The limit ends loops of links, too.
            if len(Path(folder).relative_to(path).parts) == _MAX_DEPTH - 1:
                subfolders.clear()
            for name in sorted(names):
                file = os.path.join(folder, name)
                # A broken symbolic link has only its own status.
                yield file, os.stat(file, follow_symlinks=os.path.exists(file))
    elif path.exists():
        yield str(path), path.stat()
