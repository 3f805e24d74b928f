"""FewShotClassification: episodes, twins, augmentation, flat observations, copies, image files and errors."""

import copy
import json
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation
from hypothesis import given, settings
from hypothesis import strategies as st

from plastic_envs import make_task
from plastic_envs.env import TaskEnv
from plastic_envs.images import ArraySource, ImageSource, augmentation, cifar_fs, mini_imagenet, open_source
from plastic_envs.images.augmentation import Augmentation
from plastic_envs.tasks import CueReward, FewShotClassification, few_shot_classification
from plastic_envs.tasks.few_shot_classification import _random_permutations, _sample_without_replacement
from plastic_envs.testing import check_task, check_vector_env
from plastic_envs.vector_env import TaskVectorEnv
from plastic_envs.wrappers import PreviousActionReward, VectorFlattenObservation, VectorPreviousActionReward
from tests.plastic_envs.image_files import random_images, write_cifar_100, write_omniglot, write_pickles

ENV_ID = "PlasticRNN/FewShotClassification-v0"


def plain_source(classes=6, images=4, size=8):
    """Return a source whose images hold their class in the first pixel and their index in the second."""
    stacks = {}
    for label in range(classes):
        stack = np.full((images, 1, size, size), 99, np.uint8)
        stack[:, 0, 0, 0], stack[:, 0, 0, 1] = label, np.arange(images)
        stacks[f"c{label}"] = stack
    return ArraySource("plain", {"train": stacks})


@settings(max_examples=30)
@given(
    n_way=st.integers(2, 5),
    k_shot=st.integers(1, 3),
    n_queries=st.integers(1, 3),
    delayed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_episodes_have_the_promised_images_labels_and_flags(n_way, k_shot, n_queries, delayed, seed):
    """Classes and indices are read from the pixels of the observations."""
    task = FewShotClassification(
        n_way=n_way,
        k_shot=k_shot,
        n_queries=n_queries,
        source=plain_source(images=6),
        image_size=8,
        delayed_label=delayed,
    )
    episode = task.sample(np.random.default_rng(seed), 3)
    observation = task.observe(episode.observation)
    n_support = n_way * k_shot
    assert task.episode_length == n_support + n_way * n_queries
    assert task.query_start == n_support + delayed
    for lane in range(3):
        classes, indices = (observation["image"][lane, :, 0, 0, column].tolist() for column in (0, 1))
        assert len(set(zip(classes, indices, strict=True))) == task.episode_length, "no image is repeated"
        for steps, per_class in ((slice(0, n_support), k_shot), (slice(n_support, None), n_queries)):
            counts = np.bincount(classes[steps], minlength=6)
            assert sorted(counts.tolist()) == [0] * (6 - n_way) + [per_class] * n_way
        assert observation["query"][lane, :, 0].tolist() == [0] * n_support + [1] * (n_way * n_queries)
        assert episode.scored[lane].tolist() == [False] * n_support + [True] * (n_way * n_queries)
        one_hot = observation["label"][lane, delayed : n_support + delayed]
        assert observation["label"][lane].sum() == n_support
        assert (one_hot.sum(axis=-1) == 1).all()
        label = dict(zip(classes[:n_support], one_hot.argmax(axis=-1).tolist(), strict=True))
        assert sorted(label.values()) == list(range(n_way))
        answers = [label[query_class] for query_class in classes[n_support:]]
        assert episode.target[lane].tolist() == [0] * n_support + answers
    np.testing.assert_array_equal(task.oracle(episode), episode.target)
    assert (task.score(episode, task.oracle(episode)) == 1).all()
    assert (task.score(episode, task.memoryless(episode)) == 1 / n_way).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"delayed_label": True, "k_shot": 2, "n_way": 3},
        {"augmentation": "crop-flip", "n_queries": 2},
        {"source": plain_source(), "image_size": 8},
    ],
    ids=["delayed", "augmented", "array source"],
)
def test_check_task_and_check_vector_env_pass(arguments):
    task = FewShotClassification(**arguments)
    check_task(task)
    check_vector_env(task)


