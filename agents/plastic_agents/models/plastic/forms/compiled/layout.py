"""Packing of matrices and vectors into the arrays of the kernel, as autograd functions.

Shape letters: B sequences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plastic_agents.models.plastic.fast_weights import FastWeight
from plastic_agents.models.plastic.forms.compiled.memory import PaddedMatrix
from plastic_agents.models.plastic.forms.compiled.program import LINE_BYTES, MatrixSize


class _Block(NamedTuple):
    """Some numbers of a packed tensor [..., size], which are a tensor with one or two more axes."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def _views(blocks: Sequence[_Block], packed: Tensor) -> list[Tensor]:
    """Return the blocks of contiguous ``packed`` [..., size] as views, each by a single operation of torch."""
    shape, stride, offset = packed.shape[:-1], packed.stride()[:-1], packed.storage_offset()
    return [
        packed.as_strided((*shape, *block.shape), (*stride, *block.stride), offset + block.offset) for block in blocks
    ]


class Layout:
    """The layout of a set of matrices: each has a weight, and a bias as its last row or none."""

    def __init__(
        self, sizes: Sequence[MatrixSize], matrices: Sequence[PaddedMatrix], names: Sequence[tuple[str, str | None]]
    ) -> None:
        self.sizes, self.matrices, self.names = sizes, matrices, names
        self.size = sum(matrix.rows * matrix.cols for matrix in matrices)
        self._parts: list[_Block] = []
        padding: list[_Block] = []
        for size, matrix in zip(sizes, matrices, strict=True):
            n_in = size.rows - 1 if size.bias else size.rows
            self._parts.append(_Block((n_in, size.cols), (matrix.cols, 1), matrix.offset))
            if size.bias:
                self._parts.append(_Block((size.cols,), (1,), matrix.offset + n_in * matrix.cols))
            below = (matrix.rows - size.rows, matrix.cols)
            beside = (size.rows, matrix.cols - size.cols)
            padding.append(_Block(below, (matrix.cols, 1), matrix.offset + size.rows * matrix.cols))
            padding.append(_Block(beside, (matrix.cols, 1), matrix.offset + size.cols))
        self._padding = [block for block in padding if all(block.shape)]

    def parts(self, packed: Tensor) -> list[Tensor]:
        """Return views of contiguous ``packed``: the weight of each matrix [..., in, out], then its bias [..., out]."""
        return _views(self._parts, packed)

    def pack(self, parts: Sequence[Tensor]) -> Tensor:
        """Undo `parts`: return one tensor [..., size], with zeros as padding."""
        packed: Tensor = _Pack.apply(self, *parts)  # type: ignore[no-untyped-call]
        return packed

    def clear_padding(self, packed: Tensor) -> None:
        """Zero the padding only: torch would zero all of ``packed`` in several threads."""
        for view in _views(self._padding, packed):
            view.zero_()

    def fast_parts(self, fast: Mapping[str, FastWeight]) -> list[Tensor]:
        """Return the tensors of a state's fast part that are in matrices, in the order of `parts`."""
        found = []
        for layer, key in self.names:
            if key is None:
                found += [fast[layer].weight, fast[layer].bias]
            else:
                found.append((fast[layer].rule or {})[key])
        return found

    def unpack(self, parts: Sequence[Tensor], vectors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, FastWeight]:
        """Return the fast part of a state from its `parts`, and from the vectors of the rule's state."""
        rest, fast = iter(parts), dict[str, FastWeight]()
        for layer, key in self.names:
            if key is None:
                fast[layer] = FastWeight(next(rest), next(rest), dict(vectors.get(layer, {})) or None)
            else:
                fast[layer] = fast[layer]._replace(rule=(fast[layer].rule or {}) | {key: next(rest)})
        return fast

    def find_packed(self, fast: Mapping[str, FastWeight]) -> Tensor | None:
        """Return the memory [B, size] whose `parts` are in ``fast``, without a graph, or None if there is none."""
        found = self.fast_parts(fast)
        weight = found[0]  # at the beginning of the memory, if packed
        shape = (weight.shape[0], self.size)
        if weight.data_ptr() % LINE_BYTES or weight.storage_offset():
            return None
        if weight.untyped_storage().nbytes() != math.prod(shape) * weight.itemsize:
            return None
        begin = weight.data_ptr()
        for leaf, block in zip(found, self._parts, strict=True):
            geometry = ((shape[0], *block.shape), (self.size, *block.stride), begin + block.offset * weight.itemsize)
            if (leaf.shape, leaf.stride(), leaf.data_ptr()) != geometry:
                return None
        packed = weight.detach().as_strided(shape, (self.size, 1))
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
        return None, *ctx.layout.parts(gradient.contiguous())
