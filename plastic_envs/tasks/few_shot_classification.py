"""FewShotClassification: tell apart classes of images that were never seen before."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from gymnasium import spaces

from plastic_envs.images import ImageSource, open_source
from plastic_envs.images.augmentation import AUGMENTATIONS, Augmentation
from plastic_envs.task import Array, Draws, EpisodeBatch, Task
from plastic_envs.validation import flag, one_of, whole_number

# Where an episode's observation has what image there is: its class counted from 1 (0 is none), its number within the
# class, and how it is augmented.
_CLASS, _NUMBER, _CHANGE = 0, 1, 2
_LABEL = 3
# More draws without replacement than this are quicker one by one than for all rows at once.
_MANY = 32


class FewShotClassification(Task):
    """Learn new classes of images from an example or a few, and classify others.

    ## Description

    Classes new to the episode are drawn, and numbered at random. First come the support images, `k_shot` of each
    class in random order, with their labels; then the query images, `n_queries` of each class in random order, without.

    ## Observation Space

    A `Dict`:

    | Key | Space | Observation |
    |-----|-------|-------------|
    | `image` | `Box(0, 255, (C, image_size, image_size), uint8)` | image; C is 1 if grey, 3 if coloured |
    | `label` | `Box(0, 1, (n_way,), float32)` | the label, one-hot, of a support image; else 0 |
    | `query` | `Box(0, 1, (1,), float32)` | query flag: 1 at queries, else 0 |

    Gymnasium's `FlattenObservation`, or `plastic_envs.wrappers.VectorFlattenObservation`, makes a flat `Box` of it, as
    `PreviousActionReward` wants.
    stable-baselines3's own convolutions take images from 36 x 36 pixels on.

    ## Action Space

    `Discrete(n_way)`: at queries, the label of the image.

    ## Rewards

    At queries 1 if the label is right, else 0. At support steps 0.

    ## Episode End

    Terminates after `n_way * (k_shot + n_queries)` steps.

    ## Arguments

    | Parameter | Type | Default | Range | Description |
    |-----------|------|---------|-------|-------------|
    | `n_way` | int | 5 | >= 2 | classes of an episode |
    | `k_shot` | int | 1 | >= 1 | support images of each class |
    | `n_queries` | int | 1 | >= 1 | query images of each class |
    | `source` | str | glyphs | | where images are from: `glyphs`, `omniglot`, `omniglot-rotated`, `cifar-fs`, \
