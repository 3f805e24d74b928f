"""Sources of images: all formats are read correctly, and invalid files and arguments are refused."""

import copy
import gzip
import hashlib
import io
import os
import pickle
import shutil
import struct
import tarfile
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plastic_envs.images import SPLITS, ArraySource, Glyphs, cifar_fs, folder, mini_imagenet, omniglot, open_source
from plastic_envs.images.cifar_fs import class_lists, read_cifar_fs
from plastic_envs.images.decode import decode
from plastic_envs.images.folder import read_folder
from plastic_envs.images.mini_imagenet import read_mini_imagenet
from plastic_envs.images.omniglot import read_omniglot
from plastic_envs.images.resize import resize
from tests.plastic_envs.image_files import (
    cifar_100,
    cifar_names,
    png,
    random_images,
    write_cifar_100,
    write_folders,
    write_omniglot,
    write_pickles,
)

# Glyphs


def test_glyphs_depend_on_seed_split_class_and_index_only():
    source, second_source = Glyphs(), Glyphs()
    rng = np.random.default_rng(0)
    classes, indices = rng.integers(200, size=(6, 5)), rng.integers(20, size=(6, 5))
    batch = source.gather("validation", classes, indices)
    assert batch.dtype == np.uint8
    assert batch.shape == (6, 5, 1, 28, 28)
    for index in np.ndindex(6, 5):
        image = second_source.gather("validation", classes[index], indices[index])
        np.testing.assert_array_equal(image, batch[index])
    clone = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(clone.gather("validation", classes, indices), batch)
    assert len(pickle.dumps(source)) < 2**21
    for different in (Glyphs(seed=1).gather("validation", classes, indices), source.gather("test", classes, indices)):
        assert (different != batch).any(axis=(2, 3, 4)).all()


def test_returned_images_are_copies():
    source = Glyphs()
    images = source.images("train", 3)
    original = images.copy()
    images[:] = 0
    np.testing.assert_array_equal(source.images("train", 3), original)


def test_glyphs_have_1600_different_classes():
    source = Glyphs()
    means = []
    for split in SPLITS:
        n_classes = len(source.classes(split))
        classes = np.repeat(np.arange(n_classes), 4)
        images = source.gather(split, classes, np.tile(np.arange(4), n_classes)).reshape(n_classes, 4, -1)
        assert (images.max(axis=-1) > 150).all(), "each drawing has ink"
        assert (images.mean(axis=-1) < 100).all(), "each drawing has background"
        means.append(images.mean(axis=1))
    means = np.concatenate(means)
    assert len(means) == 1600
    assert len(np.unique(means.round(), axis=0)) == 1600


def test_nearest_neighbour_in_pixels_is_a_weak_baseline_on_glyphs():
    """One-shot, five-way accuracy is above chance, 0.2, and far below that of a trained network, 0.95."""
    source, rng = Glyphs(), np.random.default_rng(0)
    classes = np.stack([rng.choice(400, 5, replace=False) for _ in range(1000)])
    support = rng.integers(20, size=(1000, 5))
    query = (support + rng.integers(1, 20, size=(1000, 5))) % 20
    support_pixels, query_pixels = (
        source.gather("test", classes, indices).reshape(1000, 5, -1).astype(np.float32) for indices in (support, query)
    )
    distance = np.square(query_pixels[:, :, None] - support_pixels[:, None]).sum(axis=-1)
    accuracy = (distance.argmin(axis=-1) == np.arange(5)).mean()
    assert 0.35 < accuracy < 0.55


def test_glyphs_of_another_size_are_the_same_drawings():
    large, small = Glyphs(56).images("train", 0), Glyphs(28).images("train", 0)
    assert large.shape == (20, 1, 56, 56)
    # The drawings are the same apart from the pixel noise.
    coarse = large.reshape(20, 28, 2, 28, 2).mean(axis=(2, 4))
    assert np.corrcoef(coarse.ravel(), small.ravel())[0, 1] > 0.97


# Any source


def small_source(shape=(1, 8, 8), counts=(3, 4, 5)):
    rng = np.random.default_rng(0)
    return ArraySource("small", {"train": {f"c{n}": random_images(rng, n, *shape) for n in counts}})


def test_images_are_gathered_by_class_and_index():
    source = small_source()
    assert source.classes("train") == ("c3", "c4", "c5")
    assert source.counts("train").tolist() == [3, 4, 5]
    images = source.gather("train", np.array([[2, 0], [1, 2]]), np.array([[4, 0], [3, 0]]))
    for position, (label, index) in zip(np.ndindex(2, 2), ((2, 4), (0, 0), (1, 3), (2, 0)), strict=True):
        np.testing.assert_array_equal(images[position], source.images("train", label)[index])
    np.testing.assert_array_equal(copy.deepcopy(source).images("train", 1), source.images("train", 1))


