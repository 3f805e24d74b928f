"""The `ObservationEncoder` behind the interface of Stable-Baselines3's features extractors."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

from plastic_agents.models.image_encoders import NO_ENCODER, EncoderConfig
from plastic_agents.models.observation_encoder import ObservationEncoder

_SMALLEST_NATURE_CNN = 36  # rows and columns of an image


class FeaturesExtractor(BaseFeaturesExtractor):
    """An `ObservationEncoder` for observations as Stable-Baselines3 prepares them.

    Stable-Baselines3 turns images into floats in [0, 1] and discrete values into one-hot vectors. Without an encoder,
    images go through its `NatureCNN`.

    Args:
        observation_space: Box, Discrete, MultiDiscrete, MultiBinary, or a flat Dict of these.
        rescale: whether vectors are rescaled by their bounds. Pass False for observations that are already normalised,
            for example by ``VecNormalize``.
        features_dim: number of features of an image that goes through `NatureCNN`; without effect on other
            observations.
        cnn_output_dim: the same for each image of a Dict.
        encoder: the encoder of images, instead of `NatureCNN`.
        normalized_image: whether images are in [0, 1] already. Every Box of three axes is then an image. A policy with
            ``normalize_images=False`` sets it.

    Attributes:
        observation_encoder: the `ObservationEncoder`, on the space of prepared observations.

    Raises:
        ValueError: images are too small for the convolutional network.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        rescale: bool = True,
        features_dim: int = 256,
        cnn_output_dim: int = 256,
        encoder: EncoderConfig = NO_ENCODER,
        normalized_image: bool = False,
    ) -> None:
        spaces_by_name = (
            observation_space.spaces if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        )
        is_dict = isinstance(observation_space, spaces.Dict)
        image_features = cnn_output_dim if is_dict else features_dim
        image_names = [
            name for name, space in spaces_by_name.items() if is_image_space(space, normalized_image=normalized_image)
        ]
        nature_names = image_names if encoder.name == "none" else []
        prepared: dict[str, spaces.Space[Any]] = {}
        for name, space in spaces_by_name.items():
            if name in nature_names:
                prepared[name] = _unbounded((image_features,))
            elif name in image_names:
                prepared[name] = spaces.Box(0, 1, space.shape, np.float32)
            elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
                prepared[name] = spaces.MultiBinary(int(get_flattened_obs_dim(space)))
            elif isinstance(space, spaces.Box) and not rescale:
                prepared[name] = _unbounded(space.shape)
            else:
                prepared[name] = space
        observation_encoder = ObservationEncoder(
            spaces.Dict(list(prepared.items())) if is_dict else prepared[""], encoder
        )
        super().__init__(observation_space, observation_encoder.out_features)
        self.observation_encoder = observation_encoder
        self.image_names, self.nature_names = tuple(image_names), tuple(nature_names)
        # Modules are stored by position, because the keys of a Dict may contain dots, which module names must not.
        self.nature_cnns = nn.ModuleList(
            _make_nature_cnn(spaces_by_name[name], image_features, normalized_image) for name in nature_names
        )

    @property
    def rescales(self) -> bool:
        """Whether the bounds of the space change an entry that belongs to no image."""
        return bool(self.observation_encoder.rescaled_names - set(self.image_names))

    def forward(self, observations: Tensor | dict[str, Tensor]) -> Tensor:
        """Encode prepared observations, [N, ...] or a dict of such tensors, to [N, features_dim]."""
        values = dict(observations) if isinstance(observations, dict) else {"": observations}
        for name, network in zip(self.nature_names, self.nature_cnns, strict=True):
            values[name] = network(values[name])
        features: Tensor = self.observation_encoder(values if isinstance(observations, dict) else values[""])
        return features


def _unbounded(shape: tuple[int, ...]) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


def _make_nature_cnn(space: spaces.Space[Any], features: int, normalized_image: bool) -> NatureCNN:
    if min(sorted(space.shape or ())[-2:]) < _SMALLEST_NATURE_CNN:
        raise ValueError(
            f"network must have an encoder for images smaller than {_SMALLEST_NATURE_CNN} x {_SMALLEST_NATURE_CNN}, "
            f"such as EncoderConfig('conv-4'), got {space.shape}"
        )
    return NatureCNN(cast(spaces.Box, space), features, normalized_image)
