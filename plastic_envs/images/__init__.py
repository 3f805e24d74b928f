"""Sources of labelled images behind one interface, and how names become sources."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path

from plastic_envs.arguments import flag, whole_number
from plastic_envs.images.cifar_fs import read_cifar_fs
from plastic_envs.images.folder import read_folder
from plastic_envs.images.glyphs import Glyphs
from plastic_envs.images.mini_imagenet import read_mini_imagenet
from plastic_envs.images.omniglot import read_omniglot
from plastic_envs.images.source import SPLITS, ArraySource, ImageSource

__all__ = ["SOURCES", "SPLITS", "ArraySource", "Glyphs", "ImageSource", "open_source"]

# What reads files: (path, image_size, fetch=...) -> source. Glyphs are drawn, and need none.
_READERS: Mapping[str, Callable[..., ImageSource]] = {
    "omniglot": read_omniglot,
    "omniglot-rotated": partial(read_omniglot, rotations=True),
    "cifar-fs": read_cifar_fs,
    "mini-imagenet": read_mini_imagenet,
    "folder": read_folder,
}
SOURCES = (Glyphs.name, *_READERS)


def open_source(
    name: str, path: str | os.PathLike[str] = "", image_size: int = 28, download: bool = False
) -> ImageSource:
    """Open a source; the same one, read once, where this is asked for again.

    Args:
        name: one of `SOURCES`.
        path: where its files lie; by default in a folder of its name in `$PLASTIC_ENVS_DATA`, or else in
            `~/.cache/plastic_envs`.
        image_size: rows and columns to which images are resized.
        download: whether files that are missing are fetched to that place.

    Raises:
        ValueError: an unknown name, a path for glyphs or none for a folder, a download of what is not to be had, or
            files that are damaged, refused or of another form.
        TypeError: an argument is of another type.
        FileNotFoundError: files are missing; it says which, and where to get them.
        ConnectionError: a download failed.
    """
    if name not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}, or an ImageSource, got {name!r}")
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a str or a path, got {path!r}")
    size = whole_number("image_size", image_size, at_least=8)
    return _open(name, os.fspath(path), size, flag("download", download))


@lru_cache(maxsize=4)
def _open(name: str, path: str, image_size: int, download: bool) -> ImageSource:
    if name == Glyphs.name:
        if path or download:
            raise ValueError(f"path and download must be left out for glyphs, got {path!r} and {download}")
        return Glyphs(image_size)
    if name == "folder" and not path:
        raise ValueError("path must say where the images are for source 'folder', got ''")
    place = Path(path) if path else _data_folder() / name.removesuffix("-rotated")
    return _READERS[name](place, image_size, fetch=download)


def _data_folder() -> Path:
    return Path(os.environ.get("PLASTIC_ENVS_DATA") or Path.home() / ".cache" / "plastic_envs")