@pytest.mark.parametrize("source", [small_source(), Glyphs()], ids=["array", "glyphs"])
def test_unknown_splits_and_invalid_indices_are_refused(source):
    with pytest.raises(ValueError, match=r"split.* must be one of train.*got 'exam'"):
        source.counts("exam")
    with pytest.raises(TypeError, match=r"split.* must be one of train.*got \['train'\]"):
        source.counts(["train"])
    for number, index in ((0, 20), (0, -1), (-1, 0), (1000, 0)):
        with pytest.raises(
            ValueError,
            match=r"classes must be less than \d+, and indices less than the number of images of their class, got",
        ):
            source.gather("train", np.array([number]), np.array([index]))
    for number, index in (([0.5], [0]), ([0], None), ([True], [0])):
        with pytest.raises(TypeError, match="classes and indices must be whole numbers, got"):
            source.gather("train", number, index)
    np.testing.assert_array_equal(source.gather("train", [1], [0]), source.images("train", 1)[:1])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_indices_can_have_any_integer_type(dtype):
    large = small_source(counts=(300, 5))
    for source, label, index in ((Glyphs(), 100, 19), (large, 1, 4)):
        image = source.gather("train", np.array([label], dtype), np.array([index], dtype))
        np.testing.assert_array_equal(image[0], source.images("train", label)[index])
    if dtype == np.uint64:
        for label, index in ((2**64 - 1, 0), (0, 2**64 - 1)):
            with pytest.raises(ValueError, match="classes must be less than 2, and indices"):
                large.gather("train", np.array([label], dtype), np.array([index], dtype))


@pytest.mark.parametrize("source", [small_source(), Glyphs()], ids=["array", "glyphs"])
def test_writing_to_counts_does_not_change_the_source(source):
    before = source.counts("train").copy()
    source.counts("train")[:] = 0
    np.testing.assert_array_equal(source.counts("train"), before)


@pytest.mark.parametrize("source", [small_source(), Glyphs()], ids=["array", "glyphs"])
def test_images_of_an_invalid_class_are_refused(source):
    last = len(source.counts("train")) - 1
    for class_index in (-1, last + 1):
        with pytest.raises(ValueError, match=f"class_index must be between 0 and {last}, got {class_index}"):
            source.images("train", class_index)
    with pytest.raises(TypeError, match=r"class_index must be a whole number .* got 'c3'"):
        source.images("train", "c3")


def test_array_source_refuses_invalid_arrays():
    valid = random_images(np.random.default_rng(0), 3, 1, 8, 8)
    invalid = [
        ({}, "splits of it must be some of"),
        ({"exam": {"a": valid}}, r"splits of it must be some of.*got \['exam'\]"),
        ({"train": {}}, "'train' has none"),
        ({"train": {"a": valid.astype(float)}}, "uint8.*float64"),
        ({"train": {"a": valid[:, 0]}}, r"uint8 \[N, C, H, W\].*\(3, 8, 8\)"),
        ({"train": {"a": valid[:0]}}, r"\(0, 1, 8, 8\)"),
        ({"train": {"a": valid.repeat(2, axis=1)}}, "1 or 3 channels"),
        ({"train": {"a": valid}, "test": {"b": valid[..., :7]}}, r"one shape.*\(1, 8, 7\)"),
        ({"train": {"a": valid}, "test": {"a": 255 - valid}}, "overlap: class 'a' is in train and test"),
        ({"train": {"a": valid}, "test": {"b": valid[:1]}}, "overlap: test and train share 1 images"),
    ]
    for splits, named in invalid:
        with pytest.raises(ValueError, match=named):
            ArraySource("it", splits)
    for splits, named in (
        (None, "splits of it must be a dict of dicts of arrays, got a NoneType"),
        ({"train": [valid]}, "splits of it must be a dict of dicts of arrays"),
        ({"train": {"a": valid.tolist()}}, "images of it must be arrays, got a list in class 'a' of 'train'"),
        ({"train": {"a": None}}, "images of it must be arrays, got a NoneType"),
    ):
        with pytest.raises(TypeError, match=named):
            ArraySource("it", splits)


