"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn by 20 people.

Brenden M. Lake, Ruslan Salakhutdinov and Joshua B. Tenenbaum: "Human-level concept learning through probabilistic
program induction", Science 350 (2015), https://github.com/brendenlake/omniglot.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from plastic_envs.images.decode import LARGEST_FILE, decode, stack
from plastic_envs.images.download import Remote, download
from plastic_envs.images.safe_files import is_hidden, open_zip, read_file, read_member
from plastic_envs.images.source import ArraySource
from plastic_envs.task import Array

# The alphabets that are last in the alphabet, of the 30 for background.
_VALIDATION_ALPHABETS = 5
_PLACES = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
    "https://github.com/brendenlake/omniglot/raw/master/python/",
)
REMOTES = {
    part: Remote(f"{part}.zip", md5, [f"{place}{part}.zip" for place in _PLACES], at_most=2**24)
    for part, md5 in (
        ("images_background", "68d2efa1b9178cc56df9314c21c6e718"),
        ("images_evaluation", "6b91aef0f799c5bb55b94e3f2daec811"),
    )
}
FILES = tuple(name for part in REMOTES for name in (part, f"{part}.zip"))


def fetch_omniglot(path: Path) -> None:
    """Download the official archives into a folder, except those that are already there, packed or unpacked.

    Raises:
        ConnectionError, ValueError: see `download`.
    """
    for part, remote in REMOTES.items():
        if not _drawings(path / part):
            download(remote, path)


def read_omniglot(path: Path, image_size: int, *, rotations: bool = False) -> ArraySource:
    """Read the official archives, or the folders in them.

    Training classes are the characters of the background's alphabets but for the last five, which are for validation;
    the evaluation's alphabets are the test. Ink is light on dark, as in `Glyphs`, so the files' pixels are inverted.

    Args:
        path: folder with `images_background.zip` and `images_evaluation.zip`, or with folders of these names.
        image_size: rows and columns; the files have 105.
        rotations: whether characters turned by 90, 180 and 270 degrees are classes too (Vinyals et al., 2016).

    Raises:
        FileNotFoundError: there is neither archive nor folder.
        ValueError: an archive is damaged, or holds names that lead out of it.
    """
    alphabets = {part: _read_part(path, part, image_size) for part in REMOTES}
    background = alphabets["images_background"]
    late = sorted(background)[-_VALIDATION_ALPHABETS:]
    splits = {
        "train": {name: background[name] for name in background if name not in late},
        "validation": {name: background[name] for name in late},
        "test": alphabets["images_evaluation"],
    }
    return ArraySource(
        "omniglot",
        {
            split: {
                f"{character}{turned}": images
                for alphabet in sorted(chosen)
                for character, upright in sorted(chosen[alphabet].items())
                for turned, images in _turns(upright, rotations)
            }
            for split, chosen in splits.items()
        },
    )


def _turns(images: Array, rotations: bool) -> Iterator[tuple[str, Array]]:
    yield "", images
    if rotations:
        for quarters in (1, 2, 3):
            yield f" turned by {90 * quarters}", np.rot90(images, quarters, axes=(2, 3))


def _read_part(path: Path, part: str, image_size: int) -> dict[str, dict[str, Array]]:
    """Images [N, 1, H, W] of each character, named alphabet/character, of each alphabet."""
    folder, archive = path / part, path / f"{part}.zip"
    # An empty folder does not take precedence over an archive.
    if _drawings(folder):
        files = _in_folder(folder)
    elif archive.exists():
        files = _in_archive(archive)
    else:
        raise FileNotFoundError(
            f"omniglot needs {archive}, or the folder {folder} with drawings: get them from {REMOTES[part].urls[0]}, "
            "or say download=True"
        )
    drawings: dict[str, dict[str, list[Array]]] = {}
    for (alphabet, character), name, data in files:
        picture = 255 - decode(data, name)
        drawings.setdefault(alphabet, {}).setdefault(f"{alphabet}/{character}", []).append(picture)
    if not drawings:
        raise ValueError(f"{part} in {path} must hold {part}/<alphabet>/<character>/<drawing>.png, but has none")
    return {
        alphabet: {character: stack(pictures, image_size) for character, pictures in characters.items()}
        for alphabet, characters in drawings.items()
    }


def _drawings(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*/*/*.png")) if not any(map(is_hidden, file.parts[-3:]))]


def _in_folder(folder: Path) -> Iterator[tuple[tuple[str, str], str, bytes]]:
    for file in _drawings(folder):
        yield (file.parts[-3], file.parts[-2]), str(file), read_file(file, LARGEST_FILE)


def _in_archive(path: Path) -> Iterator[tuple[tuple[str, str], str, bytes]]:
    """What is in an archive, which is read in memory: nothing of it is written anywhere."""
    with open_zip(path) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            place = PurePosixPath(member.filename.replace("\\", "/"))
            if place.is_absolute() or ".." in place.parts or ":" in member.filename:
                raise ValueError(f"{path} is refused: its member {member.filename!r} leads out of it")
            if place.suffix == ".png" and len(place.parts) == 4 and not any(map(is_hidden, place.parts)):
                data = read_member(archive, member, LARGEST_FILE)
                yield (place.parts[1], place.parts[2]), f"{path}:{member.filename}", data
