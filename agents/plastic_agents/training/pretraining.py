"""Pretraining of an image encoder by plain classification over all training classes."""

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
_BATCH_SIZE = 128
_ACCURACY_STEPS = 50  # the reported accuracy is the mean over this many final steps


def pretrain(
    encoder: Conv4 | ResNet12, task: FewShotClassification, steps: int, *, seed: int = 0, progress_bar: bool = False
) -> float:
    """Train an encoder and a temporary linear layer to classify all classes of the task's split.

    Chen et al., 2019 (arXiv 1904.04232) show that this alone is a strong baseline. The optimiser is Adam, with a
    cosine schedule that ends at 0. The seed determines all random draws.

    Args:
        encoder: an encoder of images in [-1, 1], [N, C, H, W]; its parameters are replaced when training has finished.
        task: the source of the images, which are augmented as in its episodes.
        steps: optimiser steps of 128 images.
        seed: seed of the linear layer, the batches and DropBlock.
        progress_bar: whether to show a progress bar.

    Returns:
        The accuracy on the batches of the last 50 steps, measured before the step on each batch.
    """
    # Train a copy, so an interrupt leaves the encoder unchanged. A frozen encoder is trained here too.
    trained = copy.deepcopy(encoder).train().requires_grad_(True)
    device = next(trained.parameters()).device
    # A stream apart from those of training and evaluation.
    rng = stream_rng(Stream.PRETRAINING, seed)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        head = nn.Linear(encoder.out_features, task.classes).to(device)
        accuracies = _train(trained, head, task, rng, steps, progress_bar)
    encoder.load_state_dict(trained.state_dict())
    return float(np.mean(accuracies[-_ACCURACY_STEPS:]))


def _train(
    encoder: nn.Module, head: nn.Module, task: FewShotClassification, rng: np.random.Generator, steps: int, bar: bool
) -> list[float]:
    """Train both modules; return the accuracy on the batch of every step."""
    device = next(encoder.parameters()).device
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    accuracies = []
    with make_progress_bar(steps, show=bar, description="pretraining") as progress_bar:
        for _ in range(steps):
            images, labels = task.labelled_images(rng, _BATCH_SIZE)
            accuracy, loss = _classify(
                encoder, head, torch.as_tensor(images).to(device), torch.as_tensor(labels).to(device)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            accuracies.append(accuracy)
            progress_bar.update()
    return accuracies


def _classify(encoder: nn.Module, head: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Return the accuracy and the cross-entropy for uint8 images [N, C, H, W] and labels [N]."""
    logits = head(encoder(images.float() / 127.5 - 1))
    return (logits.argmax(-1) == labels).float().mean().item(), functional.cross_entropy(logits, labels)