def test_draws_without_replacement_are_uniform():
    rng = np.random.default_rng(0)
    drawn = _sample_without_replacement(rng, np.tile([4, 6], 6000), 3)
    for high, rows in ((4, drawn[::2]), (6, drawn[1::2])):
        assert rows.min() == 0
        assert rows.max() == high - 1
        assert (np.diff(np.sort(rows, axis=1), axis=1) > 0).all()
        orders = np.unique(rows, axis=0, return_counts=True)[1]
        n_orders = high * (high - 1) * (high - 2)
        assert len(orders) == n_orders
        expected = 6000 / n_orders
        assert (np.abs(orders - expected) < 5 * np.sqrt(expected)).all()
    orders = np.unique(_random_permutations(rng, 6000, 3), axis=0, return_counts=True)[1]
    assert len(orders) == 6
    assert (np.abs(orders - 1000) < 5 * np.sqrt(1000)).all()
    all_values = _sample_without_replacement(rng, np.full(50, 5), 5)
    np.testing.assert_array_equal(np.sort(all_values, axis=1), np.tile(np.arange(5), (50, 1)))


def test_both_methods_of_drawing_without_replacement_agree(monkeypatch):
    loop_draws = _sample_without_replacement(np.random.default_rng(1), np.array([60, 40, 99]), 40)
    assert all(len(set(draws)) == 40 for draws in loop_draws.tolist())
    monkeypatch.setattr(few_shot_classification, "_MAX_VECTORISED_DRAWS", 40)
    vectorised_draws = _sample_without_replacement(np.random.default_rng(1), np.array([60, 40, 99]), 40)
    np.testing.assert_array_equal(vectorised_draws, loop_draws)


def test_twins_see_the_same_images_with_their_labels_permuted():
    task = FewShotClassification(k_shot=2)
    episode, twin = task.sample_yoked(np.random.default_rng(0), 200)
    observation, twin_observation = task.observe(episode.observation), task.observe(twin.observation)
    np.testing.assert_array_equal(observation["image"], twin_observation["image"])
    labels, twin_labels = (each["label"][:, :10].argmax(-1) for each in (observation, twin_observation))
    for lane in range(200):
        pairs = set(zip(labels[lane], twin_labels[lane], strict=True))
        assert len(pairs) == 5, "a permutation"
        twin_label = dict(pairs)
        assert [twin_label[answer] for answer in episode.target[lane, 10:]] == twin.target[lane, 10:].tolist()


def test_splits_share_no_image():
    seen = {}
    for split in ("train", "validation", "test"):
        task = FewShotClassification(split=split)
        images = task.observe(task.sample(np.random.default_rng(0), 100).observation)["image"].reshape(1000, -1)
        seen[split] = {image.tobytes() for image in images}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_images_are_gathered_at_the_step_that_shows_them():
    class Counting(ArraySource):
        gathered = 0

        def gather(self, split, classes, indices):
            self.gathered += np.size(classes)
            return super().gather(split, classes, indices)

    plain = plain_source()
    source = Counting(
        "plain", {"train": {name: plain.images("train", n) for n, name in enumerate(plain.classes("train"))}}
    )
    task = FewShotClassification(source=source, image_size=8)
    env = TaskEnv(task)
    env.reset(seed=0)
    assert source.gathered == 1
    env.step(0)
    assert source.gathered == 2
    envs = TaskVectorEnv(task, 16)
    envs.reset(seed=0)
    envs.step(np.zeros(16, int))
    assert source.gathered == 2 + 32


def test_observation_after_the_last_step_is_blank():
    env = TaskEnv(ENV_ID)
    env.reset(seed=0)
    for _ in range(10):
        observation, *_ = env.step(0)
    assert not any(part.any() for part in observation.values())
    envs = TaskVectorEnv(ENV_ID, 4, autoreset_mode="SameStep")
    envs.reset(seed=0)
    for _ in range(10):
        observation, _, _, _, infos = envs.step(np.zeros(4, int))
    assert observation["image"].any(axis=(1, 2, 3)).all()
    assert not infos["final_obs"][2]["image"].any()