@settings(max_examples=30)
@given(height=st.integers(1, 20), width=st.integers(1, 20), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_resize_is_a_weighted_mean(height, width, size, seed):
    """The result is compared with the definition at two pixels."""
    images = random_images(np.random.default_rng(seed), 2, 3, height, width)

    def weights(old_size, new_size, new_index):
        centre, half_width = (new_index + 0.5) * old_size / new_size, max(old_size / new_size, 1)
        triangle = np.array([max(0, 1 - abs(old + 0.5 - centre) / half_width) for old in range(old_size)])
        return triangle / triangle.sum()

    resized = resize(images, size)
    for row, column in {(0, 0), (size - 1, size // 2)}:
        window = np.outer(weights(height, size, row), weights(width, size, column))
        expected = (images * window).sum(axis=(2, 3))
        np.testing.assert_allclose(resized[:, :, row, column], expected, atol=0.51)
    flat = np.full((1, 1, height, width), 77, np.uint8)
    assert (resize(flat, size) == 77).all()


# Omniglot


@pytest.mark.parametrize("unpacked", [False, True])
def test_omniglot_is_read_from_archives_and_folders(tmp_path, unpacked):
    drawings = write_omniglot(tmp_path)
    if unpacked:
        unpack(tmp_path)
    source = read_omniglot(tmp_path, 20)
    assert source.image_shape == (1, 20, 20)
    # Five of the 30 alphabets of `images_background` are for validation.
    assert [len(source.classes(split)) for split in SPLITS] == [50, 10, 40]
    assert source.classes("train")[0] == "ba0/character01"
    assert source.classes("test")[0] == "ev0/character01"
    np.testing.assert_array_equal(source.images("train", 0)[:, 0], 255 - drawings)


def test_omniglot_rotated_has_four_times_the_classes(tmp_path):
    write_omniglot(tmp_path)
    upright, rotated = read_omniglot(tmp_path, 20), open_source("omniglot-rotated", tmp_path, 20)
    assert [len(rotated.classes(split)) for split in SPLITS] == [200, 40, 160]
    for quarters in range(4):
        expected = np.rot90(upright.images("train", 2), quarters, axes=(2, 3))
        np.testing.assert_array_equal(rotated.images("train", 8 + quarters), expected)


@pytest.mark.parametrize(
    "name", ["../../evil.png", "/evil.png", "a/../../b/evil.png", "..\\..\\evil.png", "C:\\evil.png"]
)
def test_zip_members_with_unsafe_paths_are_refused(tmp_path, name):
    write_omniglot(tmp_path)
    with zipfile.ZipFile(tmp_path / "images_background.zip", "a") as archive:
        archive.writestr(name, png(np.zeros((20, 20), np.uint8)))
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(ValueError, match=r"is refused: its member .* has an unsafe path"):
        read_omniglot(tmp_path, 20)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_zip_bombs_and_damaged_archives_are_refused(tmp_path):
    write_omniglot(tmp_path)
    valid = (tmp_path / "images_evaluation.zip").read_bytes()
    for damaged in (valid[: len(valid) // 2], b"", valid.replace(b"IDAT", b"IDAX", 3), b"x" * 100):
        (tmp_path / "images_evaluation.zip").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"images_evaluation\.zip.* is damaged"):
            read_omniglot(tmp_path, 20)
    with zipfile.ZipFile(tmp_path / "images_evaluation.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images_evaluation/a/b/bomb.png", bytes(2**25 + 1))
    with pytest.raises(ValueError, match=r"refused.*bomb\.png' must have at most 33554432 bytes, got 33554433"):
        read_omniglot(tmp_path, 20)
    with zipfile.ZipFile(tmp_path / "images_evaluation.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ValueError, match=r"must have the 20 alphabets .* got 0 alphabets"):
        read_omniglot(tmp_path, 20)


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_members_with_a_false_size_are_not_unpacked(tmp_path, compression):
    """The member has 2^28 bytes, and the archive claims one thousand."""
    write_omniglot(tmp_path)
    path = tmp_path / "images_evaluation.zip"
    with (
        zipfile.ZipFile(path, "w", compression) as archive,
        archive.open("images_evaluation/a/b/bomb.png", "w") as member,
    ):
        for _ in range(2**6):
            member.write(bytes(2**22))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 2**28), struct.pack("<I", 1000)))
    assert len(data) < 2**20
    assert path.read_bytes() != data
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"images_evaluation\.zip is (refused|damaged)"):
            read_omniglot(tmp_path, 20)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("read", [read_omniglot, read_folder])
def test_large_or_irregular_image_files_are_refused(tmp_path, read):
    if read is read_omniglot:
        write_omniglot(tmp_path)
        unpack(tmp_path)
    else:
        write_folders(tmp_path)
    file = min(tmp_path.rglob("*.png"))
    file.unlink()
    with file.open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(ValueError, match=r"\.png is refused: it must have at most 33554432 bytes, got 1099511627776"):
        read(tmp_path, 20)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match=r"\.png is refused: it is not a regular file"):
        read(tmp_path, 20)


def test_hidden_files_are_skipped(tmp_path):
    write_omniglot(tmp_path)
    with zipfile.ZipFile(tmp_path / "images_background.zip", "a") as archive:
        for name in ("__MACOSX/ba0/character01/x.png", "images_background/ba0/character01/._0.png", ".git/a/b/c.png"):
            archive.writestr(name, b"not an image")
    packed = read_omniglot(tmp_path, 20)
    unpack(tmp_path)
    unpacked = read_omniglot(tmp_path, 20)
    assert packed.classes("train") == unpacked.classes("train")
    assert packed.counts("train").tolist() == unpacked.counts("train").tolist() == [4] * 50

    write_folders(tmp_path / "own")
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (tmp_path / "own" / "train" / name).mkdir()
    (tmp_path / "own" / "train" / "train-0" / "._0.png").write_bytes(b"not an image")
    (tmp_path / "own" / "train" / "train-0" / "notes.txt").write_bytes(b"not an image")
    assert read_folder(tmp_path / "own", 12).counts("train").tolist() == [4] * 5


def test_incomplete_folders_and_archives_of_omniglot_are_refused(tmp_path):
    write_omniglot(tmp_path)
    unpack(tmp_path)
    shutil.rmtree(tmp_path / "images_background" / "ba7")
    with pytest.raises(
        ValueError, match=r"images_background in .* must have the 30 alphabets of https.*, got 29 alphabets"
    ):
        read_omniglot(tmp_path, 20)
    write_omniglot(tmp_path, alphabets=(30, 19))
    shutil.rmtree(tmp_path / "images_evaluation")
    with pytest.raises(ValueError, match=r"images_evaluation in .* must have the 20 alphabets of .*, got 19 alphabets"):
        read_omniglot(tmp_path, 20)


