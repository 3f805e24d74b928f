"""Pretraining of an encoder by plain classification over all training classes."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from plastic_agents.models.image_encoders import Conv4, ResNet12
from plastic_agents.seeding import Stream, stream_rng
from plastic_agents.training.progress_bar import make_progress_bar
from plastic_envs.tasks import FewShotClassification

_LEARNING_RATE = 2e-3
_BATCH = 128
# Steps whose accuracy is reported.
_LAST = 50


def pretrain(
    encoder: Conv4 | ResNet12, task: FewShotClassification, steps: int, *, seed: int = 0, progress_bar: bool = False
) -> float:
    """Train an encoder to tell all classes of the task's split apart, with a linear layer that is then thrown away.

    As in Chen et al., 2019 (arXiv 1904.04232), who show how far this alone goes; by Adam, its rate falling to 0 on a
    cosine. All draws follow from the seed.

    Args:
        encoder: from images in [-1, 1], [N, C, H, W], to features; changed in place, in the end.
        task: where the images come from, augmented as in its episodes.
        steps: optimiser steps of 128 images.
        seed: of the linear layer, the batches and DropBlock.
        progress_bar: whether there is one.

    Returns:
        The share of images that the last 50 steps classified rightly before they learnt from them.
    """
    # A copy, so that an interrupt leaves the encoder as it was; one that is frozen has yet to learn.
    learner = copy.deepcopy(encoder).train().requires_grad_(True)
    device = next(learner.parameters()).device
    # Apart from those of the steps that follow, and of evaluations.
    rng = stream_rng(Stream.PRETRAINING, seed)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        head = nn.Linear(encoder.features, task.classes).to(device)
        rights = _train(learner, head, task, rng, steps, progress_bar)
    encoder.load_state_dict(learner.state_dict())
    return float(np.mean(rights[-_LAST:]))


def _train(
    encoder: nn.Module, head: nn.Module, task: FewShotClassification, rng: np.random.Generator, steps: int, bar: bool
) -> list[float]:
    """Train both; return the share of each step's images that was classified rightly."""
    device = next(encoder.parameters()).device
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rights = []
    with make_progress_bar(steps, show=bar, description="pretraining") as progress_bar:
        for _ in range(steps):
            images, labels = task.labelled_images(rng, _BATCH)
            right, loss = _classify(
                encoder, head, torch.as_tensor(images).to(device), torch.as_tensor(labels).to(device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            rights.append(right)
            progress_bar.update()
    return rights


def _classify(encoder: nn.Module, head: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    logits = head(encoder(images.float() / 127.5 - 1))
    return (logits.argmax(-1) == labels).float().mean().item(), functional.cross_entropy(logits, labels)