`mini-imagenet`, `folder`, or an `ImageSource`; see [image sources](../image_sources.md) |
    | `path` | str |  | | folder (or `.npz` file) with the source's files; by default one in the user's cache |
    | `download` | bool | False | | whether files that are missing are downloaded |
    | `split` | str | train | | `train`, `validation` or `test`: they share no classes |
    | `image_size` | int | 28 | >= 8 | rows and columns to which images are resized |
    | `augmentation` | str | none | | `none`, `crop` (shifts by up to an eighth of the size), or `crop-flip` (and \
mirrors every other image) |
    | `delayed_label` | bool | False | | whether a label is shown not with its image but one step later |

    ## Oracle

    Knows the class of each of the source's images, as no image is in two of them, and so is always right: 1. That is
    the bound for who knows all classes; how near to it who has never seen these classes can come is known from
    experience only. With 5 classes and 1 example of each, prototype networks of four convolutions reach about 0.97 on
    `glyphs` (see `benchmarks/classification.py`), 0.988 on Omniglot with 20-way training (Snell et al., 2017), 0.555
    on CIFAR-FS (Bertinetto et al., 2019) and 0.494 on miniImageNet (Snell et al.); MetaOptNet, a ResNet-12, reaches
    0.720 and 0.626 on the latter two (Lee et al., 2019). The memoryless answer is any label, right 1 / `n_way` of the
    time.

    ## Source

    Yu Duan, Zhongfan Jia, Qian Li, Yi Zhong and Kaisheng Ma: "Hebbian and Gradient-based Plasticity Enables Robust
    Memory and Rapid Learning in RNNs", ICLR 2023, [arXiv 2302.03235](https://arxiv.org/abs/2302.03235). The figures
    are from Jake Snell, Kevin Swersky and Richard Zemel: "Prototypical Networks for Few-shot Learning", 2017,
    [arXiv 1703.05175](https://arxiv.org/abs/1703.05175); Luca Bertinetto, Joao F. Henriques, Philip H. S. Torr and
    Andrea Vedaldi: "Meta-learning with differentiable closed-form solvers", 2019,
    [arXiv 1805.08136](https://arxiv.org/abs/1805.08136); Kwonjoon Lee, Subhransu Maji, Avinash Ravichandran and
    Stefano Soatto: "Meta-Learning with Differentiable Convex Optimization", 2019,
    [arXiv 1904.03758](https://arxiv.org/abs/1904.03758).

    ## Version History

    * v0: first version.
    """

    score_name = "accuracy"

    def __init__(
        self,
        *,
        n_way: int = 5,
        k_shot: int = 1,
        n_queries: int = 1,
        source: str | ImageSource = "glyphs",
        path: str = "",
        download: bool = False,
        split: str = "train",
        image_size: int = 28,
        augmentation: str = "none",
        delayed_label: bool = False,
    ) -> None:
        self.n_way = whole_number("n_way", n_way, at_least=2)
        self.k_shot = whole_number("k_shot", k_shot, at_least=1)
        self.n_queries = whole_number("n_queries", n_queries, at_least=1)
        self.source = source
        self.path = str(path) if isinstance(path, os.PathLike) else path
        self.download = flag("download", download)
        self.split = split
        self.image_size = whole_number("image_size", image_size, at_least=8)
        self.augmentation = one_of("augmentation", augmentation, AUGMENTATIONS)
        self.delayed_label = flag("delayed_label", delayed_label)
        self._open()
        self._check_enough()

        support = self.n_way * self.k_shot
        self._support = slice(0, support)
        # The steps at which labels are shown, and the first at which none will be any more.
        self._told = slice(int(self.delayed_label), support + int(self.delayed_label))
        self.episode_length = support + self.n_way * self.n_queries
        self.query_start = self._told.stop
        self.channels = (("image", _LABEL), ("label", self.n_way), ("query", 1))
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, self._images.image_shape, np.uint8),
                "label": spaces.Box(0, 1, (self.n_way,), np.float32),
                "query": spaces.Box(0, 1, (1,), np.float32),
            }
        )
        self.action_space = spaces.Discrete(self.n_way)

    def _open(self) -> None:
        if isinstance(self.source, ImageSource):
            if self.path or self.download:
                raise ValueError(f"path and download go with a source's name, got {self.path!r} and {self.download}")
            if self.source.image_shape[1:] != (self.image_size, self.image_size):
                raise ValueError(
                    f"image_size must be that of {self.source!r}, whose images are {self.source.image_shape}, "
                    f"got {self.image_size}"
                )
            self._images = self.source
        else:
            self._images = open_source(self.source, self.path, self.image_size, self.download)
        self._counts = self._images.counts(self.split)
        self._augment = Augmentation(self.augmentation, self.image_size)

    def _check_enough(self) -> None:
        if len(self._counts) < self.n_way:
            raise ValueError(
                f"n_way must be at most the number of classes in {self.split!r} of {self._images.name}, "
                f"{len(self._counts)}, got {self.n_way}"
            )
        least = int(self._counts.argmin())
        if self._counts[least] < self.k_shot + self.n_queries:
            raise ValueError(
                f"k_shot + n_queries must be at most the number of images of each class in {self.split!r} of "
                f"{self._images.name}, and class {self._images.classes(self.split)[least]!r} has "
                f"{self._counts[least]}, got {self.k_shot} + {self.n_queries}"
            )

    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Which images are shown when, and how they are augmented.

        Classes [B, n_way]; numbers of their images [B, n_way, k_shot + n_queries], support first; the orders of support
        [B, n_way * k_shot] and queries [B, n_way * n_queries]; and augmentations [B, T].
        """
        shots = self.k_shot + self.n_queries
        classes = _distinct(rng, np.full(batch_size, len(self._counts)), self.n_way)
        numbers = _distinct(rng, self._counts.take(classes.reshape(-1)), shots)
        return {
            "classes": classes,
            "numbers": numbers.reshape(batch_size, self.n_way, shots),
            "support_order": _shuffled(rng, batch_size, self.n_way * self.k_shot),
            "query_order": _shuffled(rng, batch_size, self.n_way * self.n_queries),
            "augmentation": self._augment.draw(rng, (batch_size, self.episode_length)),
        }

    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Labels of the classes [B, n_way], in random order."""
        return {"labels": _shuffled(rng, batch_size, self.n_way)}

    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Show the support with its labels, and ask for those of the queries."""
        support, query = stimuli["support_order"], stimuli["query_order"]
        slot = np.concatenate([support // self.k_shot, query // self.n_queries], axis=1)
        shot = np.concatenate([support % self.k_shot, self.k_shot + query % self.n_queries], axis=1)
        batch_size, steps = slot.shape
        lane = np.arange(batch_size)[:, None]
        label = memoranda["labels"][lane, slot]
        scored = np.broadcast_to(np.arange(steps) >= self._support.stop, slot.shape)

        observation = np.zeros((batch_size, steps, _LABEL + self.n_way + 1), dtype=np.float32)
        observation[..., _CLASS] = stimuli["classes"][lane, slot] + 1
        observation[..., _NUMBER] = stimuli["numbers"][lane, slot, shot]
        observation[..., _CHANGE] = stimuli["augmentation"]
        observation[:, self._told, _LABEL:-1] = np.eye(self.n_way, dtype=np.float32)[label[:, self._support]]
        observation[..., -1] = scored
        return EpisodeBatch(
            observation=observation,
            target=np.where(scored, label, 0),
            scored=scored,
            latent={"classes": stimuli["classes"], "labels": memoranda["labels"]},
        )

    def observe(self, observation: Array) -> dict[str, Array]:
        """Gather the images, and hand out labels and query flags as they are."""
        rows = observation.reshape(-1, observation.shape[-1])
        number = rows[:, _CLASS].astype(np.int64) - 1
        there = number >= 0
        if there.all():
            images = self._gather(rows, number)
        else:
            images = np.zeros((len(rows), *self._images.image_shape), dtype=np.uint8)
            images[there] = self._gather(rows[there], number[there])
        return {
            "image": images.reshape(*observation.shape[:-1], *self._images.image_shape),
            "label": observation[..., _LABEL:-1].copy(),
            "query": observation[..., -1:].copy(),
        }

    def _gather(self, rows: Array, number: Array) -> Array:
        images = self._images.gather(self.split, number, rows[:, _NUMBER].astype(np.int64))
        return self._augment.apply(images, rows[:, _CHANGE].astype(np.int64))

    @property
    def classes(self) -> int:
        """Number of classes in the split."""
        return len(self._counts)

    def labelled_images(self, rng: np.random.Generator, number: int) -> tuple[Array, Array]:
        """Draw images of the split for plain classification, augmented as in episodes.

        Returns:
            Images, uint8 [number, C, H, W], and their classes, int64 [number], each below `classes`.
        """
        classes = rng.integers(self.classes, size=number)
        images = self._images.gather(self.split, classes, rng.integers(self._counts[classes]))
        return self._augment.apply(images, self._augment.draw(rng, (number,))), classes

    def oracle(self, episode: EpisodeBatch) -> Array:
        """The label that the class of each query had in the support. int64 [B, T]."""
        actions = self.memoryless(episode)
        shown = episode.observation[..., _CLASS]
        told = episode.observation[:, self._told, _LABEL:-1]
        queries = slice(self._support.stop, None)
        same = (shown[:, queries, None] == shown[:, None, self._support]).astype(np.float32)
        actions[:, queries] = (same @ told).argmax(axis=-1)
        return actions

    def memoryless(self, episode: EpisodeBatch) -> Array:
        """The first label, as good as any. int64 [B, T]."""
        return np.zeros(episode.target.shape, dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        """Images are not copied; a source with a name is opened again where the task goes."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_images", "_counts", "_augment")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _distinct(rng: np.random.Generator, high: Array, number: int) -> Array:
    """Ordered draws without replacement, of `number` out of range(high[n]) for each n: int64 [N, number]."""
    # The i-th is one of those that are left, counted from below.
    drawn = (rng.random((len(high), number)) * (high[:, None] - np.arange(number))).astype(np.int64)
    if number > _MANY:
        for row, top in zip(drawn, high, strict=True):
            left = list(range(top))
            row[:] = [left.pop(place) for place in row]
        return drawn
    # Each smaller one that is gone moves it up by one.
    for place in range(1, number):
        for gone in np.sort(drawn[:, :place], axis=1).T:
            drawn[:, place] += drawn[:, place] >= gone
    return drawn


def _shuffled(rng: np.random.Generator, batch_size: int, number: int) -> Array:
    """Random orders of range(number), int64 [B, number]."""
    return rng.random((batch_size, number)).argsort(axis=1)
