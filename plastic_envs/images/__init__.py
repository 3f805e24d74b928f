"""Sources of labelled images behind one interface, and how names become sources."""

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
from plastic_envs.images.safe_files import Identity, identity
from plastic_envs.images.source import SPLITS, ArraySource, ImageSource
from plastic_envs.validation import flag, whole_number

__all__ = ["SOURCES", "SPLITS", "ArraySource", "Glyphs", "ImageSource", "open_source"]


@dataclass(frozen=True)
class _Collection:
    """Images in files.

    Attributes:
        read: makes a source of a place and an image size.
        files: names of the files and folders that are read, where the place is a folder.
        fetch: downloads missing files to a place.
        no_fetch: the reason why a collection has no `fetch`.
    """

    read: Callable[[Path, int], ImageSource]
    files: Sequence[str]
    fetch: Callable[[Path], None] | None = None
    no_fetch: str = ""


# Glyphs are drawn, and need no files.
_COLLECTIONS: Mapping[str, _Collection] = {
    "omniglot": _Collection(read_omniglot, omniglot.FILES, fetch_omniglot),
    "omniglot-rotated": _Collection(partial(read_omniglot, rotations=True), omniglot.FILES, fetch_omniglot),
    "cifar-fs": _Collection(read_cifar_fs, cifar_fs.FILES, fetch_cifar_fs),
    "mini-imagenet": _Collection(
        read_mini_imagenet, (*mini_imagenet.PICKLES.values(), *FOLDERS), no_fetch=mini_imagenet.WHERE
    ),
    "folder": _Collection(read_folder, FOLDERS, no_fetch="these are images of your own"),
}
SOURCES = (Glyphs.name, *_COLLECTIONS)
_LARGEST_SIZE = 2048


def open_source(
    name: str, path: str | os.PathLike[str] = "", image_size: int = 28, download: bool = False
) -> ImageSource:
    """Open a source. Its files are read once, and again only after they have changed.

    Args:
        name: one of `SOURCES`.
        path: where its files lie; by default in a folder of its name in `$PLASTIC_ENVS_DATA`, or else in
            `~/.cache/plastic_envs`. `~` stands for the home folder.
        image_size: rows and columns to which images are resized.
        download: whether files that are missing are fetched to that place.

    Raises:
        ValueError: an unknown name, a path for glyphs or none for a folder, a download of what is not to be had, or
            files that are damaged, refused or of another form.
        TypeError: an argument is of another type.
        FileNotFoundError: files are missing; it says which, and where to get them.
        ConnectionError: a download failed.
    """
    if not isinstance(name, str):
        raise TypeError(f"source must be one of {', '.join(SOURCES)}, or an ImageSource, got {name!r}")
    if name not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, or an ImageSource, got {name!r}")
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or a path, got {path!r}")
    size = whole_number("image_size", image_size, at_least=8, at_most=_LARGEST_SIZE)
    download = flag("download", download)
    if name == Glyphs.name:
        if path or download:
            raise ValueError(f"path and download must be left out for glyphs, got {path!r} and {download}")
        return _glyphs(size)
    if name == "folder" and not path:
        raise ValueError("path must say where the images are for source 'folder', got ''")
    collection = _COLLECTIONS[name]
    place = (Path(path) if path else _data_folder() / name.removesuffix("-rotated")).expanduser().resolve()
    if download:
        if collection.fetch is None:
            raise ValueError(f"download must be False for {name}, got True: {collection.no_fetch}")
        collection.fetch(place)
    return _read(
        name, place, size, identity([place / file for file in collection.files] if place.is_dir() else [place])
    )


@lru_cache(maxsize=4)
def _glyphs(image_size: int) -> ImageSource:
    return Glyphs(image_size)


@lru_cache(maxsize=4)
def _read(name: str, place: Path, image_size: int, files: Identity) -> ImageSource:
    """Read a source; `files` is there for the cache, to which changed files are another argument."""
    return _COLLECTIONS[name].read(place, image_size)


def _data_folder() -> Path:
    return Path(os.environ.get("PLASTIC_ENVS_DATA") or Path.home() / ".cache" / "plastic_envs")
