"""The baselines of few-shot classification."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from plastic_envs.images import ArraySource
from plastic_envs.tasks import FewShotClassification

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "classification.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("classification", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def grey_task(k_shot):
    """Return a task whose classes are shades of grey with a little noise, so that pixels identify them."""
    rng = np.random.default_rng(0)
    classes = {
        f"grey {label}": (30 * label + rng.integers(5, size=(8, 1, 16, 16))).astype(np.uint8) for label in range(8)
    }
    return FewShotClassification(
        source=ArraySource("greys", {"train": classes}), image_size=16, k_shot=k_shot, n_queries=2
    )


@pytest.mark.parametrize("k_shot", [1, 3])
def test_baselines_classify_by_pixels(script, k_shot):
    task = grey_task(k_shot)
    episode = task.sample(np.random.default_rng(1), 20)
    support = 5 * k_shot
    np.testing.assert_array_equal(script.nearest(task, episode).numpy(), episode.target[:, support:])
    logits = script.logits(nn.Flatten(), task, episode)
    np.testing.assert_array_equal(logits.argmax(-1).numpy(), episode.target[:, support:])
    # Against the definition, for one query.
    shown = task.observe(episode.observation)
    pixels = shown["image"][3].reshape(task.episode_length, -1) / 127.5 - 1
    label = shown["label"][3, :support].argmax(-1)
    prototypes = np.stack([pixels[:support][label == each].mean(axis=0) for each in range(5)])
    expected = -np.square(prototypes - pixels[support + 4]).sum(axis=-1)
    torch.testing.assert_close(logits[3, 4], torch.as_tensor(expected).float(), rtol=1e-3, atol=1e-2)


def test_script_runs_and_writes_its_figures(script, tmp_path, monkeypatch, capsys):
    file = tmp_path / "figures.json"
    arguments = ["--steps", "1", "--episodes", "100", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["classification.py", *arguments])
    script.main()
    nearest, network = json.loads(file.read_text())["figures"]
    assert 0.3 < nearest["accuracy"] < 0.55
    assert 0.2 < network["accuracy"] < 1
    assert "nearest neighbour in pixels" in capsys.readouterr().out
