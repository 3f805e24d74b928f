"""Images of one's own: folders of class directories, or a .npz file."""

from __future__ import annotations

import io
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np

from plastic_envs.images.decode import LARGEST_FILE, decode
from plastic_envs.images.resize import resize
from plastic_envs.images.safe_files import is_hidden, open_zip, read_file, read_member
from plastic_envs.images.source import SPLITS, ArraySource, by_label
from plastic_envs.task import Array

_ALSO = {"validation": "val"}
# Larger arrays would not fit into memory a few times over.
_LARGEST_ARRAY = 2**32
FOLDERS = ("train", "validation", "val", "test")
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})


def read_folder(path: Path, image_size: int, *, name: str = "folder") -> ArraySource:
    """Read the splits that there are of one's own images.

    Args:
        path: a folder with folders `train`, `validation` (or `val`) and `test`, in which each class has a folder of
            pictures; or a `.npz` file of arrays `train_images`, uint8 [N, H, W] or [N, H, W, C], `train_labels`, N
            numbers or strings, and so for the other splits.
        image_size: rows and columns to which all are resized.
        name: what the source is called.

    Raises:
        FileNotFoundError: there is no such folder or file, or none of the splits in it.
        ValueError: a picture or array is damaged or of another form, or splits overlap.
    """
    if path.suffix == ".npz":
        return ArraySource(name, _read_arrays(path, image_size))
    folders = split_folders(path)
    if not folders:
        raise FileNotFoundError(
            f"{name} needs folders train, validation (or val) and test of a folder for each class in {path}, "
            "or the path of a .npz file; there are none"
        )
    pictures = {
        split: {
            place.name: _read_class(place, image_size)
            for place in sorted(folder.iterdir())
            if place.is_dir() and not is_hidden(place.name)
        }
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
    files = [file for file in sorted(place.iterdir()) if file.suffix.lower() in _SUFFIXES and not is_hidden(file.name)]
    if not files:
        raise FileNotFoundError(f"each class needs pictures ({', '.join(sorted(_SUFFIXES))}), {place} has none")
    return [resize(decode(read_file(file, LARGEST_FILE), str(file))[None], image_size)[0] for file in files]


def _read_arrays(path: Path, image_size: int) -> dict[str, dict[str, Array]]:
    wanted = [f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")]
    arrays, names = _read_npz(path, wanted)
    splits = {}
    for split in SPLITS:
        images, labels = arrays.get(f"{split}_images"), arrays.get(f"{split}_labels")
        if (images is None) != (labels is None):
            raise ValueError(f"{path} must have both {split}_images and {split}_labels, got {names}")
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
        raise FileNotFoundError(f"{path} must have train_images and train_labels, or so of another split, got {names}")
    return splits


def _read_npz(path: Path, wanted: Collection[str]) -> tuple[dict[str, Array], list[str]]:
    """Return those arrays of a file that are wanted, and the names of all."""
    arrays, names = {}, []
    with open_zip(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            names.append(name)
            if name in wanted:
                arrays[name] = _read_npy(read_member(archive, member, _LARGEST_ARRAY), f"{path}:{name}")
    return arrays, sorted(names)


def _read_npy(data: bytes, name: str) -> Array:
    """Return the array of numbers or strings in a .npy file; errors call it `name`."""
    file = io.BytesIO(data)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, is_fortran, dtype = headers[np.lib.format.read_magic(file)](file)
        size = len(data) - file.tell()
        if math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"it has {size} bytes for shape {shape} of {dtype}")
        # `frombuffer` refuses dtypes of objects, which only a pickle could hold.
        array = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape[::-1] if is_fortran else shape)
        return array.T if is_fortran else array
    # Whatever else numpy makes of a damaged header: KeyError, SyntaxError, TypeError and more.
    except Exception as error:
        raise ValueError(f"{name} is damaged, refused or no array of numbers or strings: {error!r}") from None
