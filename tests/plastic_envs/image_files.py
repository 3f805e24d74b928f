"""Small files in the exact formats of the real image collections."""

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
    """Return a grey PNG of uint8 [H, W]."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def random_images(rng, *shape):
    return rng.integers(256, size=shape, dtype=np.uint8)


def write_omniglot(folder, *, alphabets=(30, 20), characters=2, drawings=4, size=20):
    """Write the archives of Omniglot and return the first character's drawings, uint8 [N, H, W], with dark ink."""
    rng = np.random.default_rng(0)
    all_pixels = []
    for name, n_alphabets in zip(("images_background", "images_evaluation"), alphabets, strict=True):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for alphabet in range(n_alphabets):
                for character in range(1, characters + 1):
                    pixels = random_images(rng, drawings, size, size)
                    all_pixels.append(pixels)
                    character_dir = f"{name}/{name[7:9]}{alphabet}/character{character:02d}"
                    for index, drawing in enumerate(pixels):
                        archive.writestr(f"{character_dir}/{index:04d}_{index:02d}.png", png(drawing))
    return all_pixels[0]


def cifar_names():
    text = resources.files("plastic_envs.images").joinpath("cifar_fs_classes.json").read_text()
    return sorted(name for names in json.loads(text)["classes"].values() for name in names)


def cifar_100(*, per_class=(5, 1)):
    """Return the values of the three pickles of CIFAR-100 by name, with the bytes keys of Python 2."""
    rng = np.random.default_rng(1)
    values = {"meta": {b"fine_label_names": [name.encode() for name in cifar_names()]}}
    for name, n_images in zip(("train", "test"), per_class, strict=True):
        labels = rng.permutation(np.repeat(np.arange(100), n_images)).tolist()
        values[name] = {b"data": random_images(rng, len(labels), 3072), b"fine_labels": labels, b"batch_label": b"x"}
    return values


def write_cifar_100(folder, values=None, **members):
    """Write the archive `cifar-100-python.tar.gz`; `members` replace files in it."""
    files = {name: pickle.dumps(value, protocol=2) for name, value in (values or cifar_100()).items()}
    with tarfile.open(folder / "cifar-100-python.tar.gz", "w:gz") as archive:
        for name, data in {**files, **members}.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_pickles(folder, names, *, size, classes=(6, 5, 5), per_class=5, protocol=2):
    """Write few-shot pickles with these names and return the data and labels of the first."""
    rng = np.random.default_rng(2)
    label, contents = 0, []
    for name, n_classes in zip(names, classes, strict=True):
        labels = np.repeat(np.arange(label, label + n_classes), per_class).tolist()
        data = random_images(rng, len(labels), size, size, 3)
        contents.append((data, labels))
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": labels}, protocol=protocol))
        label += n_classes
    return contents[0]


def write_folders(folder, *, splits=("train", "val", "test"), classes=5, per_class=4, size=12):
    """Write folders of class folders of image files."""
    rng = np.random.default_rng(3)
    for split in splits:
        for number in range(classes):
            class_dir = folder / split / f"{split}-{number}"
            class_dir.mkdir(parents=True)
            for index in range(per_class):
                (class_dir / f"{index}.png").write_bytes(png(random_images(rng, size, size)))