def test_archives_are_read_if_their_folders_are_empty_or_incomplete(tmp_path, monkeypatch):
    write_omniglot(tmp_path)
    (tmp_path / "images_background").mkdir()
    assert len(read_omniglot(tmp_path, 20).classes("train")) == 50
    unpack(tmp_path)
    shutil.rmtree(tmp_path / "images_background" / "ba7")
    fetched = []
    monkeypatch.setattr(omniglot, "download", lambda remote, path: fetched.append(remote.name))
    omniglot.fetch_omniglot(tmp_path)
    assert fetched == ["images_background.zip"]
    write_omniglot(tmp_path)
    assert len(read_omniglot(tmp_path, 20).classes("train")) == 50
    values = cifar_100()
    write_cifar_100(tmp_path, values)
    (tmp_path / "cifar-100-python").mkdir()
    assert_is_cifar(read_cifar_fs(tmp_path, 32), values)


def unpack(folder):
    for archive in list(folder.glob("*.zip")):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
        archive.unlink()


# CIFAR-FS


def assert_is_cifar(source, values):
    assert [len(source.classes(split)) for split in SPLITS] == [64, 16, 20]
    assert source.counts("train").tolist() == [6] * 64
    name = class_lists()["test"][3]
    label = cifar_names().index(name)
    expected = [
        pixels.reshape(3, 32, 32)
        for file in ("train", "test")
        for pixels, image_label in zip(values[file][b"data"], values[file][b"fine_labels"], strict=True)
        if image_label == label
    ]
    assert source.classes("test")[3] == name
    np.testing.assert_array_equal(source.images("test", 3), expected)


@pytest.mark.parametrize("unpacked", [False, True])
def test_cifar_fs_is_read_from_the_original_archive(tmp_path, unpacked):
    values = cifar_100()
    write_cifar_100(tmp_path, values)
    if unpacked:
        (tmp_path / "cifar-100-python").mkdir()
        for name, value in values.items():
            (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps(value, protocol=2))
        (tmp_path / "cifar-100-python.tar.gz").unlink()
    assert_is_cifar(read_cifar_fs(tmp_path, 32), values)


def test_cifar_fs_class_lists_are_disjoint():
    lists = class_lists()
    assert {split: len(names) for split, names in lists.items()} == {"train": 64, "validation": 16, "test": 20}
    assert len({name for names in lists.values() for name in names}) == 100


READERS = [(read_cifar_fs, cifar_fs.PICKLES, 32), (read_mini_imagenet, mini_imagenet.PICKLES, 84)]


@pytest.mark.parametrize(("read", "names", "size"), READERS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_few_shot_pickles_are_read(tmp_path, read, names, size, protocol):
    data, labels = write_pickles(tmp_path, names.values(), size=size, protocol=protocol)
    source = read(tmp_path, size)
    assert [len(source.classes(split)) for split in SPLITS] == [6, 5, 5]
    assert source.classes("train") == tuple(f"train/{label}" for label in range(6))
    expected = data[np.array(labels) == 4].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(source.images("train", 4), expected)
    assert read(tmp_path, 10).image_shape == (3, 10, 10)
    # Python 2 writes the keys as bytes.
    (tmp_path / names["train"]).write_bytes(pickle.dumps({b"data": data, b"labels": labels}, protocol))
    np.testing.assert_array_equal(read(tmp_path, size).images("train", 4), expected)


def nested_lists(levels):
    """Return a list that contains the same list twice, and so on: for numpy it has 2^levels items."""
    value = [0, 0]
    for _ in range(levels - 15):
        value = [value, value]
    return value


@pytest.mark.parametrize(("read", "names", "size"), READERS)
def test_invalid_few_shot_pickles_are_refused(tmp_path, read, names, size):
    valid, _ = write_pickles(tmp_path, names.values(), size=size)
    invalid = [
        ([1], "must hold a dict with 'data' and 'labels', got list"),
        (valid, "must hold a dict with 'data' and 'labels', got ndarray"),
        ({}, r"got \[\]"),
        ({"image_data": valid}, r"got \['image_data'\]"),
        ({"data": valid[..., :2], "labels": [0] * len(valid)}, r"uint8 \[N, H, W, 3\], got uint8"),
        ({"data": valid / 255, "labels": [0] * len(valid)}, "got float64"),
        ({"data": [1], "labels": [0]}, "got list"),
        ({"data": valid, "labels": [0]}, f"for each of {len(valid)} images, got int64 \\(1,\\)"),
        ({"data": valid, "labels": [[0], [1, 2]]}, "for each of"),
        ({"data": valid, "labels": {"a": 1}}, "for each of"),
        ({"data": valid, "labels": nested_lists(40)}, "for each of"),
    ]
    for value, named in invalid:
        (tmp_path / names["train"]).write_bytes(pickle.dumps(value))
        with pytest.raises(ValueError, match=named):
            read(tmp_path, size)
    (tmp_path / names["train"]).write_bytes((tmp_path / names["test"]).read_bytes())
    with pytest.raises(ValueError, match="overlap: test and train share 25 images"):
        read(tmp_path, size)


def test_invalid_cifar_archives_are_refused(tmp_path):
    values = cifar_100()
    meta = {b"fine_label_names": [*values["meta"][b"fine_label_names"][:99], b"unicorn"]}
    invalid = [
        ({"train": b"junk"}, r"tar\.gz:cifar-100-python/train is damaged"),
        ({"meta": pickle.dumps(print)}, r"refused.*it refers to builtins\.print"),
        ({"meta": pickle.dumps(meta)}, "must have 100 classes, but lacks"),
        ({"test": pickle.dumps({b"data": np.zeros((2, 3), np.uint8), b"fine_labels": [0, 1]})}, "must have"),
        ({"test": pickle.dumps([])}, r"data uint8 \[N, 3072\]"),
        ({"test": pickle.dumps({b"data": values["test"][b"data"][:3], b"fine_labels": [0]})}, "for 501 labels"),
    ]
    for members, named in invalid:
        write_cifar_100(tmp_path, values, **members)
        with pytest.raises(ValueError, match=named):
            read_cifar_fs(tmp_path, 32)
    write_cifar_100(tmp_path, values)
    valid = (tmp_path / "cifar-100-python.tar.gz").read_bytes()
    middle = len(valid) // 2
    for damaged in (valid[: len(valid) // 3], valid[:middle] + b"xxxx" + valid[middle + 4 :], b"x"):
        (tmp_path / "cifar-100-python.tar.gz").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"tar\.gz(:\S+)? is damaged"):
            read_cifar_fs(tmp_path, 32)
    write_cifar_100(tmp_path, {**values, "train": {**values["train"], b"fine_labels": nested_lists(40)}})
    with pytest.raises(ValueError, match="must have fine_label_names"):
        read_cifar_fs(tmp_path, 32)
    write_cifar_100(tmp_path, {"meta": values["meta"], "train": values["train"]})
    with pytest.raises(ValueError, match="cifar-100-python/test"):
        read_cifar_fs(tmp_path, 32)


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (tarfile.REGTYPE, "'cifar-100-python/meta' is not a file of the expected size"),
        (tarfile.XHDTYPE, "refused: one of its headers claims 268435456 bytes"),
        (tarfile.GNUTYPE_LONGNAME, "refused: one of its headers claims 268435456 bytes"),
        (tarfile.SYMTYPE, "'cifar-100-python/meta' is not a file of the expected size"),
    ],
)
def test_large_tar_members_and_headers_are_not_unpacked(tmp_path, kind, named):
    member = tarfile.TarInfo("cifar-100-python/meta")
    member.size, member.type = 2**28, kind
    with gzip.open(tmp_path / "cifar-100-python.tar.gz", "wb", compresslevel=1) as archive:
        archive.write(member.tobuf())
        for _ in range(2**6):
            archive.write(bytes(2**22))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=named):
            read_cifar_fs(tmp_path, 32)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