# Augmentation


def test_augmentation_shifts_and_mirrors():
    """Results are compared with explicit loops; all changes are drawn about equally often."""
    rng = np.random.default_rng(0)
    image = random_images(rng, 1, 3, 16, 16)
    augment = Augmentation("crop-flip", 16)
    changes = augment.draw(rng, (20_000,))
    counts = np.bincount(changes)
    assert len(counts) == 50
    assert (np.abs(counts - 400) < 100).all()
    changed = augment.apply(np.repeat(image, 50, axis=0), np.arange(50))
    expected = set()
    for down in range(-2, 3):
        for across in range(-2, 3):
            shifted = np.zeros_like(image[0])
            for row in range(16):
                for column in range(16):
                    if 0 <= row + down < 16 and 0 <= column + across < 16:
                        shifted[:, row, column] = image[0, :, row + down, column + across]
            expected |= {shifted.tobytes(), np.ascontiguousarray(shifted[..., ::-1]).tobytes()}
    assert {each.tobytes() for each in changed} == expected
    assert (Augmentation("none", 16).draw(rng, (9,)) == 0).all()
    assert Augmentation("crop", 16).draw(rng, (9999,)).max() == 24


def test_augmentation_is_fixed_within_an_episode():
    task = FewShotClassification(augmentation="crop")
    episode = task.sample(np.random.default_rng(0), 5)
    np.testing.assert_array_equal(
        task.observe(episode.observation)["image"], task.observe(episode.observation)["image"]
    )
    plain = FewShotClassification().observe(episode.observation)["image"]
    assert (plain != task.observe(episode.observation)["image"]).any(axis=(2, 3, 4)).mean() > 0.9
    assert augmentation.AUGMENTATIONS[0] == "none"


# Flat observations


