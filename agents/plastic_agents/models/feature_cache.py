"""A memory of what a frozen encoder makes of images: one that comes again, as in episodes they all do, is looked up."""

from __future__ import annotations

from hashlib import blake2b
from itertools import chain

import torch
from torch import Tensor, nn

# Convolutions round otherwise for batches of other sizes. All that are made here have this one, so that an image's
# features are the same bits whichever images came before.
_BATCH = 16


class FeatureCache:
    """Features by image. They are forgotten when the encoder's parameters change, and when they become too many.

    Copies, also those in files, begin with none. What is written into a parameter's ``data`` goes unnoticed.

    Args:
        limit: bytes of features.
    """

    def __init__(self, limit: int = 2**28) -> None:
        self.limit = limit
        self._version: list[tuple[int, object]] = []
        self._features: dict[bytes, Tensor] = {}

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[int]]:
        return FeatureCache, (self.limit,)

    @torch.no_grad()
    def encode(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Features [N, F] of images [N, C, H, W], by an encoder in evaluation mode; without gradient."""
        parts = chain(encoder.parameters(), encoder.buffers())
        # Tensors made in inference mode count no changes: with such an encoder nothing is kept.
        version = [(id(part), object() if part.is_inference() else part._version) for part in parts]
        if version != self._version:
            self._version, self._features = version, {}
        rows = images.flatten(1).view(torch.uint8).numpy()  # as bytes, since numpy has no bfloat16
        keys = [blake2b(row, digest_size=16).digest() for row in rows]
        new = {key: place for place, key in enumerate(keys) if key not in self._features}
        if new:
            places = [*new.values()]
            places += places[:1] * (-len(new) % _BATCH)
            made = torch.cat([encoder(images[part]) for part in torch.tensor(places).split(_BATCH)])
            self._features.update(zip(new, made[: len(new)].clone(), strict=True))
        features = torch.stack([self._features[key] for key in keys])
        if len(self._features) * features[0].nbytes > self.limit:
            self._features = {}
        return features
