"""`ObservationEncoder`: from observations to the features that a core takes.

Shape letters: N images, C channels, H rows, W columns, F features; [...] are leading axes, such as steps and sequences.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from plastic_agents.models.feature_cache import FeatureCache
from plastic_agents.models.image_encoders import NO_ENCODER, EncoderConfig, ImageShape

# Bounds with a larger absolute value say little about how large observations are.
_LARGEST_BOUND = 1e3
# Gray, RGB or RGBA; more channels than these are recognised only as the first axis.
_MOST_CHANNELS_LAST = 4


class ObservationEncoder(nn.Module):
    """Vectors and images rescaled to [-1, 1], images optionally encoded, all concatenated in the space's order.

    Each entry of a Box is rescaled by its bounds. An entry is left as it is if its bounds are equal or infinite, or if
    one of them exceeds 1000 in absolute value. MultiBinary observations are left as they are.

    With an encoder, every Box of three axes is an image, whatever its key. It goes through an `ImageEncoder` of its
    own; without an encoder it is flattened like any other Box. The channels are the first axis of an image, unless the
    last axis is the smallest and has at most 4 entries.

    Args:
        observation_space: a Box, a MultiBinary, or a flat Dict of these.
        config: the encoder of images.

    Attributes:
        out_features: number of features F.

    Raises:
        TypeError: the space is of another kind.
        ValueError: ``config`` names an encoder for a space without images, or with images that are too small for it.
    """

    def __init__(self, observation_space: spaces.Space[Any], config: EncoderConfig = NO_ENCODER) -> None:
        super().__init__()
        self.observation_space = observation_space
        spaces_by_name = _flat_spaces(observation_space)
        self.names = tuple(spaces_by_name)
        # Modules are stored by position, because the keys of a Dict may contain dots, which module names must not.
        self.rescale = nn.ModuleList(_Rescale(space) for space in spaces_by_name.values())
        self.encoders = nn.ModuleList(_make_encoder(space, config) for space in spaces_by_name.values())
        if config.name != "none" and not self.image_encoders:
            raise ValueError(f"encoder must be 'none' for observations without images, got {config.name!r}")
        self.out_features = sum(cast(int, encoder.out_features) for encoder in self.encoders)

    @property
    def image_encoders(self) -> list[ImageEncoder]:
        """The encoders of the images, in the space's order."""
        return [encoder for encoder in self.encoders if isinstance(encoder, ImageEncoder)]

    @property
    def rescaled_names(self) -> set[str]:
        """The keys of the Dict whose values are changed by their bounds; ``{""}`` for another space."""
        return {name for name, rescale in zip(self.names, self.rescale, strict=True) if cast(_Rescale, rescale).changes}

    def forward(self, observation: Tensor | dict[str, Tensor]) -> Tensor:
        """Encode observations: a tensor [..., *shape], or a dict of such tensors for a Dict space, to [..., F].

        Raises:
            ValueError: a key is missing, or the last axes of a tensor are not those of its space.
        """
        values = observation if isinstance(observation, dict) else {"": observation}
        missing = [name for name in self.names if name not in values]
        if missing:
            raise ValueError(f"observation must have the keys {list(self.names)}, got {list(values)}")
        features = [
            encode(rescale(values[name]))
            for name, rescale, encode in zip(self.names, self.rescale, self.encoders, strict=True)
        ]
        return features[0] if len(features) == 1 else torch.cat(features, dim=-1)


