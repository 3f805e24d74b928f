"""How the kernel lays out weights and steps in memory; the same as in episode.h.

Shape letters: B sequences, H hidden units, G gates, R readout units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from agents.plasticity.state import FastLayer, FastWeights

LINE_BYTES = 64  # columns come in whole lines of the cache, which are whole vectors on every processor
ROW_MULTIPLE = 4


class LayerLayout(NamedTuple):
    """Sizes of one layer's matrix, and where it begins in a step's pre and post and in a set of matrices."""

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
        # in and out of the four plastic layers, in the order of `FastWeights`
        self.sizes = ((inputs, hidden), (hidden, gates), (hidden, gates), (hidden, readout))
        layers = []
        pre = post = matrix = 0
        for rows, cols in sizes:
            # Each pre begins on a whole line, too.
            layers.append(LayerLayout(rows, cols, pre, post, matrix))
            pre, post, matrix = pre + round_up(rows, line), post + cols, matrix + rows * cols
        self.layers = tuple(layers)
        self.pre_size, self.post_size, self.matrix_size = pre, post, matrix
        # Gates, c, tanh c, dL/dh of the inner loss, readout, q of the input layer.
        self.act_size = sizes[1][1] + 3 * self.width + sizes[2][1] + self.width

    def pack(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Weights [..., in, out] and biases [..., out] of the four plastic layers as one [..., matrix_size].

        Their shapes are the caller's to check: `sizes` has them.
        """
        with_bias = [torch.cat([weight, bias.unsqueeze(-2)], dim=-2) for weight, bias in layers]
        matrices = (with_bias[0], torch.cat(with_bias[1:3], dim=-2), with_bias[3])
        packed = []
        for layout, blocks, matrix in zip(self.layers, (1, self.cell_blocks, 1), matrices, strict=True):
            rows, cols = layout.rows - matrix.shape[-2], layout.cols // blocks - matrix.shape[-1] // blocks
            matrix = pad(matrix.unflatten(-1, (blocks, -1)), (0, cols, 0, 0, 0, rows))
            packed.append(matrix.flatten(-3))
        return torch.cat(packed, dim=-1)

    def unpack(self, packed: Tensor) -> FastWeights:
        """The reverse of `pack`."""
        matrices = []
        for layout, blocks, cols in zip(
            self.layers, (1, self.cell_blocks, 1), (self.hidden, self.hidden, self.readout), strict=True
        ):
            flat = packed[..., layout.matrix : layout.matrix + layout.rows * layout.cols]
            matrix = flat.unflatten(-1, (layout.rows, blocks, layout.cols // blocks))[..., :cols]
            matrices.append(matrix.flatten(-2))
        i, h = self.inputs, self.hidden

        def layer(matrix: Tensor, first: int, rows: int) -> FastLayer:
            return FastLayer(matrix[..., first : first + rows, :], matrix[..., first + rows, :])

        return FastWeights(
            layer(matrices[0], 0, i),
            layer(matrices[1], 0, h),
            layer(matrices[1], h + 1, h),
            layer(matrices[2], 0, h),
        )

    def find_packed(self, fast: FastWeights) -> Tensor | None:
        """The memory that `unpack` made ``fast`` from, if that is where it still lies: [B, matrix_size]."""
        first = fast.input.weight
        whole = (first.shape[0], self.matrix_size)
        if first.data_ptr() % LINE_BYTES:
            return None
        if first.storage_offset() or first.untyped_storage().nbytes() != math.prod(whole) * first.itemsize:
            return None
        packed = first.as_strided(whole, (self.matrix_size, 1))
        for found, wanted in zip(fast, self.unpack(packed), strict=True):
            for x, y in zip(found, wanted, strict=True):
                if x.data_ptr() != y.data_ptr() or x.shape != y.shape or x.stride() != y.stride():
                    return None
        return packed


def round_up(size: int, multiple: int) -> int:
    """The next multiple of ``multiple``."""
    return -(-size // multiple) * multiple
