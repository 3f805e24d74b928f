"""Small collections in exactly the forms in which the real ones come."""

import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from importlib import resources

import numpy as np


def png(pixels):
    """A grey PNG of uint8 [H, W]."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def random_images(rng, *shape):
    return rng.integers(256, size=shape, dtype=np.uint8)


def write_omniglot(folder, *, alphabets=(7, 2), characters=3, drawings=4, size=20):
    """Archives as Omniglot's; returns the first character's drawings, uint8 [N, H, W], ink dark."""
    rng = np.random.default_rng(0)
    first = None
    for part, number in zip(("images_background", "images_evaluation"), alphabets, strict=True):
        with zipfile.ZipFile(folder / f"{part}.zip", "w") as archive:
            for alphabet in range(number):
                for character in range(1, characters + 1):
                    pixels = random_images(rng, drawings, size, size)
                    first = pixels if first is None else first
                    for index, drawing in enumerate(pixels):
                        place = f"{part}/{part[7:9]}{alphabet}/character{character:02d}/{index:04d}_{index:02d}.png"
                        archive.writestr(place, png(drawing))
    return first


def cifar_names():
    text = resources.files("plastic_envs.images").joinpath("cifar_fs_classes.json").read_text()
    return sorted(name for names in json.loads(text)["classes"].values() for name in names)


def cifar_100(*, per_class=(5, 1)):
    """The three pickles of CIFAR-100 by name, with keys as Python 2 left them."""
    rng = np.random.default_rng(1)
    values = {"meta": {b"fine_label_names": [name.encode() for name in cifar_names()]}}
    for part, number in zip(("train", "test"), per_class, strict=True):
        labels = rng.permutation(np.repeat(np.arange(100), number)).tolist()
        values[part] = {b"data": random_images(rng, len(labels), 3072), b"fine_labels": labels, b"batch_label": b"x"}
    return values


def write_cifar_100(folder, values=None, **members):
    """The archive `cifar-100-python.tar.gz`; `members` take the place of files in it."""
    files = {name: pickle.dumps(value, protocol=2) for name, value in (values or cifar_100()).items()}
    with tarfile.open(folder / "cifar-100-python.tar.gz", "w:gz") as archive:
        for name, data in {**files, **members}.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_pickles(folder, names, *, size, classes=(6, 5, 5), per_class=5, protocol=2):
    """Few-shot pickles under these names; returns the first one's data and labels."""
    rng = np.random.default_rng(2)
    label, first = 0, None
    for name, number in zip(names, classes, strict=True):
        labels = np.repeat(np.arange(label, label + number), per_class).tolist()
        data = random_images(rng, len(labels), size, size, 3)
        first = (data, labels) if first is None else first
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=protocol))
        label += number
    return first


def write_folders(folder, *, splits=("train", "val", "test"), classes=5, per_class=4, size=12):
    """Folders of class directories of pictures."""
    rng = np.random.default_rng(3)
    for split in splits:
        for number in range(classes):
            place = folder / split / f"{split}-{number}"
            place.mkdir(parents=True)
            for index in range(per_class):
                (place / f"{index}.png").write_bytes(png(random_images(rng, size, size)))