def test_flat_observation_with_previous_action_and_reward():
    env = PreviousActionReward(FlattenObservation(TaskEnv(ENV_ID)))
    observation, _ = env.reset(seed=0)
    assert observation.dtype == np.float32
    assert observation.shape == (784 + 5 + 1 + 5 + 2,)
    plain, _ = TaskEnv(ENV_ID).reset(seed=0)
    np.testing.assert_array_equal(observation[:784], plain["image"].ravel())
    np.testing.assert_array_equal(observation[784:790], [*plain["label"], 0])
    observation, *_ = env.step(3)
    assert observation[790:].tolist() == [0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_flat_vector_environment_equals_the_single_one(mode):
    task = FewShotClassification(n_way=2)
    ours = VectorPreviousActionReward(VectorFlattenObservation(TaskVectorEnv(task, 1, autoreset_mode=mode)))
    theirs = SyncVectorEnv([lambda: PreviousActionReward(FlattenObservation(TaskEnv(task)))], autoreset_mode=mode)
    np.testing.assert_array_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    for step in range(12):
        results = [env.step(np.array([step % 2])) for env in (ours, theirs)]
        for one, other in zip(*(result[:4] for result in results), strict=True):
            np.testing.assert_array_equal(one, other)
        if "final_obs" in results[0][-1]:
            np.testing.assert_array_equal(results[0][-1]["final_obs"][0], results[1][-1]["final_obs"][0])
        if mode is AutoresetMode.DISABLED and results[0][2].any():
            mask = results[0][2]
            reset = [env.reset(options={"reset_mask": mask.copy()})[0] for env in (ours, theirs)]
            np.testing.assert_array_equal(*reset)


class Unsorted(CueReward):
    """Observations whose names are not in the order of their space."""

    def __init__(self):
        super().__init__()
        parts = {"view": spaces.Box(-1, 1, (14,)), "cue_reward": spaces.Box(-1, 1, (2,))}
        self.observation_space = spaces.Dict(parts)

    def observe(self, observation):
        return {"view": observation[..., :14], "cue_reward": observation[..., 14:]}


def test_flat_vector_environment_has_the_order_of_the_space():
    single, vector = FlattenObservation(TaskEnv(Unsorted())), VectorFlattenObservation(TaskVectorEnv(Unsorted(), 1))
    np.testing.assert_array_equal(single.reset(seed=3)[0], vector.reset(seed=3)[0][0])


def test_flat_vector_environment_keeps_boxes_and_refuses_other_spaces():
    envs = VectorFlattenObservation(TaskVectorEnv("PlasticRNN/CueReward-v0", 2))
    plain = TaskVectorEnv("PlasticRNN/CueReward-v0", 2)
    np.testing.assert_array_equal(envs.reset(seed=0)[0], plain.reset(seed=0)[0])
    assert envs.single_observation_space == plain.single_observation_space
    lake = SyncVectorEnv([lambda: gymnasium.make("FrozenLake-v1")] * 2)
    with pytest.raises(TypeError, match=r"observations must be Boxes or Dicts of Boxes, got Discrete"):
        VectorFlattenObservation(lake)


def test_stable_baselines3_env_checker_accepts_larger_images():
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checker.check_env(gymnasium.make(ENV_ID, image_size=36))


# Copies and processes


def test_pickles_are_small_and_copies_share_images():
    task = FewShotClassification()
    task.observe(task.sample(np.random.default_rng(0), 50).observation)
    text = pickle.dumps(task)
    assert len(text) < 10_000
    for clone in (pickle.loads(text), copy.deepcopy(task)):
        assert clone._images is task._images
        assert repr(clone) == repr(task)


def test_copies_open_a_relative_path_in_any_working_directory(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    write_pickles(tmp_path, cifar_fs.PICKLES.values(), size=32)
    monkeypatch.chdir(tmp_path)
    task = FewShotClassification(source="cifar-fs", path=".", image_size=32)
    text = pickle.dumps(task)
    monkeypatch.chdir(tmp_path / "other")
    assert pickle.loads(text).path == task.path == str(tmp_path)
    assert eval(repr(task)).classes == task.classes == 6


def test_spec_names_the_source(tmp_path):
    write_omniglot(tmp_path)
    env = gymnasium.make(ENV_ID, source="omniglot", path=str(tmp_path), image_size=20, split="test", n_queries=2)
    spec = json.loads(env.spec.to_json())
    assert spec["kwargs"]["path"] == str(tmp_path)
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    np.testing.assert_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])


# Image files


