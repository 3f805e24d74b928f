"""Sources of labelled images, and `open_source`, which opens one by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from plastic_envs.images import cifar_fs, mini_imagenet, omniglot
from plastic_envs.images.cifar_fs import fetch_cifar_fs, read_cifar_fs
from plastic_envs.images.folder import FOLDERS, read_folder
from plastic_envs.images.glyphs import Glyphs
from plastic_envs.images.mini_imagenet import read_mini_imagenet
from plastic_envs.images.omniglot import fetch_omniglot, read_omniglot
from plastic_envs.images.safe_files import FileStamps, file_stamps
from plastic_envs.images.source import SPLITS, ArraySource, ImageSource
from plastic_envs.validation import flag, whole_number

__all__ = ["SOURCES", "SPLITS", "ArraySource", "Glyphs", "ImageSource", "open_source"]


@dataclass(frozen=True)
class _Collection:
    """A collection of images that is stored in files.

    Attributes:
        read: returns a source, given a path and an image size.
        files: names of the files and folders that `read` uses if the path is a folder.
        fetch: downloads missing files into a folder, or None.
        no_fetch_reason: the reason for having no `fetch`, for the error.
    """

    read: Callable[[Path, int], ImageSource]
    files: Sequence[str]
    fetch: Callable[[Path], None] | None = None
    no_fetch_reason: str = ""


# `Glyphs` is not listed because it needs no files.
_COLLECTIONS: Mapping[str, _Collection] = {
    "omniglot": _Collection(read_omniglot, omniglot.FILES, fetch_omniglot),
    "omniglot-rotated": _Collection(partial(read_omniglot, rotations=True), omniglot.FILES, fetch_omniglot),
    "cifar-fs": _Collection(read_cifar_fs, cifar_fs.FILES, fetch_cifar_fs),
    "mini-imagenet": _Collection(
        read_mini_imagenet, (*mini_imagenet.PICKLES.values(), *FOLDERS), no_fetch_reason=mini_imagenet.DOWNLOAD_ADVICE
    ),
    "folder": _Collection(read_folder, FOLDERS, no_fetch_reason="these are your own images"),
}
SOURCES = (Glyphs.name, *_COLLECTIONS)
_MAX_IMAGE_SIZE = 2048


def open_source(
    name: str, path: str | os.PathLike[str] = "", image_size: int = 28, download: bool = False
) -> ImageSource:
    """Return the image source with this name.

    The function reads files once, and again only after they have changed.

    Args:
        name: one of `SOURCES`.
        path: the folder of the source's files; for the source `folder` also a `.npz` file. By default it is a folder
            with the name of the source in `$PLASTIC_ENVS_DATA`, or in `~/.cache/plastic_envs` if that variable is not
            set. `~` is expanded.
        image_size: height and width to which images are resized, 8 to 2048, and for glyphs 8 to 256.
        download: whether to download missing files.

    Raises:
        ValueError: the name is unknown, `path` is not a valid path or does not fit the source, the source has no
            download, or a file is damaged, refused or has another format.
        TypeError: an argument has the wrong type.
        FileNotFoundError: files are missing. The error names them and their origin.
        ConnectionError: a download failed.
    """
    if not isinstance(name, str):
        raise TypeError(f"source must be one of {', '.join(SOURCES)}, or an ImageSource, got {name!r}")
    if name not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, or an ImageSource, got {name!r}")
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or a path, got {path!r}")
    size = whole_number("image_size", image_size, at_least=8, at_most=_MAX_IMAGE_SIZE)
    download = flag("download", download)
    if name == Glyphs.name:
        if path or download:
            raise ValueError(f"path and download must be left out for glyphs, got {path!r} and {download}")
        return _glyphs(size)
    if name == "folder" and not path:
        raise ValueError("path must be the folder or .npz file of the images for source 'folder', got ''")
    collection = _COLLECTIONS[name]
    location = _location(name, path)
    if download:
        if collection.fetch is None:
            raise ValueError(f"download must be False for {name}, got True: {collection.no_fetch_reason}")
        collection.fetch(location)
    files = [location / file for file in collection.files] if location.is_dir() else [location]
    return _read(name, location, size, file_stamps(files))


@lru_cache(maxsize=4)
def _glyphs(image_size: int) -> ImageSource:
    return Glyphs(image_size)


@lru_cache(maxsize=4)
def _read(name: str, path: Path, image_size: int, stamps: FileStamps) -> ImageSource:
    """Read a source; `stamps` is a part of the cache key, so changed files are read again."""
    return _COLLECTIONS[name].read(path, image_size)


def _location(name: str, path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a source's files, and check that the source can read or make it."""
    kind = "a folder or a .npz file" if name == "folder" else "a folder"
    try:
        location = (Path(path) if path else _data_folder() / name.removesuffix("-rotated")).expanduser().resolve()
        exists = location.exists()
    # A home directory is unknown, the path has a null byte, or the system refuses it.
    except (RuntimeError, ValueError, OSError) as error:
        subject = "path must be" if path else "path or the environment variable PLASTIC_ENVS_DATA must give"
        given = os.fspath(path) or os.environ.get("PLASTIC_ENVS_DATA", "")
        raise ValueError(f"{subject} {kind}, got {given!r}: {error}") from error
    if name == "folder" and not exists:
        raise FileNotFoundError(f"path must be {kind} that exists, got {os.fspath(path)!r}")
    if exists and not location.is_dir() and not (name == "folder" and location.suffix == ".npz"):
        raise ValueError(f"path must be {kind}, got the file {os.fspath(path) or str(location)!r}")
    return location


def _data_folder() -> Path:
    folder = os.environ.get("PLASTIC_ENVS_DATA")
    return Path(folder) if folder else Path.home() / ".cache" / "plastic_envs"
