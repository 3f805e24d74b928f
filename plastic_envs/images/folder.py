"""Images of one's own: folders of class directories, or a .npz file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from plastic_envs.images.pictures import LARGEST_FILE, decode
from plastic_envs.images.resize import resize
from plastic_envs.images.source import SPLITS, ArraySource, by_label
from plastic_envs.task import Array

_ALSO = {"validation": "val"}
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})


def read_folder(path: Path, image_size: int, *, name: str = "folder", fetch: bool = False) -> ArraySource:
    """Read the splits that there are of one's own images.

    Args:
        path: a folder with folders `train`, `validation` (or `val`) and `test`, in which each class has a folder of
            pictures; or a `.npz` file of arrays `train_images`, uint8 [N, H, W] or [N, H, W, C], `train_labels`, N
            numbers or strings, and so for the other splits.
        image_size: rows and columns to which all are resized.
        name: what the source is called.
        fetch: must be False.

    Raises:
        FileNotFoundError: there is no such folder or file, or none of the splits in it.
        ValueError: a picture or array is damaged or of another form, splits overlap, or a download is asked for.
    """
    if fetch:
        raise ValueError(f"download must be False for {name}, got True: these are images of your own")
    if path.suffix == ".npz":
        return ArraySource(name, _read_arrays(path, image_size))
    folders = split_folders(path)
    if not folders:
        raise FileNotFoundError(
            f"{name} needs folders train, validation (or val) and test of a folder for each class in {path}, "
            "or the path of a .npz file; there are none"
        )
    pictures = {
        split: {place.name: _read_class(place, image_size) for place in sorted(folder.iterdir()) if place.is_dir()}
        for split, folder in folders.items()
    }
    # Grey pictures among coloured ones are coloured.
    channels = max((len(each[0]) for classes in pictures.values() for each in classes.values()), default=1)
    return ArraySource(
        name,
        {
            split: {
                label: np.stack([np.broadcast_to(each, (channels, image_size, image_size)) for each in drawn])
                for label, drawn in classes.items()
            }
            for split, classes in pictures.items()
        },
    )


def split_folders(path: Path) -> dict[str, Path]:
    """The folders of splits that there are."""
    named = {split: (path / split, path / _ALSO.get(split, split)) for split in SPLITS}
    return {split: place for split, places in named.items() for place in places if place.is_dir()}


def _read_class(place: Path, image_size: int) -> list[Array]:
    files = [file for file in sorted(place.iterdir()) if file.suffix.lower() in _SUFFIXES]
    if not files:
        raise FileNotFoundError(f"each class needs pictures ({', '.join(sorted(_SUFFIXES))}), {place} has none")
    large = [file for file in files if file.stat().st_size > LARGEST_FILE]
    if large:
        raise ValueError(f"pictures must have at most {LARGEST_FILE} bytes, {large[0]} has more")
    return [resize(decode(file.read_bytes(), str(file))[None], image_size)[0] for file in files]


def _read_arrays(path: Path, image_size: int) -> dict[str, dict[str, Array]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    # A damaged archive, a damaged member, or one of objects, which only a pickle can hold.
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} is damaged, refused or no .npz file: {error}") from None
    splits = {}
    for split in SPLITS:
        images, labels = arrays.get(f"{split}_images"), arrays.get(f"{split}_labels")
        if (images is None) != (labels is None):
            raise ValueError(f"{path} must have both {split}_images and {split}_labels, got {sorted(arrays)}")
        if images is None or labels is None:
            continue
        if (
            images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or (images.ndim == 4 and images.shape[-1] not in (1, 3))
        ):
            raise ValueError(
                f"{split}_images of {path} must be uint8 [N, H, W], or [N, H, W, C] with 1 or 3 channels, "
                f"got {images.dtype} {images.shape}"
            )
        first = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        splits[split] = by_label(f"{split}/", resize(first, image_size), labels)
    if not splits:
        raise FileNotFoundError(
            f"{path} must have train_images and train_labels, or so of another split, got {sorted(arrays)}"
        )
    return splits
