"""`FeatureCache`: the features of images that a frozen encoder has encoded before; images repeat across episodes."""

from __future__ import annotations

from hashlib import blake2b
from itertools import chain

import torch
from torch import Tensor, nn

# The last bits of a convolution depend on the batch size. The cache always encodes batches of this size, so features do
# not depend on earlier calls.
_BATCH_SIZE = 16


class FeatureCache:
    """Features by image. The cache is emptied when the encoder's parameters change and when it exceeds its limit.

    Copies and pickles of a cache are empty. The cache does not notice a write to a parameter's ``data``.

    Args:
        limit: the most bytes of features to keep.
    """

    def __init__(self, limit: int = 2**28) -> None:
        self.limit = limit
        self._version: list[tuple[int, object]] = []
        self._features: dict[bytes, Tensor] = {}

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[int]]:
        return FeatureCache, (self.limit,)

    @torch.no_grad()
    def encode(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Encode images [N, C, H, W] to features [N, F] without a gradient; the encoder must be in evaluation mode."""
        tensors = chain(encoder.parameters(), encoder.buffers())
        # Tensors made in inference mode have no version counter: an encoder made in that mode is never cached.
        version: list[tuple[int, object]] = [
            (id(tensor), object() if tensor.is_inference() else tensor._version) for tensor in tensors
        ]
        if torch.is_autocast_enabled("cpu"):
            version.append((0, torch.get_autocast_dtype("cpu")))
        if version != self._version:
            self._version, self._features = version, {}
        image_bytes = images.flatten(1).view(torch.uint8).numpy()  # numpy has no bfloat16
        keys = [blake2b(image, digest_size=16).digest() for image in image_bytes]
        missing = {key: index for index, key in enumerate(keys) if key not in self._features}
        if missing:
            indices = [*missing.values()]
            indices += indices[:1] * (-len(missing) % _BATCH_SIZE)
            encoded = torch.cat([encoder(images[batch]) for batch in torch.tensor(indices).split(_BATCH_SIZE)])
            self._features.update(zip(missing, encoded[: len(missing)].clone(), strict=True))
        features = torch.stack([self._features[key] for key in keys])
        if len(self._features) * features[0].nbytes > self.limit:
            self._features = {}
        return features