class ImageEncoder(nn.Module):
    """A convolutional network for images, and the standardisation of its features over images.

    The networks end in a relu, and plastic cores do not learn from features that all share one large mean. The network
    runs on all images of a segment at once. In training mode batch normalisation therefore sees them together: encoding
    step by step equals encoding a segment in evaluation mode only.

    Args:
        shape: shape of an image, [C, H, W] or [H, W, C].
        config: the convolutional network, and whether it is frozen. A frozen network is not trained and stays in
            evaluation mode, its batch normalisation included. On a CPU, the features of images that it encoded before
            are then looked up.
    """

    def __init__(self, shape: ImageShape, config: EncoderConfig) -> None:
        super().__init__()
        self.channels_last = shape[2] <= _MOST_CHANNELS_LAST and shape[2] < min(shape[:2])
        self.image_shape = (shape[2], *shape[:2]) if self.channels_last else shape
        self.network = config.make(self.image_shape)
        self.frozen = config.frozen
        self.out_features = self.network.out_features
        self.standardise = nn.BatchNorm1d(self.out_features, affine=False)
        self._cache = FeatureCache()
        if self.frozen:
            self.network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ImageEncoder:
        """Switch between training and evaluation mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Encode images in [-1, 1], [..., *shape], to features [..., F]."""
        if self.channels_last:
            images = images.movedim(-1, -3)
        leading = images.shape[:-3]
        images = images.reshape(-1, *self.image_shape)
        # A GPU encodes images faster than they can be looked up, and looked-up features have no gradient.
        use_cache = self.frozen and images.device.type == "cpu" and not images.requires_grad
        features = self._cache.encode(self.network, images) if use_cache else self.network(images)
        standardised: Tensor = self.standardise(features).unflatten(0, leading)
        return standardised


class _Rescale(nn.Module):
    """[..., *shape] to the same shape, by the bounds of the entries that have moderate ones."""

    centre: Tensor
    half_range: Tensor

    def __init__(self, space: spaces.Box | spaces.MultiBinary) -> None:
        super().__init__()
        low, high = np.full(space.shape, -1.0), np.full(space.shape, 1.0)
        if isinstance(space, spaces.Box):
            space_low, space_high = space.low.astype(np.float64), space.high.astype(np.float64)
            moderate = np.maximum(np.abs(space_low), np.abs(space_high)) <= _LARGEST_BOUND
            # An entry that cannot vary has no range to be divided by.
            rescaled = moderate & (space_high > space_low)
            low, high = np.where(rescaled, space_low, low), np.where(rescaled, space_high, high)
        dtype = torch.get_default_dtype()  # that of the other modules' parameters
        self.register_buffer("centre", torch.as_tensor((low + high) / 2, dtype=dtype), persistent=False)
        self.register_buffer("half_range", torch.as_tensor((high - low) / 2, dtype=dtype), persistent=False)

    @property
    def changes(self) -> bool:
        """Whether the bounds of any entry are not -1 and 1."""
        return bool(((self.centre != 0) | (self.half_range != 1)).any())

    def forward(self, observation: Tensor) -> Tensor:
        n_axes = self.centre.dim()
        if observation.shape[observation.dim() - n_axes :] != self.centre.shape:
            raise ValueError(
                f"observation must have shape [..., {', '.join(map(str, self.centre.shape))}], "
                f"got {list(observation.shape)}"
            )
        # Subtracting the lower bound instead of the centre would cancel the digits of small values.
        return ((observation - self.centre) / self.half_range).to(self.centre.dtype)


class _Flatten(nn.Module):
    """[..., *shape] to [..., number of entries]."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.n_axes, self.out_features = len(shape), math.prod(shape)

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[: x.dim() - self.n_axes], self.out_features)


def _flat_spaces(space: spaces.Space[Any]) -> dict[str, spaces.Box | spaces.MultiBinary]:
    """Return the spaces of a Dict by key, or another space under an empty key."""
    spaces_by_name = dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}
    for value in spaces_by_name.values():
        if not isinstance(value, spaces.Box | spaces.MultiBinary):
            raise TypeError(f"observation_space must be a Box, a MultiBinary or a Dict of these, got {space}")
    return cast(dict[str, spaces.Box | spaces.MultiBinary], spaces_by_name)


def _make_encoder(space: spaces.Box | spaces.MultiBinary, config: EncoderConfig) -> nn.Module:
    shape = space.shape
    if config.name != "none" and isinstance(space, spaces.Box) and len(shape) == 3:
        return ImageEncoder(shape, config)
    return _Flatten(shape)