def test_every_file_format_makes_valid_episodes(tmp_path):
    cases = []
    for name, write, size in (
        ("omniglot", write_omniglot, 20),
        ("cifar-fs", write_cifar_100, 32),
        ("mini-imagenet", lambda folder: write_pickles(folder, mini_imagenet.PICKLES.values(), size=84), 84),
        ("cifar-fs", lambda folder: write_pickles(folder, cifar_fs.PICKLES.values(), size=32), 32),
    ):
        folder = tmp_path / str(len(cases))
        folder.mkdir()
        write(folder)
        cases.append((name, folder, size))
    for name, folder, size in cases:
        for split in ("train", "validation", "test"):
            arguments = {
                "source": name,
                "path": folder,
                "split": split,
                "image_size": size,
                "augmentation": "crop-flip",
            }
            task = make_task(ENV_ID, **arguments)
            check_vector_env(task)
            episode = task.sample(np.random.default_rng(0), 8)
            assert (task.score(episode, task.oracle(episode)) == 1).all()


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"n_way": 1}, ValueError, "n_way must be at least 2, got 1"),
        (
            {"n_way": 1001},
            ValueError,
            "n_way must be at most the number of classes in 'train' of glyphs, 1000, got 1001",
        ),
        ({"n_way": 201, "split": "validation"}, ValueError, "200, got 201"),
        ({"k_shot": 0}, ValueError, "k_shot must be at least 1"),
        ({"n_queries": 0}, ValueError, "n_queries must be at least 1"),
        (
            {"k_shot": 10, "n_queries": 11},
            ValueError,
            r"k_shot \+ n_queries must be at most .* 'train-0' has 20, got 10 \+ 11",
        ),
        ({"source": "imagenet"}, ValueError, "source must be one of glyphs, .* or an ImageSource, got 'imagenet'"),
        ({"source": 3}, TypeError, "source must be one of"),
        ({"source": np.zeros(3)}, TypeError, "source must be one of .*, got array"),
        ({"split": "exam"}, ValueError, "split must be one of train, validation, test, got 'exam'"),
        ({"split": ["train"]}, TypeError, r"split must be one of train, validation, test, got \['train'\]"),
        ({"image_size": 4}, ValueError, "image_size must be at least 8"),
        ({"image_size": 2000}, ValueError, "image_size must be between 8 and 256, got 2000"),
        ({"augmentation": np.zeros(3)}, TypeError, "augmentation must be one of none, crop, crop-flip, got array"),
        ({"augmentation": "rotate"}, ValueError, "augmentation must be one of none, crop, crop-flip, got 'rotate'"),
        ({"delayed_label": 1}, TypeError, "delayed_label must be True or False"),
        ({"download": "yes"}, TypeError, "download must be True or False"),
        ({"path": 3}, TypeError, "path must be a str or a path, got 3"),
        ({"path": "/nowhere"}, ValueError, "path and download must be left out for glyphs"),
        ({"source": "omniglot", "path": "/nowhere"}, FileNotFoundError, r"/nowhere/images_background\.zip"),
        (
            {"source": plain_source(), "image_size": 9},
            ValueError,
            r"image_size must be that of the images of .*\(1, 8, 8\), got 9",
        ),
        (
            {"source": ArraySource("wide", {"train": {"a": np.zeros((2, 1, 8, 9), np.uint8)}}), "image_size": 8},
            ValueError,
            "source must have square images, got 8 x 9 pixels from ArraySource",
        ),
        (
            {"source": plain_source(), "image_size": 8, "path": "x"},
            ValueError,
            "path and download must be left out for an ImageSource, got 'x' and False",
        ),
        (
            {"source": plain_source(), "image_size": 8, "split": "test"},
            ValueError,
            "split of plain must be one of train, got 'test'",
        ),
    ],
    ids=str,
)
def test_invalid_arguments_are_refused_by_the_constructor(arguments, error, named):
    with pytest.raises(error, match=named):
        FewShotClassification(**arguments)


@pytest.mark.parametrize(("n_way", "k_shot"), [(12_000, 1), (20, 7000)], ids=["labels", "comparisons"])
def test_episodes_that_are_too_large_are_refused(n_way, k_shot):
    class Huge(ImageSource):
        name, image_shape = "huge", (1, 8, 8)

        def counts(self, split):
            return np.full(n_way, 10**6)

        classes = gather = None

    with pytest.raises(ValueError, match=rf"an episode must have at most 268435456 entries, got .* n_way={n_way}, k_"):
        FewShotClassification(source=Huge(), image_size=8, n_way=n_way, k_shot=k_shot, n_queries=k_shot)


def test_splits_without_enough_classes_or_images_have_no_episodes():
    few = {
        split: {f"{split}{i}": np.full((4, 1, 8, 8), 9 * i + n, np.uint8) for i in range(n)}
        for split, n in (("train", 6), ("test", 5))
    }
    source = ArraySource("few", few)
    task = FewShotClassification(source=source, image_size=8)
    assert [task.has_episodes(split) for split in ("train", "validation", "test", "exam")] == [True, False, True, False]
    assert not FewShotClassification(n_way=6, source=source, image_size=8).has_episodes("test")
    few["test"]["test0"] = few["test"]["test0"][:1]
    assert not FewShotClassification(source=ArraySource("few", few), image_size=8).has_episodes("test")


def test_overlapping_splits_are_refused_by_make(tmp_path):
    images = random_images(np.random.default_rng(0), 20, 9, 9)
    labels = np.repeat(np.arange(5), 4)
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    with pytest.raises(ValueError, match="splits of folder must not overlap: test and train share 20 images"):
        gymnasium.make(ENV_ID, source="folder", path=str(tmp_path / "own.npz"))
    assert open_source("glyphs") is not None
