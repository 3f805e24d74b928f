"""The interface of all sources of labelled images, and `ArraySource`, which holds images in memory.

Shape letters: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np

from plastic_envs.task import Array
from plastic_envs.validation import one_of, whole_number

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

# Large collections have a few duplicates by accident; splits that share a larger fraction of images overlap.
_MAX_SHARED_FRACTION = 0.01


class ImageSource(ABC):
    """Labelled images, divided into splits that share no classes.

    Attributes:
        name: the name of the source.
        image_shape: C, H and W of every image. FewShotClassification needs square images, so H must equal W there.
    """

    name: str
    image_shape: tuple[int, int, int]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, image_shape={self.image_shape})"

    @abstractmethod
    def counts(self, split: str) -> Array:
        """Return the number of images of each class of a split: int64 [number of classes].

        Raises:
            ValueError: the source has no such split.
        """

    @abstractmethod
    def classes(self, split: str) -> tuple[str, ...]:
        """Return the names of the classes of a split, in the order of `counts`.

        Raises:
            ValueError: the source has no such split.
        """

    @abstractmethod
    def gather(self, split: str, classes: Array, indices: Array) -> Array:
        """Return images as a new array, which the caller may write to.

        Args:
            split: one of the source's splits.
            classes: int64 [...], indices of classes within the split.
            indices: int64 [...], indices of images within their classes.

        Returns:
            uint8 [..., C, H, W].

        Raises:
            TypeError: an index is not a whole number.
            ValueError: the source has no such split, class or image.
        """

    def images(self, split: str, class_index: int) -> Array:
        """Return all images of a class: uint8 [N, C, H, W].

        Raises:
            TypeError: `class_index` is not a whole number.
            ValueError: the source has no such split or class.
        """
        counts = self.counts(split)
        class_index = whole_number("class_index", class_index, at_least=0, at_most=len(counts) - 1)
        indices = np.arange(counts[class_index])
        return self.gather(split, np.full_like(indices, class_index), indices)


class ArraySource(ImageSource):
    """Images in memory.

    Args:
        name: the name of the source.
        splits: for each split, a dict from the names of its classes to their images, uint8 [N, C, H, W]. All images
            have the same shape.

    Raises:
        TypeError: `splits` is not a dict of dicts of arrays.
        ValueError: a split is unknown or empty, an array has another shape or dtype, or splits overlap: they have a
            class name in common, or more than 1 % of their images.
    """

    def __init__(self, name: str, splits: Mapping[str, Mapping[str, Array]]) -> None:
        self.name = name
        if not isinstance(splits, Mapping) or not all(isinstance(classes, Mapping) for classes in splits.values()):
            raise TypeError(f"splits of {name} must be a dict of dicts of arrays, got {_type_name(splits)}")
        unknown = [split for split in splits if split not in SPLITS]
        if unknown or not splits:
            raise ValueError(f"splits of {name} must be some of {', '.join(SPLITS)}, got {unknown or 'none'}")
        self.image_shape = _common_shape(name, splits)
        _check_distinct_names(name, splits)
        self._classes = {split: tuple(classes) for split, classes in splits.items()}
        self._counts = {split: np.array([*map(len, classes.values())]) for split, classes in splits.items()}
        self._starts = {split: np.cumsum(counts) - counts for split, counts in self._counts.items()}
        # C order, whatever the order of the arguments, makes each image contiguous in memory.
        self._images = {
            split: np.ascontiguousarray(np.concatenate([*classes.values()])) for split, classes in splits.items()
        }
        _check_distinct_images(name, self._images)

    def counts(self, split: str) -> Array:
        """See `ImageSource.counts`."""
        self._check(split)
        # A copy, because a caller may write to it, and `gather` needs these numbers.
        return self._counts[split].copy()

    def classes(self, split: str) -> tuple[str, ...]:
        """See `ImageSource.classes`."""
        self._check(split)
        return self._classes[split]

    def gather(self, split: str, classes: Array, indices: Array) -> Array:
        """See `ImageSource.gather`."""
        classes, indices = check_indices(self.counts(split), classes, indices)
        images: Array = self._images[split].take(self._starts[split].take(classes) + indices, axis=0)
        return images

    def _check(self, split: str) -> None:
        one_of(f"split of {self.name}", split, self._classes)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split}: {len(classes)} classes" for split, classes in self._classes.items())
        return f"ArraySource({self.name}: {sizes})"


def check_indices(counts: Array, classes: Any, indices: Any) -> tuple[Array, Array]:
    """Return indices of classes and of images within them as int64 arrays, with which no arithmetic overflows.

    Args:
        counts: the number of images of each class.
        classes: indices of classes, [...].
        indices: indices of images within their classes, [...].

    Raises:
        TypeError: an index is not a whole number.
        ValueError: an index is out of range.
    """
    classes, indices = np.asarray(classes), np.asarray(indices)
    if classes.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
        raise TypeError(f"classes and indices must be whole numbers, got {classes!r} and {indices!r}")
    is_class = (classes >= 0) & (classes < len(counts))
    # `take` does not accept uint64.
    n_images = counts.take(np.where(is_class, classes, 0).astype(np.int64))
    if not np.all(is_class & (indices >= 0) & (indices < n_images)):
        raise ValueError(
            f"classes must be less than {len(counts)}, and indices less than the number of images of their class, "
            f"got {classes!r} and {indices!r}"
        )
    return classes.astype(np.int64), indices.astype(np.int64)


def group_by_label(prefix: str, images: Array, labels: Any) -> dict[str, Array]:
    """Group images [N, ...] by label into classes named `prefix` + label, in the order of the sorted labels.

    Raises:
        ValueError: `labels` is not an array or list of N integers or strings.
    """
    array = as_label_array(labels)
    if array.shape != (len(images),) or array.dtype.kind not in "iuUS":
        raise ValueError(
            f"labels of {prefix} must be a whole number or a string for each of {len(images)} images, "
            f"got {array.dtype} {array.shape}"
        )
    unique_labels, inverse = np.unique(array, return_inverse=True)
    return {f"{prefix}{label}": images[inverse == index] for index, label in enumerate(unique_labels)}


def as_label_array(labels: Any) -> Array:
    """Return labels as an array; anything but an array or a list of integers and strings becomes an empty array."""
    if isinstance(labels, list | tuple) and all(isinstance(label, int | str | bytes | np.generic) for label in labels):
        return np.asarray(labels)
    # numpy needs exponential time for nested lists that contain the same lists repeatedly.
    return labels if isinstance(labels, np.ndarray) else np.empty(0, dtype=object)


def _common_shape(name: str, splits: Mapping[str, Mapping[str, Array]]) -> tuple[int, int, int]:
    shapes = {}
    for split, classes in splits.items():
        if not classes:
            raise ValueError(f"each split of {name} must have classes, {split!r} has none")
        for label, images in classes.items():
            if not isinstance(images, np.ndarray):
                raise TypeError(
                    f"images of {name} must be arrays, got {_type_name(images)} in class {label!r} of {split!r}"
                )
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
                raise ValueError(
                    f"images of {name} must be uint8 [N, C, H, W] with 1 or 3 channels, "
                    f"got {images.dtype} {images.shape} in class {label!r} of {split!r}"
                )
            shapes[images.shape[1:]] = (split, label)
    if len(shapes) > 1:
        examples = ", ".join(f"{shape} in class {label!r} of {split!r}" for shape, (split, label) in shapes.items())
        raise ValueError(f"images of {name} must have one shape [C, H, W], got {examples}")
    channels, height, width = next(iter(shapes))
    return channels, height, width


def _type_name(value: Any) -> str:
    return f"a {type(value).__name__}"


def _check_distinct_names(name: str, splits: Mapping[str, Mapping[str, Array]]) -> None:
    split_of: dict[str, str] = {}
    for split, classes in splits.items():
        for label in classes:
            if label in split_of:
                raise ValueError(
                    f"splits of {name} must not overlap: class {label!r} is in {split_of[label]} and {split}"
                )
            split_of[label] = split


def _check_distinct_images(name: str, images: Mapping[str, Array]) -> None:
    hashes = {
        split: {hashlib.blake2b(image, digest_size=8).digest() for image in array} for split, array in images.items()
    }
    for split_a, split_b in combinations(sorted(hashes), 2):
        n_shared = len(hashes[split_a] & hashes[split_b])
        if n_shared > _MAX_SHARED_FRACTION * min(len(hashes[split_a]), len(hashes[split_b])):
            raise ValueError(f"splits of {name} must not overlap: {split_a} and {split_b} share {n_shared} images")
