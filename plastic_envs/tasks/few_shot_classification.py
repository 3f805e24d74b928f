"""FewShotClassification: classify images of new classes from a few examples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from plastic_envs.images import ImageSource, open_source
from plastic_envs.images.augmentation import AUGMENTATIONS, Augmentation
from plastic_envs.task import Array, Draws, EpisodeBatch, StepValues, Task
from plastic_envs.validation import check_episode_size, flag, one_of, whole_number

# Columns of `EpisodeBatch.observation` that identify the image: class index + 1 (0 = no image), index of the image
# within its class, and augmentation. Tables of episodes have the title.
_CLASS, _INDEX, _AUGMENTATION = 0, 1, 2
_IMAGE_TITLE = "image: class number from 1, index in the class, augmentation"
# The first column of the one-hot label; the query flag is the last column.
_LABEL = 3
# For more draws without replacement than this, a loop over lists is faster than the vectorised method.
_MAX_VECTORISED_DRAWS = 32


class FewShotClassification(Task):
    """Learn new classes of images from a few examples, and classify other images.

    ## Description

    Each episode draws `n_way` classes and assigns the labels 0 to `n_way - 1` to them at random. In the support phase
    the agent observes `k_shot` images of each class with their labels, in random order. Queries follow: the agent
    observes `n_queries` other images of each class without labels, in random order, and answers with their labels.

    ## Observation Space

    A `Dict`:

    | Key | Space | Observation |
    |-----|-------|-------------|
    | `image` | `Box(0, 255, (C, image_size, image_size), uint8)` | image; C is 1 for grey images, 3 for colour images |
    | `label` | `Box(0, 1, (n_way,), float32)` | one-hot label of the image at support steps, else 0; with \
`delayed_label` that of the image before, so the last label comes with the first query |
    | `query` | `Box(0, 1, (1,), float32)` | query flag: 1 at queries, else 0 |

    To get a flat `Box`, which `PreviousActionReward` requires, use Gymnasium's `FlattenObservation` or
    `plastic_envs.wrappers.VectorFlattenObservation`. The convolutional network of stable-baselines3 needs images of at
    least 36 x 36 pixels.

    ## Action Space

    `Discrete(n_way)`: the answer, the label of the image. It has no effect on later observations.

    ## Rewards

    At queries 1 if the action is the label of the image, else 0; `Task.reward` computes it. At support steps 0.

    ## Secondary Metrics

    `first_query_accuracy`: the accuracy at the first query of each episode. The main accuracy is the mean over all
    queries, at which an agent could exclude labels by elimination.

    ## Episode End

    Terminates after `n_way * (k_shot + n_queries)` steps.

    ## Arguments

    | Parameter | Type | Default | Range | Description |
    |-----------|------|---------|-------|-------------|
    | `n_way` | int | 5 | >= 2 | number of classes in an episode |
    | `k_shot` | int | 1 | >= 1 | number of support images of each class |
    | `n_queries` | int | 1 | >= 1 | number of query images of each class |
    | `source` | str | glyphs | | source of the images: `glyphs`, `omniglot`, `omniglot-rotated`, `cifar-fs`, \
`mini-imagenet`, `folder`, or an `ImageSource`; see [image sources](../image_sources.md) |
    | `path` | str |  | | folder (or `.npz` file) of the source's files; by default a folder in the user's cache |
    | `download` | bool | False | | whether to download missing files |
    | `split` | str | train | | `train`, `validation` or `test`; splits share no classes |
    | `image_size` | int | 28 | 8 to 2048; 8 to 256 for glyphs | height and width to which images are resized; those \
of an `ImageSource` must have this size |
    | `augmentation` | str | none | | `none`, `crop` (random shifts by up to an eighth of the size) or `crop-flip` \
