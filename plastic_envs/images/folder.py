"""A user's own images: folders of class folders, or a .npz file."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from plastic_envs.images.decode import MAX_FILE_SIZE, decode
from plastic_envs.images.resize import resize
from plastic_envs.images.safe_files import is_hidden, open_zip, read_file, read_member
from plastic_envs.images.source import ArraySource, group_by_label
from plastic_envs.task import Array

# Names that the folders and arrays of each split can have.
_NAMES = {"train": ("train",), "validation": ("validation", "val"), "test": ("test",)}
FOLDERS = tuple(name for names in _NAMES.values() for name in names)
# Limit in bytes that protects the memory, which holds an array more than once.
_MAX_ARRAY_SIZE = 2**32
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})


def read_folder(path: Path, image_size: int, *, name: str = "folder") -> ArraySource:
    """Read a user's own images. A split may be missing.

    Args:
        path: a folder with folders `train`, `validation` (or `val`) and `test`, in which each class has a folder of
            image files; or a `.npz` file of arrays `train_images`, uint8 [N, H, W] or [N, H, W, C], and `train_labels`,
            N integers or strings, and the same for the other splits, `validation` (or `val`) and `test`.
        image_size: height and width to which images are resized.
        name: the name of the source.

    Raises:
        FileNotFoundError: the folder or file does not exist or has no split.
        ValueError: a file or array is damaged or has another format, splits overlap, or a split has both names.
    """
    if path.suffix == ".npz":
        return ArraySource(name, _read_arrays(path, image_size))
    folders = split_folders(path)
    if not folders:
        raise FileNotFoundError(
            f"{name} needs folders train, validation (or val) or test in {path}, each with a folder for each class, "
            "or the path of a .npz file"
        )
    splits = {
        split: {
            class_dir.name: _read_class(class_dir, image_size)
            for class_dir in sorted(folder.iterdir())
            if class_dir.is_dir() and not is_hidden(class_dir.name)
        }
        for split, folder in folders.items()
    }
    # If any image has colours, grey images are converted to three channels.
    all_images = [image for classes in splits.values() for images in classes.values() for image in images]
    shape = (max(map(len, all_images), default=1), image_size, image_size)
    return ArraySource(
        name,
        {
            split: {
                label: np.stack([np.broadcast_to(image, shape) for image in images])
                for label, images in classes.items()
            }
            for split, classes in splits.items()
        },
    )


def split_folders(path: Path) -> dict[str, Path]:
    """Return the existing folders of splits.

    Raises:
        ValueError: there are both folders `validation` and `val`.
    """
    names = _names_of_splits(path, "folders", lambda name: (path / name).is_dir())
    return {split: path / name for split, name in names.items()}


def _names_of_splits(path: Path, kind: str, exists: Callable[[str], bool]) -> dict[str, str]:
    """Return the name under which each split exists."""
    existing = {}
    for split, names in _NAMES.items():
        found = [name for name in names if exists(name)]
        if len(found) > 1:
            raise ValueError(f"{path} must have one of the {kind} {' and '.join(map(repr, found))}, got both")
        if found:
            existing[split] = found[0]
    return existing


def _read_class(class_dir: Path, image_size: int) -> list[Array]:
    files = [
        file for file in sorted(class_dir.iterdir()) if file.suffix.lower() in _SUFFIXES and not is_hidden(file.name)
    ]
    if not files:
        raise FileNotFoundError(f"each class needs image files ({', '.join(sorted(_SUFFIXES))}), {class_dir} has none")
    return [resize(decode(read_file(file, MAX_FILE_SIZE), str(file))[None], image_size)[0] for file in files]


def _read_arrays(path: Path, image_size: int) -> dict[str, dict[str, Array]]:
    arrays, names = _read_npz(path, [f"{name}_{kind}" for name in FOLDERS for kind in ("images", "labels")])
    splits = {}
    found = {name.rpartition("_")[0] for name in arrays}
    for split, name in _names_of_splits(path, "splits", found.__contains__).items():
        images, labels = arrays.get(f"{name}_images"), arrays.get(f"{name}_labels")
        if images is None or labels is None:
            raise ValueError(f"{path} must have both {name}_images and {name}_labels, got {names}")
        if (
            images.dtype != np.uint8
            or images.ndim not in (3, 4)
            or (images.ndim == 4 and images.shape[-1] not in (1, 3))
        ):
            raise ValueError(
                f"{name}_images of {path} must be uint8 [N, H, W], or [N, H, W, C] with 1 or 3 channels, "
                f"got {images.dtype} {images.shape}"
            )
        channels_first = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        splits[split] = group_by_label(f"{split}/", resize(channels_first, image_size), labels)
    if not splits:
        raise FileNotFoundError(
            f"{path} must have train_images and train_labels, or those of another split, got {names}"
        )
    return splits


def _read_npz(path: Path, array_names: Collection[str]) -> tuple[dict[str, Array], list[str]]:
    """Return the arrays of a file that have these names, and the names of all its arrays."""
    arrays, names = {}, []
    with open_zip(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            names.append(name)
            if name in array_names:
                arrays[name] = _read_npy(read_member(archive, member, _MAX_ARRAY_SIZE), f"{path}:{name}")
    return arrays, sorted(names)


def _read_npy(data: bytes, name: str) -> Array:
    """Return the array of numbers or strings in a .npy file; `name` is for errors."""
    file = io.BytesIO(data)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, is_fortran, dtype = headers[np.lib.format.read_magic(file)](file)
        size = len(data) - file.tell()
        if math.prod(shape) * dtype.itemsize != size:
            raise ValueError(f"{size} bytes for shape {shape} of {dtype}")
        # `frombuffer` refuses dtypes with objects, which need a pickle.
        array = np.frombuffer(data, dtype, offset=file.tell()).reshape(shape[::-1] if is_fortran else shape)
        return array.T if is_fortran else array
    # numpy raises many types for damaged headers: KeyError, SyntaxError, TypeError and more.
    except Exception as error:
        raise ValueError(f"{name} is damaged, refused or not an array of numbers or strings: {error!r}") from None
