"""The usual format of few-shot data sets: one pickle of images and labels for each split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from plastic_envs.images.resize import resize
from plastic_envs.images.safe_pickle import read_pickle
from plastic_envs.images.source import group_by_label
from plastic_envs.task import Array


def read_split(path: Path, split: str, image_size: int) -> dict[str, Array]:
    """Read a pickled dict of `data`, uint8 [N, H, W, 3], and `labels` [N].

    Args:
        path: the pickle.
        split: the prefix of class names.
        image_size: height and width to which images are resized.

    Returns:
        Images of each class, uint8 [M, 3, image_size, image_size], by the name "split/label".

    Raises:
        ValueError: the file is damaged, refused or has another format.
    """
    value = read_pickle(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a dict with 'data' and 'labels', got {type(value).__name__}")
    # Python 2 writes strings as bytes.
    keys = {key.decode("latin1") if isinstance(key, bytes) else key: key for key in value}
    if not {"data", "labels"} <= keys.keys():
        raise ValueError(f"{path} must hold a dict with 'data' and 'labels', got {sorted(map(str, keys))}")
    data, labels = value[keys["data"]], value[keys["labels"]]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 4 or data.shape[-1] != 3:
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise ValueError(f"'data' of {path} must be uint8 [N, H, W, 3], got {got}")
    return group_by_label(f"{split}/", resize(data.transpose(0, 3, 1, 2), image_size), labels)
