"""Memory layout of weights and steps in the kernel, as arguments.h describes it.

Shape letters: B sequences, H hidden units, G gates, R readout units.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from plastic_agents.models.plastic.fast_weights import FastWeight, FastWeights

LINE_BYTES = 64  # columns are padded to whole cache lines, which are whole vectors on every CPU
ROW_MULTIPLE = 4


class LayerLayout(NamedTuple):
    """Sizes of one layer's matrix, and its offsets into a step's pre and post and into a set of matrices."""

    rows: int
    cols: int
    pre: int
    post: int
    matrix: int


class Layout:
    """Sizes and offsets of a network with I inputs, H hidden units, G gates and R readout units."""

    def __init__(self, inputs: int, hidden: int, gates: int, readout: int, dtype: torch.dtype) -> None:
        line = LINE_BYTES // dtype.itemsize
        self.inputs, self.hidden, self.gates, self.readout, self.dtype = inputs, hidden, gates, readout, dtype
        self.width = round_up(hidden, line)
        self.cell_blocks = gates // hidden
        sizes = (
            (round_up(inputs + 1, ROW_MULTIPLE), self.width),
            (round_up(2 * hidden + 2, ROW_MULTIPLE), self.cell_blocks * self.width),
            (round_up(hidden + 1, ROW_MULTIPLE), round_up(readout, line)),
        )
        # In and out sizes of the four plastic layers, in the order of `FastWeights`.
        self.sizes = ((inputs, hidden), (hidden, gates), (hidden, gates), (hidden, readout))
        self.shapes: dict[str, tuple[int, ...]] = {"readout_loss_weight": (readout,)}
        for layer, size in zip(FastWeights._fields, self.sizes, strict=True):
            self.shapes |= {f"{layer}.weight": size, f"{layer}.alpha_weight": size}
            self.shapes |= {f"{layer}.bias": size[1:], f"{layer}.alpha_bias": size[1:]}
        layers = []
        pre = post = matrix = 0
        for rows, cols in sizes:
            # The pre of every layer starts at a cache line, too.
            layers.append(LayerLayout(rows, cols, pre, post, matrix))
            pre, post, matrix = pre + round_up(rows, line), post + cols, matrix + rows * cols
        self.layers = tuple(layers)
        self.pre_size, self.post_size, self.matrix_size = pre, post, matrix
        # Gates, c, tanh c, dL/dh of the inner loss, readout, q of the input layer.
        self.act_size = sizes[1][1] + 3 * self.width + sizes[2][1] + self.width

    def pack(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Return weights [..., in, out] and biases [..., out] of the four plastic layers as one [..., matrix_size].

        The caller must have compared their shapes with `sizes`.
        """
        packed: Tensor = _Pack.apply(self, *itertools.chain(*layers))  # type: ignore[no-untyped-call]
        return packed

    def unpack(self, packed: Tensor) -> FastWeights:
        """Undo `pack`."""
        return FastWeights(*(FastWeight(weight.flatten(-2), bias.flatten(-2)) for weight, bias in self.views(packed)))

    def views(self, packed: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return views of ``packed``: weight [..., in, blocks, out / blocks] and bias of every layer."""
        matrices = [matrix[..., :cols] for matrix, _, cols in self._matrices(packed)]
        row_offsets = ((0, 0), (1, 0), (1, self.hidden + 1), (2, 0))  # matrix of each layer, and its first row there
        return [
            (matrices[index][..., begin : begin + size, :, :], matrices[index][..., begin + size, :, :])
            for (index, begin), (size, _) in zip(row_offsets, self.sizes, strict=True)
        ]

    def clear_padding(self, packed: Tensor) -> None:
        """Zero the padding only: torch would zero all of ``packed`` in several threads."""
        for matrix, rows, cols in self._matrices(packed):
            matrix[..., rows:, :, :] = 0
            matrix[..., :rows, :, cols:] = 0

    def _matrices(self, packed: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        """Yield the three matrices [..., rows, blocks, columns], each with its unpadded numbers of rows and columns."""
        sizes = ((self.inputs + 1, self.hidden), (2 * self.hidden + 2, self.hidden), (self.hidden + 1, self.readout))
        for layout, blocks, (rows, cols) in zip(self.layers, (1, self.cell_blocks, 1), sizes, strict=True):
            flat = packed[..., layout.matrix : layout.matrix + layout.rows * layout.cols]
            yield flat.unflatten(-1, (layout.rows, blocks, layout.cols // blocks)), rows, cols

    def find_packed(self, fast: FastWeights) -> Tensor | None:
        """Return the memory [B, matrix_size] that `unpack` made ``fast`` from, or None if there is none."""
        weight = fast.input.weight  # at the beginning of the memory, if packed
        shape = (weight.shape[0], self.matrix_size)
        if weight.data_ptr() % LINE_BYTES:
            return None
        if weight.storage_offset() or weight.untyped_storage().nbytes() != math.prod(shape) * weight.itemsize:
            return None
        packed = weight.as_strided(shape, (self.matrix_size, 1))
        for leaf, view in zip(itertools.chain(*fast), itertools.chain(*self.unpack(packed)), strict=True):
            if leaf.data_ptr() != view.data_ptr() or leaf.shape != view.shape or leaf.stride() != view.stride():
                return None
        return packed


class _Pack(torch.autograd.Function):
    """Copies tensors into one: faster than concatenating and padding, and without torch's threads."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, *tensors: Tensor) -> Tensor:
        ctx.layout = layout
        packed = tensors[0].new_empty(*tensors[0].shape[:-2], layout.matrix_size)
        layout.clear_padding(packed)
        for view, tensor in zip(itertools.chain(*layout.views(packed)), tensors, strict=True):
            view.copy_(tensor.unflatten(-1, view.shape[-2:]))
        return packed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *itertools.chain(*ctx.layout.unpack(gradient))


@functools.lru_cache
def make_layout(inputs: int, hidden: int, gates: int, readout: int, dtype: torch.dtype) -> Layout:
    """Return the cached `Layout` of these sizes."""
    return Layout(inputs, hidden, gates, readout, dtype)


def round_up(size: int, multiple: int) -> int:
    """Return ``size`` rounded up to a multiple of ``multiple``."""
    return -(-size // multiple) * multiple
