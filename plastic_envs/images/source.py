"""The one interface behind which all labelled images stand.

Shape letters: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from plastic_envs.task import Array
from plastic_envs.validation import one_of

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

# Large collections hold some images twice by accident; splits that share more than this part were not made apart.
_TOO_MANY_SHARED = 0.01


class ImageSource(ABC):
    """Images by class, and classes by split; no class is in two splits.

    Attributes:
        name: what the source is called.
        image_shape: C, H, W, the same for all images.
    """

    name: str
    image_shape: tuple[int, int, int]

    @abstractmethod
    def counts(self, split: str) -> Array:
        """How many images each class of a split has, int64 [number of classes].

        Raises:
            ValueError: there is no such split.
        """

    @abstractmethod
    def classes(self, split: str) -> tuple[str, ...]:
        """Names of the classes of a split, in the order of `counts`.

        Raises:
            ValueError: there is no such split.
        """

    @abstractmethod
    def gather(self, split: str, classes: Array, indices: Array) -> Array:
        """The chosen images, as an array of the caller's own.

        Args:
            split: one of the source's splits.
            classes: int64 [...], numbers of classes within the split.
            indices: int64 [...], numbers of images within their classes.

        Returns:
            uint8 [..., C, H, W].

        Raises:
            TypeError: the numbers are not whole ones.
            ValueError: there is no such split, class or image.
        """

    def images(self, split: str, number: int) -> Array:
        """All images of the class with this number, uint8 [N, C, H, W]."""
        indices = np.arange(self.counts(split)[number])
        return self.gather(split, np.full_like(indices, number), indices)


class ArraySource(ImageSource):
    """Images in memory.

    Args:
        name: what the source is called.
        splits: for each split its classes in order, by name: uint8 [N, C, H, W], with equal shapes throughout.

    Raises:
        TypeError: `splits` is no dict of dicts of arrays.
        ValueError: an unknown or empty split, arrays of other shapes or dtype, or splits that overlap: they name the
            same class, or share more than a hundredth of their images.
    """

    def __init__(self, name: str, splits: Mapping[str, Mapping[str, Array]]) -> None:
        self.name = name
        if not isinstance(splits, Mapping) or not all(isinstance(classes, Mapping) for classes in splits.values()):
            raise TypeError(f"splits of {name} must be a dict of dicts of arrays, got {_outline(splits)}")
        unknown = [split for split in splits if split not in SPLITS]
        if unknown or not splits:
            raise ValueError(f"splits of {name} must be some of {', '.join(SPLITS)}, got {unknown or 'none'}")
        self.image_shape = _common_shape(name, splits)
        _check_names_apart(name, splits)
        self._classes = {split: tuple(classes) for split, classes in splits.items()}
        self._counts = {split: np.array([len(each) for each in classes.values()]) for split, classes in splits.items()}
        self._starts = {split: np.cumsum(counts) - counts for split, counts in self._counts.items()}
        # In this order whatever theirs is, so that an image is one piece of memory.
        self._images = {
            split: np.ascontiguousarray(np.concatenate([*classes.values()])) for split, classes in splits.items()
        }
        _check_images_apart(name, self._images)

    def counts(self, split: str) -> Array:
        """See `ImageSource.counts`."""
        self._check(split)
        return self._counts[split]

    def classes(self, split: str) -> tuple[str, ...]:
        """See `ImageSource.classes`."""
        self._check(split)
        return self._classes[split]

    def gather(self, split: str, classes: Array, indices: Array) -> Array:
        """See `ImageSource.gather`."""
        classes, indices = numbers_of_images(self.counts(split), classes, indices)
        return self._images[split].take(self._starts[split].take(classes) + indices, axis=0)

    def _check(self, split: str) -> None:
        one_of(f"split of {self.name}", split, self._classes)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split}: {len(classes)} classes" for split, classes in self._classes.items())
        return f"ArraySource({self.name}: {sizes})"


def numbers_of_images(counts: Array, classes: Any, indices: Any) -> tuple[Array, Array]:
    """Return numbers of classes and of images within those as arrays of whole numbers.

    Raises:
        TypeError: they are not whole numbers.
        ValueError: there is no such class, or no such image of it; `counts` says how many each class has.
    """
    classes, indices = np.asarray(classes), np.asarray(indices)
    if classes.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
        raise TypeError(f"classes and indices must be whole numbers, got {classes!r} and {indices!r}")
    known = (classes >= 0) & (classes < len(counts))
    if not np.all(known & (indices >= 0) & (indices < counts.take(classes, mode="clip"))):
        raise ValueError(f"no such image, or no such class of {len(counts)}: classes {classes!r}, indices {indices!r}")
    return classes, indices


def by_label(prefix: str, images: Array, labels: Any) -> dict[str, Array]:
    """Part images [N, ...] by their labels, in the order of the sorted labels, into classes named `prefix` and label.

    Raises:
        ValueError: there are not as many labels, numbers or strings, as images.
    """
    array = label_array(labels)
    if array.shape != (len(images),) or array.dtype.kind not in "iuUS":
        raise ValueError(
            f"labels of {prefix} must be a whole number or a string for each of {len(images)} images, "
            f"got {array.dtype} {array.shape}"
        )
    keys, inverse = np.unique(array, return_inverse=True)
    return {f"{prefix}{key}": images[inverse == number] for number, key in enumerate(keys)}


def label_array(labels: Any) -> Array:
    """Return labels as an array, which is empty unless they are an array or a list of numbers and strings."""
    if isinstance(labels, list | tuple) and all(isinstance(label, int | str | bytes | np.generic) for label in labels):
        return np.asarray(labels)
    # numpy would need exponential time for lists that hold the same lists again and again.
    return labels if isinstance(labels, np.ndarray) else np.empty(0, dtype=object)


def _common_shape(name: str, splits: Mapping[str, Mapping[str, Array]]) -> tuple[int, int, int]:
    shapes = {}
    for split, classes in splits.items():
        if not classes:
            raise ValueError(f"each split of {name} must have classes, {split!r} has none")
        for label, images in classes.items():
            if not isinstance(images, np.ndarray):
                raise TypeError(
                    f"images of {name} must be arrays, got {_outline(images)} in class {label!r} of {split!r}"
                )
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
                raise ValueError(
                    f"images of {name} must be uint8 [N, C, H, W] with 1 or 3 channels, "
                    f"got {images.dtype} {images.shape} in class {label!r} of {split!r}"
                )
            shapes[images.shape[1:]] = (split, label)
    if len(shapes) > 1:
        found = ", ".join(f"{shape} in class {label!r} of {split!r}" for shape, (split, label) in shapes.items())
        raise ValueError(f"images of {name} must have one shape [C, H, W], got {found}")
    channels, height, width = next(iter(shapes))
    return channels, height, width


def _outline(value: Any) -> str:
    return f"a {type(value).__name__}"


def _check_names_apart(name: str, splits: Mapping[str, Mapping[str, Array]]) -> None:
    seen: dict[str, str] = {}
    for split, classes in splits.items():
        for label in classes:
            if label in seen:
                raise ValueError(f"splits of {name} must not overlap: class {label!r} is in {seen[label]} and {split}")
            seen[label] = split


def _check_images_apart(name: str, images: Mapping[str, Array]) -> None:
    prints = {
        split: {hashlib.blake2b(image, digest_size=8).digest() for image in stack} for split, stack in images.items()
    }
    for split, ours in prints.items():
        for other, theirs in prints.items():
            shared = len(ours & theirs)
            if split < other and shared > _TOO_MANY_SHARED * min(len(ours), len(theirs)):
                raise ValueError(f"splits of {name} must not overlap: {split} and {other} share {shared} images")
