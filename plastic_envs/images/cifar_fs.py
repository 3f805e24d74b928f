"""CIFAR-FS: the 100 classes of CIFAR-100, of which 64 are for training, 16 for validation and 20 for testing.

Luca Bertinetto, Joao F. Henriques, Philip H. S. Torr and Andrea Vedaldi: "Meta-learning with differentiable closed-form
solvers", ICLR 2019; the images are Alex Krizhevsky's, https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import gzip
import json
import tarfile
import zlib
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from plastic_envs.images.download import Remote, download
from plastic_envs.images.few_shot_pickles import read_split
from plastic_envs.images.resize import resize
from plastic_envs.images.safe_files import open_regular
from plastic_envs.images.safe_pickle import parse_pickle, read_pickle
from plastic_envs.images.source import ArraySource, as_label_array
from plastic_envs.task import Array

PICKLES = {
    "train": "CIFAR_FS_train.pickle",
    "validation": "CIFAR_FS_val.pickle",
    "test": "CIFAR_FS_test.pickle",
}
REMOTE = Remote(
    "cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85",
    [
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "https://cave.cs.toronto.edu/kriz/cifar-100-python.tar.gz",
    ],
    max_size=2**28,
)
_FOLDER = "cifar-100-python"
_FILES = ("meta", "train", "test")
# Names of all files and folders that `read_cifar_fs` may read.
FILES = (*PICKLES.values(), REMOTE.name, _FOLDER)
# The largest file in the archive has 155 million bytes.
_MAX_MEMBER_SIZE = 2**28
# Types of headers that hold a long name or other records of the next member.
_RECORD_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


def fetch_cifar_fs(path: Path) -> None:
    """Download CIFAR-100 into a folder, unless the folder has files that `read_cifar_fs` reads.

    Raises:
        ConnectionError, ValueError: see `download`.
    """
    if not _has_pickles(path) and not _has_folder(path):
        download(REMOTE, path)


def read_cifar_fs(path: Path, image_size: int) -> ArraySource:
    """Read the few-shot pickles, or CIFAR-100 in the format of its author.

    Args:
        path: folder with `CIFAR_FS_train.pickle`, `CIFAR_FS_val.pickle` and `CIFAR_FS_test.pickle`; or with
            `cifar-100-python.tar.gz` or its folder `cifar-100-python`.
        image_size: height and width to which images are resized; the files have 32.

    Raises:
        FileNotFoundError: the folder has none of these.
        ValueError: a file is damaged, refused or has another format.
    """
    if _has_pickles(path):
        return ArraySource(
            "cifar-fs", {split: read_split(path / name, split, image_size) for split, name in PICKLES.items()}
        )
    archive, folder = path / REMOTE.name, path / _FOLDER
    # An incomplete folder does not take precedence over an archive.
    if _has_folder(path):
        return _from_cifar_100(path, {name: read_pickle(folder / name) for name in _FILES}, image_size)
    if archive.exists():
        return _from_cifar_100(path, _read_archive(archive), image_size)
    missing = ", ".join(name for name in PICKLES.values() if not (path / name).exists())
    raise FileNotFoundError(
        f"cifar-fs needs {archive} (from {REMOTE.urls[0]}, or with download=True), or its folder {_FOLDER} with the "
        f"files {', '.join(_FILES)}, or the few-shot pickles (see https://github.com/kjunelee/MetaOptNet), of which "
        f"{path} lacks {missing}"
    )


def _has_pickles(path: Path) -> bool:
    return all((path / name).exists() for name in PICKLES.values())


def _has_folder(path: Path) -> bool:
    return all((path / _FOLDER / name).exists() for name in _FILES)


def class_lists() -> dict[str, list[str]]:
    """Return the names of the classes of each split, which are fine labels of CIFAR-100."""
    text = resources.files("plastic_envs.images").joinpath("cifar_fs_classes.json").read_text(encoding="utf-8")
    lists: dict[str, list[str]] = json.loads(text)["classes"]
    return lists


class _Member(tarfile.TarInfo):
    """An archive member with headers of bounded size; tarfile alone reads long names and pax records of any size."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _RECORD_TYPES and not 0 <= self.size < _MAX_MEMBER_SIZE:
            raise ValueError(f"{archive.name!r} is refused: one of its headers claims {self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # tarfile's hook for subclasses
        return member


def _read_archive(path: Path) -> dict[str, Any]:
    """Return the values of the three pickles in the archive, which is unpacked in memory only."""
    values = {}
    try:
        with (
            open_regular(path) as file,
            gzip.GzipFile(fileobj=file, mode="rb") as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:", tarinfo=_Member) as archive,
        ):
            for name in _FILES:
                member = archive.getmember(f"{_FOLDER}/{name}")
                content = archive.extractfile(member) if member.isreg() and member.size < _MAX_MEMBER_SIZE else None
                if content is None:
                    raise ValueError(
                        f"{path} is refused: its member {member.name!r} is not a file of the expected size"
                    )
                values[name] = parse_pickle(BytesIO(content.read()), f"{path}:{member.name}")
    except KeyError as error:
        raise ValueError(f"{path} must hold {_FOLDER}/{{{','.join(_FILES)}}}: {error.args[0]}") from None
    # zlib.error, which damaged streams raise, is derived from Exception directly.
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is damaged or not a tar archive: {error}") from None
    return values


def _from_cifar_100(path: Path, values: dict[str, Any], image_size: int) -> ArraySource:
    try:
        names = [name.decode("ascii") for name in values["meta"][b"fine_label_names"]]
        data = np.concatenate([values[name][b"data"] for name in ("train", "test")])
        labels = np.concatenate([as_label_array(values[name][b"fine_labels"]) for name in ("train", "test")])
        if data.dtype != np.uint8 or data.shape != (len(labels), 3 * 32 * 32):
            raise ValueError(f"data is {data.dtype} {data.shape}, for {len(labels)} labels")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"CIFAR-100 in {path} must have fine_label_names, and data uint8 [N, 3072] with N fine_labels: {error!r}"
        ) from None
    images = resize(data.reshape(-1, 3, 32, 32), image_size)
    splits: dict[str, dict[str, Array]] = {}
    for split, classes in class_lists().items():
        missing = [name for name in classes if name not in names]
        if missing:
            raise ValueError(f"CIFAR-100 in {path} must have 100 classes, but lacks {missing[0]!r}")
        splits[split] = {name: images[labels == names.index(name)] for name in classes}
    return ArraySource("cifar-fs", splits)