# User's own images


def test_image_folders_are_read(tmp_path):
    write_folders(tmp_path)
    source = read_folder(tmp_path, 12)
    assert [len(source.classes(split)) for split in SPLITS] == [5, 5, 5]
    assert source.image_shape == (1, 12, 12)
    assert source.classes("validation")[1] == "val-1"
    assert read_mini_imagenet(tmp_path, 16).name == "mini-imagenet"
    from PIL import Image

    colours = random_images(np.random.default_rng(5), 12, 12, 3)
    Image.fromarray(colours).save(tmp_path / "train" / "train-0" / "0.png")
    coloured = read_folder(tmp_path, 12)
    assert coloured.image_shape == (3, 12, 12)
    np.testing.assert_array_equal(coloured.images("train", 0)[0], colours.transpose(2, 0, 1))
    assert (coloured.images("train", 0)[1] == source.images("train", 0)[1]).all()


def test_grey_and_colour_images_of_a_class_are_mixed_in_any_order(tmp_path):
    write_folders(tmp_path)
    grey = read_folder(tmp_path, 12).images("train", 0)
    colours = random_images(np.random.default_rng(5), 12, 12, 3)
    save(tmp_path / "train" / "train-0" / "3.png", colours)
    images = read_folder(tmp_path, 12).images("train", 0)
    np.testing.assert_array_equal(images[3], colours.transpose(2, 0, 1))
    np.testing.assert_array_equal(images[:3], grey[:3].repeat(3, axis=1))


def save(path, pixels, **options):
    from PIL import Image

    Image.fromarray(pixels).save(path, **options)


def decoded(path):
    return decode(path.read_bytes(), path.name)


