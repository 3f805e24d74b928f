"""Packing of matrices and vectors into the arrays of the kernel, as autograd functions.

Shape letters: B sequences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plastic_agents.models.plastic.fast_weights import FastWeight
from plastic_agents.models.plastic.forms.compiled.memory import PaddedMatrix
from plastic_agents.models.plastic.forms.compiled.program import LINE_BYTES, MatrixSize


class Layout:
    """The layout of a set of matrices: each has a weight, and a bias as its last row or none."""

    def __init__(
        self, sizes: Sequence[MatrixSize], matrices: Sequence[PaddedMatrix], names: Sequence[tuple[str, str | None]]
    ) -> None:
        self.sizes, self.matrices, self.names = sizes, matrices, names
        self.size = sum(matrix.rows * matrix.cols for matrix in matrices)

    def views(self, packed: Tensor) -> list[Tensor]:
        """Return views of ``packed`` [..., size]: each matrix [..., rows, cols] without padding."""
        return [
            self._padded(packed, matrix)[..., : size.rows, : size.cols]
            for size, matrix in zip(self.sizes, self.matrices, strict=True)
        ]

    def _padded(self, packed: Tensor, matrix: PaddedMatrix) -> Tensor:
        flat = packed[..., matrix.offset : matrix.offset + matrix.rows * matrix.cols]
        return flat.reshape(*flat.shape[:-1], matrix.rows, matrix.cols)

    def parts(self, packed: Tensor) -> list[Tensor]:
        """Return views of ``packed``: the weight of each matrix [..., in, out], followed by its bias [..., out]."""
        parts = []
        for size, view in zip(self.sizes, self.views(packed), strict=True):
            parts += [view[..., :-1, :], view[..., -1, :]] if size.bias else [view]
        return parts

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """Undo `parts`: return one tensor [..., size], with zeros as padding."""
        packed: Tensor = _Pack.apply(self, *parts)  # type: ignore[no-untyped-call]
        return packed

    def clear_padding(self, packed: Tensor) -> None:
        """Zero the padding only: torch would zero all of ``packed`` in several threads."""
        for size, matrix in zip(self.sizes, self.matrices, strict=True):
            padded = self._padded(packed, matrix)
            padded[..., size.rows :, :] = 0
            padded[..., : size.rows, size.cols :] = 0

    def fast_parts(self, fast: Mapping[str, FastWeight]) -> list[Tensor]:
        """Return the tensors of a state's fast part that are in matrices, in the order of `parts`."""
        found = []
        for layer, key in self.names:
            if key is None:
                found += [fast[layer].weight, fast[layer].bias]
            else:
                found.append((fast[layer].rule or {})[key])
        return found

    def unpack(self, packed: Tensor, vectors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, FastWeight]:
        """Return the fast part of a state from its matrices, and from the vectors of the rule's state."""
        parts, fast = iter(self.parts(packed)), dict[str, FastWeight]()
        for layer, key in self.names:
            if key is None:
                fast[layer] = FastWeight(next(parts), next(parts), dict(vectors.get(layer, {})) or None)
            else:
                fast[layer] = fast[layer]._replace(rule=(fast[layer].rule or {}) | {key: next(parts)})
        return fast

    def find_packed(self, fast: Mapping[str, FastWeight]) -> Tensor | None:
        """Return the memory [B, size] that `unpack` made ``fast`` from, without a graph, or None if there is none."""
        found = self.fast_parts(fast)
        weight = found[0]  # at the beginning of the memory, if packed
        shape = (weight.shape[0], self.size)
        if weight.data_ptr() % LINE_BYTES or weight.storage_offset():
            return None
        if weight.untyped_storage().nbytes() != math.prod(shape) * weight.itemsize:
            return None
        packed = weight.detach().as_strided(shape, (self.size, 1))
        for leaf, view in zip(found, self.parts(packed), strict=True):
            if leaf.data_ptr() != view.data_ptr() or leaf.shape != view.shape or leaf.stride() != view.stride():
                return None
        return packed


class _Pack(torch.autograd.Function):
    """Copies tensors into one: faster than concatenating and padding, and without torch's threads."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, *parts: Tensor) -> Tensor:
        ctx.layout = layout
        packed = parts[0].new_empty(*parts[0].shape[:-2], layout.size)
        layout.clear_padding(packed)
        for view, part in zip(layout.parts(packed), parts, strict=True):
            view.copy_(part)
        return packed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.layout.parts(gradient)
