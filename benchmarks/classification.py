"""Baselines for few-shot classification: nearest neighbours in pixels, and a prototype network of four convolutions.

    python benchmarks/classification.py [--source glyphs] [--steps 1000] [--seeds 3] [--json FILE]

The script evaluates both on classes of the test split. The prototype network (Snell et al., 2017, arXiv 1703.05175) has
the same Conv-4 as the recipes' networks. Its training episodes have more classes than its evaluation episodes, as its
authors recommend. With the defaults, a seed takes three minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plastic_agents.analysis.statistics import estimate
from plastic_agents.models.image_encoders import Conv4
from plastic_agents.seeding import Stream, held_out_rng, stream_rng
from torch import Tensor, nn
from torch.nn import functional

from plastic_envs import EpisodeBatch
from plastic_envs.tasks import FewShotClassification

# Classes and episodes of a training step.
WAYS, EPISODES = 20, 4
LEARNING_RATE = 1e-3
# Episodes per batch of the evaluation.
BATCH_SIZE = 100


def images(task: FewShotClassification, episode: EpisodeBatch) -> Tensor:
    """Return all images, in [-1, 1]: [B, T, C, H, W]."""
    return torch.as_tensor(task.observe(episode.observation)["image"]).float() / 127.5 - 1


def labels(task: FewShotClassification, episode: EpisodeBatch) -> Tensor:
    """Return the labels of the support images, one-hot [B, support, n_way]."""
    label = task.observe(episode.observation)["label"]
    return torch.as_tensor(label[:, : task.n_way * task.k_shot])


def nearest(task: FewShotClassification, episode: EpisodeBatch) -> Tensor:
    """Return answers to the queries [B, queries]: the label of the nearest support image, by pixels."""
    pixels = images(task, episode).flatten(2)
    support = task.n_way * task.k_shot
    closest = torch.cdist(pixels[:, support:], pixels[:, :support]).argmin(-1)
    return labels(task, episode).argmax(-1).gather(1, closest)


def logits(encoder: nn.Module, task: FewShotClassification, episode: EpisodeBatch) -> Tensor:
    """Return the negative squared distances of queries to prototypes: [B, queries, n_way]."""
    pictures = images(task, episode)
    features = encoder(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2])
    support = task.n_way * task.k_shot
    prototypes = labels(task, episode).transpose(1, 2) @ features[:, :support] / task.k_shot
    return -torch.cdist(features[:, support:], prototypes).square()


def train(settings: dict[str, Any], steps: int, seed: int) -> Conv4:
    """Train a prototype network on the classes of the train split."""
    # The task with two classes gives the number of classes.
    task = FewShotClassification(**{**settings, "n_way": 2})
    task = FewShotClassification(**{**settings, "n_way": min(WAYS, task.classes)})
    torch.manual_seed(seed)
    encoder = Conv4(task.observation_space["image"].shape)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    support = task.n_way * task.k_shot
    for step in range(steps):
        episode = task.sample(stream_rng(Stream.TRAINING, seed, step), EPISODES)
        target = torch.as_tensor(episode.target[:, support:])
        loss = functional.cross_entropy(logits(encoder, task, episode).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return encoder.eval()


@torch.no_grad()
def judge(task: FewShotClassification, answer: Any, episodes: int) -> tuple[float, float]:
    """Return the accuracy on held-out episodes, and half the width of its 95 % interval."""
    rng, batches = held_out_rng(0), []
    for _ in range(0, episodes, BATCH_SIZE):
        episode = task.sample(rng, BATCH_SIZE)
        batches.append(answer(task, episode).numpy() == episode.target[:, task.n_way * task.k_shot :])
    correct = np.concatenate(batches)
    mean, low, _ = estimate(correct, np.ones_like(correct))
    return mean, mean - low


def main() -> None:
    """Train, evaluate and print the results, and write them as JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="glyphs", help="image source")
    parser.add_argument("--path", default="", help="folder of the source's files")
    parser.add_argument("--image-size", type=int, default=28, help="side of the images in pixels")
    parser.add_argument("--n-way", type=int, default=5, help="classes of an evaluation episode")
    parser.add_argument("--k-shot", type=int, default=1, help="support images per class")
    parser.add_argument("--augmentation", default="none", help="augmentation of training images")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of the prototype network")
    parser.add_argument("--seeds", type=int, default=1, help="number of prototype networks to train")
    parser.add_argument("--episodes", type=int, default=2000, help="number of held-out episodes")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    options = parser.parse_args()

    source = {name: getattr(options, name) for name in ("source", "path", "image_size", "k_shot")}
    test = FewShotClassification(**source, n_way=options.n_way, split="test")
    figures = []

    def report(name: str, mean: float, half: float, seconds: float) -> None:
        figures.append({"name": name, "accuracy": mean, "half_interval": half, "seconds": seconds})
        print(f"{name:32} {mean:.4f} ± {half:.4f}  {seconds:6.0f} s", flush=True)

    print(f"{options.source}, {options.n_way}-way {options.k_shot}-shot, {options.episodes} episodes of test classes")
    began = time.perf_counter()
    report("nearest neighbour in pixels", *judge(test, nearest, options.episodes), time.perf_counter() - began)
    for seed in range(options.seeds):
        began = time.perf_counter()
        encoder = train({**source, "augmentation": options.augmentation}, options.steps, seed)
        score = judge(test, lambda task, episode, net=encoder: logits(net, task, episode).argmax(-1), options.episodes)
        report(f"prototype network, seed {seed}", *score, time.perf_counter() - began)
    if options.json is not None:
        options.json.write_text(json.dumps({"task": repr(test), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