(also mirrors half of the images) |
    | `delayed_label` | bool | False | | whether a label is observed one step after its image |

    ## Oracle

    The oracle knows the true class of every image, so its accuracy is 1. This is an upper bound: the best accuracy of
    an agent that has to generalise to new classes is known from experiments only. Reference accuracies with 5 classes
    and 1 example of each:

    | Method | glyphs | Omniglot | CIFAR-FS | miniImageNet |
    |--------|--------|----------|----------|--------------|
    | prototypical network, Conv-4 | 0.975 | 0.988 | 0.555 | 0.494 |
    | MetaOptNet, ResNet-12 | | | 0.720 | 0.626 |

    The first row is from `benchmarks/classification.py` (glyphs), Snell et al., 2017 (Omniglot with 20-way training,
    miniImageNet) and Bertinetto et al., 2019 (CIFAR-FS); the second from Lee et al., 2019. The memoryless policy
    always answers 0, with accuracy 1 / `n_way`.

    ## Source

    Yu Duan, Zhongfan Jia, Qian Li, Yi Zhong and Kaisheng Ma: "Hebbian and Gradient-based Plasticity Enables Robust
    Memory and Rapid Learning in RNNs", ICLR 2023, [arXiv 2302.03235](https://arxiv.org/abs/2302.03235).

    The reference accuracies are from Jake Snell, Kevin Swersky and Richard Zemel: "Prototypical Networks for Few-shot
    Learning", 2017, [arXiv 1703.05175](https://arxiv.org/abs/1703.05175); Luca Bertinetto, Joao F. Henriques, Philip
    H. S. Torr and Andrea Vedaldi: "Meta-learning with differentiable closed-form solvers", 2019,
    [arXiv 1805.08136](https://arxiv.org/abs/1805.08136); Kwonjoon Lee, Subhransu Maji, Avinash Ravichandran and
    Stefano Soatto: "Meta-Learning with Differentiable Convex Optimization", 2019,
    [arXiv 1904.03758](https://arxiv.org/abs/1904.03758).

    ## Version History

    * v0: first version.
    """

    score_name = "accuracy"
    oracle_name = "upper bound"

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
        self._check_counts()
        if self.path:
            # A copy of the task may open the source in another working directory.
            self.path = str(Path(self.path).expanduser().resolve())

        n_support = self.n_way * self.k_shot
        self._support_steps = slice(0, n_support)
        self._label_steps = slice(int(self.delayed_label), n_support + int(self.delayed_label))
        n_query_steps = self.n_way * self.n_queries
        self.episode_length = n_support + n_query_steps
        check_episode_size(
            # Observations, and the comparison of all queries with all support images by the oracle.
            self.episode_length * (_LABEL + self.n_way + 1) + n_support * n_query_steps,
            n_way=self.n_way,
            k_shot=self.k_shot,
            n_queries=self.n_queries,
        )
        self.query_start = self._label_steps.stop
        self.channels = ((_IMAGE_TITLE, _LABEL), ("label", self.n_way), ("query", 1))
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
                raise ValueError(
                    f"path and download must be left out for an ImageSource, got {self.path!r} and {self.download}"
                )
            _, height, width = self.source.image_shape
            if height != width:
                raise ValueError(f"source must have square images, got {height} x {width} pixels from {self.source!r}")
            if height != self.image_size:
                raise ValueError(
                    f"image_size must be that of the images of {self.source!r}, {self.source.image_shape}, "
                    f"got {self.image_size}"
                )
            self._images = self.source
        else:
            self._images = open_source(self.source, self.path, self.image_size, self.download)
        self._counts = self._images.counts(self.split)
        self._augment = Augmentation(self.augmentation, self.image_size)

    def _check_counts(self) -> None:
        if len(self._counts) < self.n_way:
            raise ValueError(
                f"n_way must be at most the number of classes in {self.split!r} of {self._images.name}, "
                f"{len(self._counts)}, got {self.n_way}"
            )
        smallest = int(self._counts.argmin())
        if self._counts[smallest] < self.k_shot + self.n_queries:
            raise ValueError(
                f"k_shot + n_queries must be at most the number of images of each class in {self.split!r} of "
                f"{self._images.name}, and class {self._images.classes(self.split)[smallest]!r} has "
                f"{self._counts[smallest]}, got {self.k_shot} + {self.n_queries}"
            )

    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw the images, their order and their augmentation.

        The arrays are classes [B, n_way]; indices of their images [B, n_way, k_shot + n_queries], support first; the
        orders of the support [B, n_way * k_shot] and of the queries [B, n_way * n_queries]; and augmentations [B, T].
        """
        images_per_class = self.k_shot + self.n_queries
        classes = _sample_without_replacement(rng, np.full(batch_size, len(self._counts)), self.n_way)
        indices = _sample_without_replacement(rng, self._counts.take(classes.reshape(-1)), images_per_class)
        return {
            "classes": classes,
            "indices": indices.reshape(batch_size, self.n_way, images_per_class),
            "support_order": _random_permutations(rng, batch_size, self.n_way * self.k_shot),
            "query_order": _random_permutations(rng, batch_size, self.n_way * self.n_queries),
            "augmentation": self._augment.draw(rng, (batch_size, self.episode_length)),
        }

    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw the labels of the classes [B, n_way], a random permutation."""
        return {"labels": _random_permutations(rng, batch_size, self.n_way)}

    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Compose a support phase of images with labels, and queries of images alone."""
        support, query = stimuli["support_order"], stimuli["query_order"]
        # Positions of each step's class among the episode's classes, and of its image among the images of that class.
        class_slot = np.concatenate([support // self.k_shot, query // self.n_queries], axis=1)
        image_slot = np.concatenate([support % self.k_shot, self.k_shot + query % self.n_queries], axis=1)
        batch_size, steps = class_slot.shape
        lane = np.arange(batch_size)[:, None]
        label = memoranda["labels"][lane, class_slot]
        scored = np.broadcast_to(np.arange(steps) >= self._support_steps.stop, class_slot.shape)

        observation = np.zeros((batch_size, steps, _LABEL + self.n_way + 1), dtype=np.float32)
        observation[..., _CLASS] = stimuli["classes"][lane, class_slot] + 1
        observation[..., _INDEX] = stimuli["indices"][lane, class_slot, image_slot]
        observation[..., _AUGMENTATION] = stimuli["augmentation"]
        observation[:, self._label_steps, _LABEL:-1] = np.eye(self.n_way, dtype=np.float32)[
            label[:, self._support_steps]
        ]
        observation[..., -1] = scored
        return EpisodeBatch(
            observation=observation,
            target=np.where(scored, label, 0),
            scored=scored,
            latent={"classes": stimuli["classes"], "labels": memoranda["labels"]},
        )

    def observe(self, observation: Array) -> dict[str, Array]:
        """Return a Dict observation: the images, labels and query flags."""
        rows = observation.reshape(-1, observation.shape[-1])
        class_index = rows[:, _CLASS].astype(np.int64) - 1
        has_image = class_index >= 0
        if has_image.all():
            images = self._gather(rows, class_index)
        else:
            images = np.zeros((len(rows), *self._images.image_shape), dtype=np.uint8)
            images[has_image] = self._gather(rows[has_image], class_index[has_image])
        return {
            "image": images.reshape(*observation.shape[:-1], *self._images.image_shape),
            "label": observation[..., _LABEL:-1].copy(),
            "query": observation[..., -1:].copy(),
        }

    def _gather(self, rows: Array, class_index: Array) -> Array:
        images = self._images.gather(self.split, class_index, rows[:, _INDEX].astype(np.int64))
        return self._augment.apply(images, rows[:, _AUGMENTATION].astype(np.int64))

    @property
    def classes(self) -> int:
        """The number of classes in the split."""
        return len(self._counts)

    def has_episodes(self, split: str) -> bool:
        """Return whether another split of the source has enough classes and images for such episodes."""
        try:
            counts = self._images.counts(split)
        except ValueError:
            return False
        return len(counts) >= self.n_way and int(counts.min()) >= self.k_shot + self.n_queries

    def labelled_images(self, rng: np.random.Generator, number: int) -> tuple[Array, Array]:
        """Draw augmented images of all classes of the split, for ordinary classification.

        Returns:
            Images, uint8 [number, C, H, W], and their class indices, int64 [number], less than `classes`.
        """
        classes = rng.integers(self.classes, size=number)
        images = self._images.gather(self.split, classes, rng.integers(self._counts[classes]))
        return self._augment.apply(images, self._augment.draw(rng, (number,))), classes

    def oracle(self, episode: EpisodeBatch) -> Array:
        """Return the label that the class of each query had in the support phase: int64 [B, T]."""
        actions = self.memoryless(episode)
        image_class = episode.observation[..., _CLASS]
        support_label = episode.observation[:, self._label_steps, _LABEL:-1]
        queries = slice(self._support_steps.stop, None)
        is_same_class = image_class[:, queries, None] == image_class[:, None, self._support_steps]
        actions[:, queries] = (is_same_class.astype(np.float32) @ support_label).argmax(axis=-1)
        return actions

    def memoryless(self, episode: EpisodeBatch) -> Array:
        """Return label 0, which is as good as any other: int64 [B, T]."""
        return np.zeros(episode.target.shape, dtype=np.int64)

    def secondary_metrics_of_valid(self, episode: EpisodeBatch, actions: Array) -> dict[str, StepValues]:
        """Return `first_query_accuracy`, which counts the first query only, 1 for its label and else 0."""
        # With delayed labels the probe's `query_start` is a step later.
        is_first_query = np.arange(self.episode_length) == self._support_steps.stop
        is_correct = actions == episode.target
        return {
            "first_query_accuracy": StepValues(
                is_correct.astype(np.float64), np.broadcast_to(is_first_query, is_correct.shape)
            )
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the images; `__setstate__` opens a named source again."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_images", "_counts", "_augment")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _sample_without_replacement(rng: np.random.Generator, high: Array, number: int) -> Array:
    """Draw `number` different integers below high[n], in random order, for each n: int64 [N, number]."""
    # Draw i is first a rank among the values not yet drawn.
    drawn = (rng.random((len(high), number)) * (high[:, None] - np.arange(number))).astype(np.int64)
    if number > _MAX_VECTORISED_DRAWS:
        for draws, n_values in zip(drawn, high, strict=True):
            remaining = list(range(n_values))
            draws[:] = [remaining.pop(rank) for rank in draws]
        return drawn
    # Shift each rank past every smaller value already drawn.
    for i in range(1, number):
        for earlier in np.sort(drawn[:, :i], axis=1).T:
            drawn[:, i] += drawn[:, i] >= earlier
    return drawn


def _random_permutations(rng: np.random.Generator, batch_size: int, number: int) -> Array:
    """Draw random permutations of range(number): int64 [B, number]."""
    return rng.random((batch_size, number)).argsort(axis=1)
