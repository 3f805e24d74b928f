"""From observations to the vector that a core takes."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

_SMALLEST = 36  # rows and columns of an image that NatureCNN can take
# Bounds with a larger absolute value say little about how large observations are.
_LARGEST_BOUND = 1e3


class ObservationEncoder(BaseFeaturesExtractor):
    """Vectors rescaled to [-1, 1] by moderate bounds of their space, images through a convolutional network.

    Observations come as Stable-Baselines3 prepares them: images as floats in [0, 1], discrete values one-hot. The parts
    of a Dict are put one after the other, in the space's order.

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a flat Dict of these.
        rescale: whether vectors are rescaled. Components are left as they are where a bound exceeds 1000 in absolute
            value. For observations that are already normalised, as by ``VecNormalize``, False.
        image_features: length of an image's features.
        flat_images: whether images are only rescaled and flattened, for a core that has an encoder of its own.
        normalized_image: whether images are in [0, 1] already: every Box with three axes is an image then. A policy
            with ``normalize_images=False`` sets it.

    Raises:
        ValueError: images are too small for the convolutional network.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        rescale: bool = True,
        image_features: int = 256,
        flat_images: bool = False,
        normalized_image: bool = False,
    ) -> None:
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        encoders: dict[str, nn.Module] = {}
        size = 0
        for name, space in parts.items():
            is_image = is_image_space(space, normalized_image=normalized_image)
            if is_image and flat_images:
                encoders[name] = _Flat()
                size += int(get_flattened_obs_dim(space))
            elif is_image:
                if min(sorted(space.shape or ())[-2:]) < _SMALLEST:
                    raise ValueError(
                        f"network must have an encoder for images smaller than {_SMALLEST} x {_SMALLEST}, such as "
                        f"EncoderConfig('conv-4'), got {space.shape}"
                    )
                encoders[name] = NatureCNN(cast(spaces.Box, space), image_features, normalized_image)
                size += image_features
            else:
                bounded = rescale and isinstance(space, spaces.Box)
                encoders[name] = _Rescale(cast(spaces.Box, space)) if bounded else nn.Flatten()
                size += int(get_flattened_obs_dim(space))
        super().__init__(observation_space, size)
        # Names of a Dict's parts may hold what names of modules must not: they go by their place.
        self.names = tuple(encoders)
        self.encoders = nn.ModuleList(encoders.values())

    @property
    def rescales(self) -> bool:
        """Whether a component is changed by the bounds of its space."""
        return any(isinstance(encode, _Rescale) and encode.changes for encode in self.encoders)

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """[N, ...] or a dict of such to [N, features_dim]."""
        parts = [observations[name] for name in self.names] if isinstance(observations, dict) else [observations]
        return torch.cat([encode(part) for encode, part in zip(self.encoders, parts, strict=True)], dim=1)


class _Flat(nn.Module):
    """Images in [0, 1], [N, C, H, W], to numbers in [-1, 1], [N, size]."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * 2 - 1


class _Rescale(nn.Module):
    """[N, ...] to [N, size], by the bounds where both are moderate."""

    centre: Tensor
    half_range: Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
        # A value that cannot vary has no range to be divided by.
        bounded = (high > low) & (np.maximum(np.abs(low), np.abs(high)) <= _LARGEST_BOUND)
        low, high = np.where(bounded, low, -1), np.where(bounded, high, 1)
        self.register_buffer("centre", torch.as_tensor((low + high) / 2, dtype=torch.float32), persistent=False)
        self.register_buffer("half_range", torch.as_tensor((high - low) / 2, dtype=torch.float32), persistent=False)

    @property
    def changes(self) -> bool:
        return bool(((self.centre != 0) | (self.half_range != 1)).any())

    def forward(self, observation: Tensor) -> Tensor:
        # From the centre: subtracting the lower bound first would cancel the digits of small values.
        return (observation.flatten(1) - self.centre) / self.half_range
