"""A network that sees images through an encoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from plastic_agents.models.core import CoreOutput, Hooks, RecurrentCore, State
from plastic_agents.models.feature_cache import FeatureCache
from plastic_agents.models.image_encoders import Conv4, ImageShape, ResNet12


def image_shape(space: spaces.Space[Any]) -> ImageShape | None:
    """C, H, W of the image with which flattened observations begin, if they do."""
    first = next(iter(space.values())) if isinstance(space, spaces.Dict) else space
    shape = first.shape or ()
    return shape if len(shape) == 3 else None


class ImageCore(RecurrentCore):
    """An encoder before a recurrent core.

    Inputs begin with an image's numbers; the core gets the image's features in their place, standardised over images:
    encoders end in a relu, and plastic cores do not learn from features that all share one large mean. Over a segment
    the encoder runs on all images at once. While training, batch normalisation sees them together: `step` repeated
    equals `unroll` in evaluation only.

    Args:
        encoder: from images to features.
        core: takes the features and what follows the image.
        image_shape: C, H, W.
        frozen: whether the encoder is left as it is, its own batch normalisation included. On the processor, features
            of images that it saw before are then looked up.
    """

    encoder: Conv4 | ResNet12

    def __init__(self, encoder: Conv4 | ResNet12, core: RecurrentCore, image_shape: ImageShape, frozen: bool) -> None:
        super().__init__(math.prod(image_shape) + core.input_size - encoder.features, core.output_size)
        self.encoder, self.core, self.image_shape, self.frozen = encoder, core, image_shape, frozen
        self.standardise = nn.BatchNorm1d(encoder.features, affine=False)
        self._cache = FeatureCache()
        if frozen:
            encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ImageCore:
        """Switch between training and evaluation; a frozen encoder stays in the latter."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def initial_state(self, batch_size: int) -> State:
        """Return the core's state at the start of ``batch_size`` episodes."""
        return self.core.initial_state(batch_size)

    def step(self, x: Tensor, state: State) -> tuple[CoreOutput, State]:
        """Make one step from x [B, I]."""
        return self.core.step(self.encode(x), state)

    def unroll(
        self,
        xs: Tensor,
        state: State | None = None,
        episode_starts: Tensor | None = None,
        hooks: Hooks | None = None,
    ) -> tuple[CoreOutput, State]:
        """Run over a segment xs [T, B, I], all images encoded at once; see `RecurrentCore.unroll`."""
        self.check(xs, state, episode_starts)
        return self.core.unroll(self.encode(xs), state, episode_starts, hooks)

    def encode(self, xs: Tensor) -> Tensor:
        """Inputs [..., I] as the core takes them: features in the image's place."""
        image, rest = xs.split([math.prod(self.image_shape), xs.shape[-1] - math.prod(self.image_shape)], dim=-1)
        images = image.reshape(-1, *self.image_shape)
        # A GPU encodes images faster than they are looked up; and who asks for an image's gradient is to have it.
        known = self.frozen and images.device.type == "cpu" and not images.requires_grad
        features = self._cache.encode(self.encoder, images) if known else self.encoder(images)
        return torch.cat([self.standardise(features).unflatten(0, xs.shape[:-1]), rest], dim=-1)