def test_16_bit_grey_is_scaled_to_8_bits(tmp_path):
    grey = np.arange(0, 2**16, 2**16 // 64, dtype=np.uint16).reshape(8, 8)
    save(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(decoded(tmp_path / "grey.png"), np.rint(grey[None] / 257))


def test_transparent_pixels_are_blended_with_black(tmp_path):
    colours = random_images(np.random.default_rng(0), 6, 6, 4)
    colours[0, :, 3], colours[1, :, 3] = 0, 255
    expected = np.rint(colours[..., :3] * (colours[..., 3:] / 255))
    for name in ("it.png", "it.webp"):
        save(tmp_path / name, colours, lossless=True, exact=True)
        pixels = decoded(tmp_path / name).transpose(1, 2, 0)
        np.testing.assert_array_equal(pixels[1], colours[1, :, :3])
        assert not pixels[0].any()
        np.testing.assert_allclose(pixels, expected, atol=1)
    grey = random_images(np.random.default_rng(1), 6, 6, 2)
    grey[0, :, 1] = 0
    save(tmp_path / "grey.png", grey)
    assert decoded(tmp_path / "grey.png").shape == (1, 6, 6)
    assert not decoded(tmp_path / "grey.png")[0, 0].any()


def test_images_with_a_palette_of_greys_are_grey(tmp_path):
    from PIL import Image

    grey = random_images(np.random.default_rng(0), 6, 6)
    colour = np.stack([grey, grey, 255 - grey], axis=-1)
    for name in ("p.png", "p.gif"):
        Image.fromarray(grey).convert("P").save(tmp_path / name)
        np.testing.assert_array_equal(decoded(tmp_path / name), grey[None])
        Image.fromarray(colour).quantize(256).save(tmp_path / name)
        assert len(decoded(tmp_path / name)) == 3
    # One colour of the palette is transparent.
    Image.fromarray(np.minimum(grey, 99)).convert("P").save(tmp_path / "p.png", transparency=99)
    np.testing.assert_array_equal(decoded(tmp_path / "p.png")[0], np.where(grey < 99, grey, 0))


def test_exif_orientation_is_applied(tmp_path):
    from PIL import Image

    grey = np.repeat(np.array([[0, 80, 160], [240, 120, 40]], dtype=np.uint8), 16, axis=0).repeat(16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    Image.fromarray(grey).save(tmp_path / "it.png", exif=exif)
    np.testing.assert_array_equal(decoded(tmp_path / "it.png")[0], np.rot90(grey, -1))


def test_first_frame_of_an_animation_is_read(tmp_path):
    from PIL import Image

    frames = [Image.fromarray(pixels) for pixels in random_images(np.random.default_rng(0), 3, 6, 6)]
    frames[0].save(tmp_path / "it.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded(tmp_path / "it.gif")[0], np.asarray(frames[0]))


def test_other_image_formats_are_refused():
    """Pillow supports many formats and runs external programs for some of them."""
    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (6, 6)).save(data, "EPS")
    with pytest.raises(ValueError, match=r"it\.png is damaged, too large or not an image"):
        decode(data.getvalue(), "it.png")
    data = io.BytesIO()
    Image.new("RGB", (6, 6)).save(data, "TIFF")
    with pytest.raises(ValueError, match=r"it\.png is damaged, too large or not an image"):
        decode(data.getvalue(), "it.png")


def test_invalid_image_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="needs folders train, validation"):
        read_folder(tmp_path, 12)
    write_folders(tmp_path, splits=("train", "test"))
    (tmp_path / "train" / "train-0" / "0.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"0\.png is damaged"):
        read_folder(tmp_path, 12)
    (tmp_path / "train" / "train-0" / "0.png").unlink()
    (tmp_path / "test" / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has none"):
        read_folder(tmp_path, 12)
    (tmp_path / "test" / "empty").rmdir()
    (tmp_path / "test" / "test-0").rename(tmp_path / "test" / "train-0")
    with pytest.raises(ValueError, match="overlap: class 'train-0'"):
        read_folder(tmp_path, 12)
    write_folders(tmp_path, splits=("validation", "val"))
    for read in (read_folder, read_mini_imagenet):
        with pytest.raises(ValueError, match="must have one of the folders 'validation' and 'val', got both"):
            read(tmp_path, 12)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_npz_files_are_read(tmp_path, channels):
    rng = np.random.default_rng(0)
    images = random_images(rng, 12, 9, 9, *channels)
    labels = np.tile(["a", "b", "c"], 4)
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=labels)
    source = open_source("folder", tmp_path / "own.npz", 9)
    assert source.classes("train") == ("train/a", "train/b", "train/c")
    expected = images[1::3].reshape(4, 9, 9, -1).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(source.images("train", 1), expected)
    with pytest.raises(ValueError, match="split of folder must be one of train, got 'test'"):
        source.counts("test")
    np.savez(tmp_path / "own.npz", val_images=images, val_labels=labels)
    validation = open_source("folder", tmp_path / "own.npz", 9)
    assert validation.classes("validation") == ("validation/a", "validation/b", "validation/c")
    np.testing.assert_array_equal(validation.images("validation", 1), expected)


def test_invalid_npz_files_are_refused(tmp_path):
    path = tmp_path / "own.npz"
    images = random_images(np.random.default_rng(0), 4, 9, 9)
    invalid = [
        ({"train_images": images}, ValueError, "both train_images and train_labels"),
        ({"images": images}, FileNotFoundError, r"must have train_images.*\['images'\]"),
        ({"val_labels": [0] * 4}, ValueError, "both val_images and val_labels"),
        (
            {f"{name}_{kind}": images for name in ("validation", "val") for kind in ("images", "labels")},
            ValueError,
            "must have one of the splits 'validation' and 'val', got both",
        ),
        ({"train_images": images / 2, "train_labels": [0] * 4}, ValueError, "got float64"),
        ({"train_images": images[0], "train_labels": [0] * 4}, ValueError, r"\(9, 9\)"),
        ({"train_images": images, "train_labels": np.array([print] * 4)}, ValueError, "refused"),
    ]
    for arrays, error, named in invalid:
        np.savez(path, **arrays)
        with pytest.raises(error, match=named):
            read_folder(path, 9)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged"):
        read_folder(path, 9)
    with path.open("wb") as file:
        np.save(file, images)
    with pytest.raises(ValueError, match=r"own\.npz is damaged or not a zip archive"):
        read_folder(path, 9)
    os.remove(path)
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"own\.npz is refused: it is not a regular file"):
        read_folder(path, 9)
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        read_folder(tmp_path / "none.npz", 9)


def npy(header, data=b""):
    """Return a .npy file with this header."""
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "member",
    [
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4398046511104,), }\n"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (True,), }\n", b"x"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -3), }\n", b"xxx"),
        npy("{'descr': '|V0', 'fortran_order': False, 'shape': (9,), }\n"),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"12345678"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }\n", b"x"),
        npy("[]\n"),
        npy("(" * 9000),
        b"\x93NUMPY\x07\x00",
        b"x",
    ],
    ids=range(10),
)
def test_npy_headers_that_do_not_match_the_data_are_refused(tmp_path, member):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", member)
        archive.writestr("train_labels.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (0,), }\n"))
    with pytest.raises(ValueError, match=r"own\.npz:train_images is damaged, refused or not an array"):
        read_folder(path, 9)


