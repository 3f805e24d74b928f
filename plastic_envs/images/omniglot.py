"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Brenden M. Lake, Ruslan Salakhutdinov and Joshua B. Tenenbaum: "Human-level concept learning through probabilistic
program induction", Science 350 (2015), https://github.com/brendenlake/omniglot.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from plastic_envs.images.decode import MAX_FILE_SIZE, decode, stack_images
from plastic_envs.images.download import Remote, download
from plastic_envs.images.safe_files import is_hidden, open_zip, read_file, read_member
from plastic_envs.images.source import ArraySource
from plastic_envs.task import Array

# The last alphabets, by name, of the 30 in `images_background` are for validation.
_N_VALIDATION_ALPHABETS = 5
_BASE_URLS = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
    "https://github.com/brendenlake/omniglot/raw/master/python/",
)
REMOTES = {
    archive: Remote(f"{archive}.zip", md5, [f"{url}{archive}.zip" for url in _BASE_URLS], max_size=2**24)
    for archive, md5 in (
        ("images_background", "68d2efa1b9178cc56df9314c21c6e718"),
        ("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811"),
    )
}
# Number of alphabets of each archive.
_N_ALPHABETS = {"images_background": 30, "images_evaluation": 20}
FILES = tuple(name for archive in REMOTES for name in (archive, f"{archive}.zip"))


def fetch_omniglot(path: Path) -> None:
    """Download the official archives into a folder, except those that it already has, packed or unpacked completely.

    Raises:
        ConnectionError, ValueError: see `download`.
    """
    for archive, remote in REMOTES.items():
        if not _is_complete(path, archive):
            download(remote, path)


def read_omniglot(path: Path, image_size: int, *, rotations: bool = False) -> ArraySource:
    """Read the official archives, or their folders.

    The last five alphabets of `images_background` are for validation and its other alphabets for training;
    `images_evaluation` is for testing. The function inverts the pixels of the files, so that ink is light on dark, as
    in `Glyphs`.

    Args:
        path: folder with `images_background.zip` and `images_evaluation.zip`, or with folders of these names.
        image_size: height and width to which images are resized; the files have 105.
        rotations: whether to add characters rotated by 90, 180 and 270 degrees as classes (Vinyals et al., 2016).

    Raises:
        FileNotFoundError: an archive and its folder are missing.
        ValueError: an archive is damaged, has members with unsafe paths, or lacks alphabets, as a folder can.
    """
    alphabets = {archive: _read_alphabets(path, archive, image_size) for archive in REMOTES}
    background = alphabets["images_background"]
    validation = sorted(background)[-_N_VALIDATION_ALPHABETS:]
    splits = {
        "train": {name: background[name] for name in background if name not in validation},
        "validation": {name: background[name] for name in validation},
        "test": alphabets["images_evaluation"],
    }
    return ArraySource(
        "omniglot",
        {
            split: {
                f"{character}{suffix}": images
                for _, characters in sorted(split_alphabets.items())
                for character, upright in sorted(characters.items())
                for suffix, images in _rotated(upright, rotations)
            }
            for split, split_alphabets in splits.items()
        },
    )


def _rotated(images: Array, rotations: bool) -> Iterator[tuple[str, Array]]:
    """Yield the suffix of the class name and the images, for each rotation."""
    yield "", images
    if rotations:
        for quarters in (1, 2, 3):
            yield f" turned by {90 * quarters}", np.rot90(images, quarters, axes=(2, 3))


def _read_alphabets(path: Path, archive_name: str, image_size: int) -> dict[str, dict[str, Array]]:
    """Return the images [N, 1, H, W] of each character of each alphabet; characters are named alphabet/character."""
    folder, archive = path / archive_name, path / f"{archive_name}.zip"
    # An empty or incomplete folder does not take precedence over an archive.
    if archive.exists() and not _is_complete(path, archive_name):
        files = _read_archive(archive)
    elif _drawings(folder):
        files = _read_folder(folder)
    else:
        raise FileNotFoundError(
            f"omniglot needs {archive}, or the folder {folder} with drawings: get them from "
            f"{REMOTES[archive_name].urls[0]}, or with download=True"
        )
    drawings: dict[str, dict[str, list[Array]]] = {}
    for (alphabet, character), name, data in files:
        image = 255 - decode(data, name)
        drawings.setdefault(alphabet, {}).setdefault(f"{alphabet}/{character}", []).append(image)
    if len(drawings) != _N_ALPHABETS[archive_name]:
        raise ValueError(
            f"{archive_name} in {path} must have the {_N_ALPHABETS[archive_name]} alphabets of "
            f"{REMOTES[archive_name].urls[0]}, in files {archive_name}/<alphabet>/<character>/<drawing>.png, got "
            f"{len(drawings)} alphabets"
        )
    return {
        alphabet: {character: stack_images(images, image_size) for character, images in characters.items()}
        for alphabet, characters in drawings.items()
    }


def _is_complete(path: Path, archive_name: str) -> bool:
    """Return whether the folder of an archive has drawings of all alphabets."""
    alphabets = {file.parts[-3] for file in _drawings(path / archive_name)}
    return len(alphabets) == _N_ALPHABETS[archive_name]


def _drawings(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*/*/*.png")) if not any(map(is_hidden, file.parts[-3:]))]


def _read_folder(folder: Path) -> Iterator[tuple[tuple[str, str], str, bytes]]:
    """Yield (alphabet, character), file name and content of each drawing in a folder."""
    for file in _drawings(folder):
        yield (file.parts[-3], file.parts[-2]), str(file), read_file(file, MAX_FILE_SIZE)


def _read_archive(path: Path) -> Iterator[tuple[tuple[str, str], str, bytes]]:
    """Yield (alphabet, character), file name and content of each drawing in an archive, unpacked in memory only."""
    with open_zip(path) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            member_path = PurePosixPath(member.filename.replace("\\", "/"))
            if member_path.is_absolute() or ".." in member_path.parts or ":" in member.filename:
                raise ValueError(f"{path} is refused: its member {member.filename!r} has an unsafe path")
            parts = member_path.parts
            if member_path.suffix == ".png" and len(parts) == 4 and not any(map(is_hidden, parts)):
                data = read_member(archive, member, MAX_FILE_SIZE)
                yield (parts[1], parts[2]), f"{path}:{member.filename}", data
