"""miniImageNet: 100 classes of ImageNet, 64 for training, 16 for validation and 20 for testing, with 600 images each.

Oriol Vinyals et al.: "Matching Networks for One Shot Learning", NeurIPS 2016; the classes are those of Sachin Ravi and
Hugo Larochelle: "Optimization as a Model for Few-Shot Learning", ICLR 2017.
"""

from __future__ import annotations

from pathlib import Path

from plastic_envs.images.few_shot_pickles import read_split
from plastic_envs.images.folder import read_folder, split_folders
from plastic_envs.images.source import ArraySource

PICKLES = {
    "train": "miniImageNet_category_split_train_phase_train.pickle",
    "validation": "miniImageNet_category_split_val.pickle",
    "test": "miniImageNet_category_split_test.pickle",
}
DOWNLOAD_ADVICE = (
    "https://github.com/kjunelee/MetaOptNet links to the pickles. This package does not download them because no "
    "publisher gives checksums"
)


def read_mini_imagenet(path: Path, image_size: int) -> ArraySource:
    """Read the few-shot pickles, or folders of class folders.

    Args:
        path: folder with `miniImageNet_category_split_train_phase_train.pickle`, `..._val.pickle` and
            `..._test.pickle`; or with folders train, val and test, each with a folder for each class.
        image_size: height and width to which images are resized; the pickles have 84.

    Raises:
        FileNotFoundError: the folder has neither.
        ValueError: a file is damaged, refused or has another format.
    """
    missing = [name for name in PICKLES.values() if not (path / name).is_file()]
    if not missing:
        return ArraySource(
            "mini-imagenet", {split: read_split(path / name, split, image_size) for split, name in PICKLES.items()}
        )
    if len(split_folders(path)) == len(PICKLES):
        return read_folder(path, image_size, name="mini-imagenet")
    raise FileNotFoundError(
        f"mini-imagenet needs three pickles, of which {path} lacks {', '.join(missing)}, or folders train, val and "
        f"test, each with a folder for each class. {DOWNLOAD_ADVICE}"
    )