def test_encrypted_and_large_npz_members_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "own.npz"
    images = random_images(np.random.default_rng(0), 4, 9, 9)
    np.savez(path, train_images=images, train_labels=[0] * 4)
    data = bytearray(path.read_bytes())
    # Set the encryption flag in the central directory and in the member's header.
    for offset in (data.index(b"PK\x01\x02") + 8, 6):
        data[offset] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"own\.npz is damaged or refused: .*(encrypted|password)"):
        read_folder(path, 9)
    np.savez(path, train_images=images, train_labels=[0] * 4)
    monkeypatch.setattr(folder, "_MAX_ARRAY_SIZE", 400)
    with pytest.raises(ValueError, match=r"its member 'train_images\.npy' must have at most 400 bytes, got \d+"):
        read_folder(path, 9)


def test_npz_arrays_in_fortran_order_and_with_other_dtypes_are_read(tmp_path):
    images = random_images(np.random.default_rng(0), 4, 9, 8)
    labels = np.array([0, 1, 0, 1], dtype=">i2")
    np.savez_compressed(tmp_path / "own.npz", train_images=np.asfortranarray(images), train_labels=labels, other=print)
    source = read_folder(tmp_path / "own.npz", 9)
    np.testing.assert_array_equal(source.images("train", 1), resize(images[1::2, None], 9))


# open_source


def test_open_source_caches_sources(tmp_path, monkeypatch):
    assert open_source("glyphs") is open_source("glyphs", "", 28)
    write_folders(tmp_path / "own")
    source = open_source("folder", tmp_path / "own", 12)
    assert open_source("folder", f"{tmp_path}/own/", 12) is source
    monkeypatch.chdir(tmp_path)
    assert open_source("folder", "own", 12) is source
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source("folder", "~/own", 12) is source
    assert open_source("folder", "own", 13) is not source


def test_download_does_not_change_the_cached_source(tmp_path, monkeypatch):
    write_omniglot(tmp_path)
    for archive, remote in omniglot.REMOTES.items():
        md5 = hashlib.md5((tmp_path / remote.name).read_bytes()).hexdigest()
        monkeypatch.setitem(omniglot.REMOTES, archive, replace(remote, md5=md5))
    assert open_source("omniglot", tmp_path, 20) is open_source("omniglot", tmp_path, 20, download=True)


