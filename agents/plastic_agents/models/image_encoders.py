"""Encoders: convolutional networks from images to features. Shape letters: N images, C channels, H rows, W columns."""

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

# MetaOptNet's: probability of dropping, which grows from 0 over this many batches, and the blocks' side.
_DROP_RATE, _DROP_GROWTH, _DROP_BLOCK = 0.1, 40_000, 5
_RESNET_CHANNELS = (64, 160, 320, 640)


@register
@dataclass(frozen=True)
class EncoderConfig:
    """Description of an encoder, and of how it is trained before it is part of a network.

    Attributes:
        name: ``"conv-4"``, ``"resnet-12"``, or ``"none"``: pixels are taken as they are.
        channels: of Conv-4.
        pretraining: optimiser steps of plain classification over the training classes, before all else.
        frozen: whether it stays what it is then.
    """

    name: EncoderName = "none"
    channels: int = 64
    pretraining: int = 0
    frozen: bool = False

    def __post_init__(self) -> None:
        one_of("name", self.name, get_args(EncoderName))
        whole_number("channels", self.channels, at_least=1)
        whole_number("pretraining", self.pretraining, at_least=0)
        flag("frozen", self.frozen)
        if self.name == "none" and (self.pretraining or self.frozen):
            raise ValueError(
                f"pretraining and frozen need an encoder, got name='none' with {self.pretraining} and {self.frozen}"
            )

    def make(self, image_shape: ImageShape) -> Conv4 | ResNet12:
        """Make the encoder, its parameters drawn from torch's global generator.

        Raises:
            ValueError: images are too small, or there is no encoder.
        """
        if self.name == "none":
            raise ValueError("name of an encoder must be that of one, got 'none'")
        return _ENCODERS[self.name](image_shape, self.channels)


class Conv4(nn.Module):
    """Four blocks of a 3 x 3 convolution, batch normalisation, relu and 2 x 2 max-pooling.

    Source: Vinyals et al., 2016 (arXiv 1606.04080); Snell et al., 2017 (arXiv 1703.05175).

    Args:
        image_shape: C, H, W.
        channels: of each block.

    Attributes:
        features: their number F.
    """

    def __init__(self, image_shape: ImageShape, channels: int = 64) -> None:
        super().__init__()
        sides = _check_images(image_shape)
        ins = (image_shape[0], channels, channels, channels)
        self.blocks = nn.Sequential(*(self._block(each, channels) for each in ins))
        self.features = channels * sides[0] * sides[1]
        # Pooling in this order takes a third of the time on processors.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's hints lack it

    @staticmethod
    def _block(ins: int, outs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(ins, outs, 3, padding=1), nn.BatchNorm2d(outs), nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to features [N, F]."""
        features: Tensor = self.blocks(images.to(memory_format=torch.channels_last)).flatten(1)
        return features


class ResNet12(nn.Module):
    """Four residual blocks of three convolutions, with dropout in the first two and DropBlock in the others.

    Source: Lee et al., 2019 (MetaOptNet, arXiv 1904.03758), whose settings these are; but features are averaged over
    the last block's places, since fast weights for each place would not fit into memory.

    Args:
        image_shape: C, H, W.

    Attributes:
        features: their number, 640.
    """

    features = _RESNET_CHANNELS[-1]

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__()
        _check_images(image_shape)
        ins = (image_shape[0], *_RESNET_CHANNELS[:-1])
        blocks = (1, 1, _DROP_BLOCK, _DROP_BLOCK)
        self.blocks = nn.Sequential(*(_Residual(*each) for each in zip(ins, _RESNET_CHANNELS, blocks, strict=True)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images [N, C, H, W] to features [N, 640]."""
        features: Tensor = self.blocks(images).mean(dim=(2, 3))
        return features


class _Residual(nn.Module):
    def __init__(self, ins: int, outs: int, block: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for each in (ins, outs, outs):
            layers += [nn.Conv2d(each, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.LeakyReLU(0.1)]
        self.layers = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(ins, outs, 1, bias=False), nn.BatchNorm2d(outs))
        self.drop = DropBlock(_DROP_RATE, block, growth=_DROP_GROWTH)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.layers(x) + self.shortcut(x), 0.1)
        dropped: Tensor = self.drop(functional.max_pool2d(x, 2))
        return dropped


class DropBlock(nn.Module):
    """Drops square regions of each channel while training, and scales up what is left; dropout where a side is 1.

    Source: Ghiasi et al., 2018 (arXiv 1810.12890). Their rate of centres, gamma, is such that a share ``rate`` is
    dropped in the mean, but for regions that overlap.

    Args:
        rate: the share to drop in the end, in [0, 1).
        side: rows and columns of a region; at most those of the map.
        growth: batches over which the share grows from 0 to ``rate``.
    """

    batches: Tensor

    def __init__(self, rate: float, side: int, growth: int) -> None:
        super().__init__()
        self.rate, self.side, self.growth = rate, side, growth
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, C, H, W] to the same shape; unchanged unless in training."""
        if not self.training:
            return x
        self.batches += 1
        rate = self.rate * min(1.0, int(self.batches) / self.growth)
        height, width = x.shape[2:]
        side = min(self.side, height, width)
        rows, columns = height - side + 1, width - side + 1
        gamma = rate * height * width / (side * side * rows * columns)
        corners = (torch.rand(*x.shape[:2], rows, columns, device=x.device) < gamma).to(x.dtype)
        # Each corner covers the square from it on.
        kept = 1 - functional.max_pool2d(functional.pad(corners, [side - 1] * 4), side, stride=1)
        # The mean is taken over all, as its source does; nothing is left of a batch of one all of whose places go.
        return x * kept / kept.mean().clamp_min(1e-6)


_ENCODERS: dict[str, Callable[[ImageShape, int], Conv4 | ResNet12]] = {
    "conv-4": Conv4,
    "resnet-12": lambda image_shape, channels: ResNet12(image_shape),
}


def _check_images(image_shape: ImageShape) -> tuple[int, int]:
    """The sides that are left after four times of pooling."""
    height, width = (side // 16 for side in image_shape[1:])
    if not (height and width):
        raise ValueError(f"images must have 16 rows and columns, or more, got {image_shape}")
    return height, width
