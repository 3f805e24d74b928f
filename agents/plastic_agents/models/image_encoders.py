"""Convolutional networks from images to features, and their description.

Shape letters: N images, C channels, H rows, W columns, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from plastic_agents.plain_data import register
from plastic_envs.validation import flag, one_of, whole_number

EncoderName = Literal["none", "conv-4", "resnet-12"]
ImageShape = tuple[int, int, int]

# Settings of MetaOptNet: the final drop rate, the batches over which it grows from 0, and the side of a block.
_DROP_RATE, _DROP_GROWTH, _DROP_BLOCK = 0.1, 40_000, 5
_RESNET_CHANNELS = (64, 160, 320, 640)


@register
@dataclass(frozen=True)
class EncoderConfig:
    """Description of an encoder of images, and of its pretraining.

    Attributes:
        name: ``"conv-4"``, ``"resnet-12"``, or ``"none"`` for plain pixels.
        channels: number of channels of each Conv-4 block.
        pretraining: optimiser steps of plain classification over the training classes, before the training itself.
        frozen: whether the encoder does not change after its pretraining.

    Raises:
        TypeError: a number that is not a whole number, or a ``frozen`` that is not a bool.
        ValueError: an unknown name, a number that is too small, or pretraining or freezing without an encoder.
    """

    name: EncoderName = "none"
    channels: int = 64
    pretraining: int = 0
    frozen: bool = False

    def __post_init__(self) -> None:
        one_of("name", self.name, get_args(EncoderName))
        # A numpy number becomes a Python number, which a checkpoint can store.
        object.__setattr__(self, "channels", whole_number("channels", self.channels, at_least=1))
        object.__setattr__(self, "pretraining", whole_number("pretraining", self.pretraining, at_least=0))
        object.__setattr__(self, "frozen", flag("frozen", self.frozen))
        if self.name == "none" and (self.pretraining or self.frozen):
            raise ValueError(
                f"pretraining and frozen need an encoder, got name='none' with {self.pretraining} and {self.frozen}"
            )

    def make(self, image_shape: ImageShape) -> Conv4 | ResNet12:
        """Make the encoder for images [C, H, W]; torch's global generator draws its parameters.

        Raises:
            ValueError: images are too small, or ``name`` is ``"none"``.
        """
        if self.name == "none":
            raise ValueError("name must be 'conv-4' or 'resnet-12' to make an encoder, got 'none'")
        return _ENCODERS[self.name](image_shape, self.channels)


NO_ENCODER = EncoderConfig()


class Conv4(nn.Module):
    """Four blocks of a 3 x 3 convolution, batch normalisation, relu and 2 x 2 max-pooling.

    Source: Vinyals et al., 2016 (arXiv 1606.04080); Snell et al., 2017 (arXiv 1703.05175).

    Args:
        image_shape: C, H, W.
        channels: number of channels of each block.

    Attributes:
        out_features: number of features F.
    """

    def __init__(self, image_shape: ImageShape, channels: int = 64) -> None:
        super().__init__()
        height, width = _pooled_sides(image_shape)
        in_channels = (image_shape[0], channels, channels, channels)
        self.blocks = nn.Sequential(*(self._block(size, channels) for size in in_channels))
        self.out_features = channels * height * width
        # On CPUs, pooling in this memory format takes a third of the time.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's type hints

    @staticmethod
    def _block(in_channels: int, channels: int) -> nn.Module:
        convolution = nn.Conv2d(in_channels, channels, 3, padding=1)
        return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, images: Tensor) -> Tensor:
        """Encode images [N, C, H, W] to features [N, F]."""
        features: Tensor = self.blocks(images.to(memory_format=torch.channels_last)).flatten(1)
        return features


class ResNet12(nn.Module):
    """Four residual blocks of three convolutions, with dropout in the first two and DropBlock in the others.

    Source: Lee et al., 2019 (MetaOptNet, arXiv 1904.03758), with its settings. Unlike there, features are averaged over
    the positions of the last block, because fast weights for every position would not fit into memory.

    Args:
        image_shape: C, H, W.

    Attributes:
        out_features: number of features, 640.
    """

    out_features = _RESNET_CHANNELS[-1]

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__()
        _pooled_sides(image_shape)
        in_channels = (image_shape[0], *_RESNET_CHANNELS[:-1])
        drop_sides = (1, 1, _DROP_BLOCK, _DROP_BLOCK)
        sizes = zip(in_channels, _RESNET_CHANNELS, drop_sides, strict=True)
        self.blocks = nn.Sequential(*(_Residual(*block_sizes) for block_sizes in sizes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, images: Tensor) -> Tensor:
        """Encode images [N, C, H, W] to features [N, 640]."""
        features: Tensor = self.blocks(images).mean(dim=(2, 3))
        return features


class _Residual(nn.Module):
    def __init__(self, in_channels: int, channels: int, drop_side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for size in (in_channels, channels, channels):
            convolution = nn.Conv2d(size, channels, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(channels), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.drop = DropBlock(_DROP_RATE, drop_side, growth=_DROP_GROWTH)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.layers(x) + self.shortcut(x), 0.1)
        dropped: Tensor = self.drop(functional.max_pool2d(x, 2))
        return dropped


class DropBlock(nn.Module):
    """Dropout of square regions of each channel; the remaining features are scaled up.

    Source: Ghiasi et al., 2018 (arXiv 1810.12890). The rate of corners, gamma in the paper, is chosen to drop a
    fraction ``rate`` of the features on average if regions did not overlap.

    Args:
        rate: the final fraction of features to drop, in [0, 1).
        side: rows and columns of a region, at most those of the feature map; 1 is ordinary dropout.
        growth: number of batches over which the fraction grows from 0 to ``rate``.
    """

    batches: Tensor

    def __init__(self, rate: float, side: int, growth: int) -> None:
        super().__init__()
        self.rate, self.side, self.growth = rate, side, growth
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Drop regions of features [N, C, H, W] in training mode; return them unchanged in evaluation mode."""
        if not self.training:
            return x
        self.batches += 1
        rate = self.rate * min(1.0, int(self.batches) / self.growth)
        height, width = x.shape[2:]
        side = min(self.side, height, width)
        rows, columns = height - side + 1, width - side + 1
        gamma = rate * height * width / (side * side * rows * columns)
        corners = (torch.rand(*x.shape[:2], rows, columns, device=x.device) < gamma).to(x.dtype)
        # Every corner covers the square below and to the right of it.
        mask = 1 - functional.max_pool2d(functional.pad(corners, [side - 1] * 4), side, stride=1)
        # Normalise by the mean over the batch, as in the paper. Clamp it, because all of a batch may be dropped.
        return x * mask / mask.mean().clamp_min(1e-6)


_ENCODERS: dict[str, Callable[[ImageShape, int], Conv4 | ResNet12]] = {
    "conv-4": Conv4,
    "resnet-12": lambda image_shape, channels: ResNet12(image_shape),
}


def _pooled_sides(image_shape: ImageShape) -> tuple[int, int]:
    """Return the rows and columns of a feature map after pooling four times."""
    height, width = (side // 16 for side in image_shape[1:])
    if not (height and width):
        raise ValueError(f"images must have 16 rows and columns, or more, got {image_shape}")
    return height, width