def test_a_missing_home_directory_is_named(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("PLASTIC_ENVS_DATA", raising=False)
    with pytest.raises(ValueError, match="path or the environment variable PLASTIC_ENVS_DATA must give a folder"):
        open_source("omniglot", "", 20)


def test_changed_files_are_read_again(tmp_path, monkeypatch):
    """A file can change in place, or the working directory or environment variable can refer to another folder."""
    monkeypatch.setenv("PLASTIC_ENVS_DATA", str(tmp_path / "data_a"))
    for seed, name in enumerate(("data_a", "data_b")):
        (tmp_path / name / "omniglot").mkdir(parents=True)
        write_omniglot(tmp_path / name / "omniglot", drawings=4 + seed)
    source = open_source("omniglot", "", 20)
    assert source.counts("train")[0] == 4
    assert open_source("omniglot", "", 20) is source
    monkeypatch.setenv("PLASTIC_ENVS_DATA", str(tmp_path / "data_b"))
    assert open_source("omniglot", "", 20).counts("train")[0] == 5
    for name, number in (("data_a", 4), ("data_b", 5)):
        monkeypatch.chdir(tmp_path / name)
        assert open_source("omniglot", "omniglot", 20).counts("train")[0] == number
    write_omniglot(tmp_path / "data_a" / "omniglot", drawings=6)
    assert open_source("omniglot", tmp_path / "data_a" / "omniglot", 20).counts("train")[0] == 6

    write_folders(tmp_path / "own")
    before = open_source("folder", tmp_path / "own", 12).images("train", 0)
    file = tmp_path / "own" / "train" / "train-0" / "2.png"
    file.write_bytes(png(255 - before[2, 0]))
    after = open_source("folder", tmp_path / "own", 12).images("train", 0)
    np.testing.assert_array_equal(after[2], 255 - before[2])
    file.unlink()
    assert open_source("folder", tmp_path / "own", 12).counts("train")[0] == 3
    (tmp_path / "own" / "train" / "train-0" / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"link\.png"):
        open_source("folder", tmp_path / "own", 12)


def test_changed_files_in_linked_folders_are_read_again(tmp_path):
    write_folders(tmp_path / "own")
    (tmp_path / "own" / "train" / "train-0").rename(tmp_path / "elsewhere")
    (tmp_path / "own" / "train" / "train-0").symlink_to(tmp_path / "elsewhere")
    # A loop of links does not matter.
    (tmp_path / "own" / "train" / ".loop").symlink_to(tmp_path / "own")
    source = open_source("folder", tmp_path / "own", 12)
    assert source.counts("train")[0] == 4
    assert open_source("folder", tmp_path / "own", 12) is source
    (tmp_path / "elsewhere" / "3.png").unlink()
    assert open_source("folder", tmp_path / "own", 12).counts("train")[0] == 3


def test_error_about_missing_files_has_their_urls(tmp_path, monkeypatch):
    monkeypatch.setenv("PLASTIC_ENVS_DATA", str(tmp_path))
    for name, named in {
        "omniglot": rf"{tmp_path}/omniglot/images_background\.zip.*https://raw\.githubusercontent\.com/brendenlake",
        "omniglot-rotated": rf"{tmp_path}/omniglot/",
        "cifar-fs": rf"{tmp_path}/cifar-fs/cifar-100-python\.tar\.gz .*cs\.toronto\.edu.*CIFAR_FS_val\.pickle",
        "mini-imagenet": r"lacks miniImageNet_category_split_train_phase_train\.pickle.*https://github\.com/kjunelee",
    }.items():
        with pytest.raises(FileNotFoundError, match=named):
            open_source(name)


def test_open_source_refuses_invalid_arguments(tmp_path):
    for arguments, error, named in (
        (("mnist",), ValueError, "source must be one of glyphs, omniglot, .*got 'mnist'"),
        ((np.zeros(3),), TypeError, "source must be one of glyphs, .*got array"),
        (("glyphs", "", 257), ValueError, "image_size must be between 8 and 256, got 257"),
        (("folder", tmp_path, 2049), ValueError, "image_size must be between 8 and 2048, got 2049"),
        (("glyphs", "/x"), ValueError, "path and download must be left out for glyphs"),
        (("glyphs", "", 28, True), ValueError, "left out for glyphs"),
        (("folder",), ValueError, "path must be the folder or .npz file"),
        (("folder", tmp_path, 28, True), ValueError, "download must be False for folder"),
        (("mini-imagenet", tmp_path, 84, True), ValueError, "download must be False.*MetaOptNet"),
        (("glyphs", 3), TypeError, "path must be a str or a path, got 3"),
        (("glyphs", "", 4), ValueError, "image_size must be between 8 and"),
        (("glyphs", "", 28, 1), TypeError, "download must be True or False"),
    ):
        with pytest.raises(error, match=named):
            open_source(*arguments)


def test_invalid_paths_are_named(tmp_path, monkeypatch):
    file = tmp_path / "file.txt"
    file.touch()
    for name, path, error, named in (
        ("omniglot", file, ValueError, rf"path must be a folder, got the file '{file}'"),
        ("folder", file, ValueError, rf"path must be a folder or a \.npz file, got the file '{file}'"),
        (
            "folder",
            "/nowhere/x",
            FileNotFoundError,
            r"path must be a folder or a \.npz file that exists, got '/nowhere/x'",
        ),
        ("folder", "none.npz", FileNotFoundError, r"path must be a folder or a \.npz file that exists, got 'none.npz'"),
        ("omniglot", "~no-such-user/x", ValueError, "path must be a folder, got '~no-such-user/x': .*home directory"),
        ("cifar-fs", "a\0b", ValueError, r"path must be a folder, got 'a\\x00b': .*null"),
        ("omniglot", "a" * 300, ValueError, "path must be a folder, got 'aaa.*name too long"),
    ):
        for download in {False, name in ("omniglot", "cifar-fs")}:
            with pytest.raises(error, match=named):
                open_source(name, path, 20, download)
    monkeypatch.setenv("PLASTIC_ENVS_DATA", "~no-such-user")
    with pytest.raises(ValueError, match="variable PLASTIC_ENVS_DATA must give a folder, got '~no-such-user'"):
        open_source("omniglot")


def test_download_skips_existing_files(tmp_path, monkeypatch):
    """Unpacked files and pickles are read; an archive with another checksum is refused."""
    values = cifar_100()
    write_cifar_100(tmp_path, values)
    with pytest.raises(
        ValueError, match=r"checksum \(md5\) of .*cifar-100-python\.tar\.gz must be .*leave out download"
    ):
        open_source("cifar-fs", tmp_path, 32, download=True)
    assert_is_cifar(open_source("cifar-fs", tmp_path, 32), values)
    (tmp_path / "cifar-100-python").mkdir()
    for name, value in values.items():
        (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps(value, protocol=2))
    assert_is_cifar(open_source("cifar-fs", tmp_path, 32, download=True), values)
    write_omniglot(tmp_path)
    unpack(tmp_path)
    assert len(open_source("omniglot", tmp_path, 20, download=True).classes("train")) == 50


def test_download_error_describes_all_mirrors(tmp_path, monkeypatch):
    unreachable = ["http://127.0.0.1:9/a", "http://127.0.0.1:9/b"]
    monkeypatch.setattr(cifar_fs, "REMOTE", replace(cifar_fs.REMOTE, urls=unreachable))
    with pytest.raises(ConnectionError, match=r"(?s)9/a: .*9/b: "):
        open_source("cifar-fs", tmp_path, 32, download=True)
    remote = omniglot.REMOTES["images_background"]
    monkeypatch.setitem(omniglot.REMOTES, "images_background", replace(remote, urls=unreachable))
    with pytest.raises(ConnectionError, match=r"images_background\.zip could not be downloaded"):
        open_source("omniglot", tmp_path, 20, download=True)
