"""How the kernel lays out weights and steps in memory; the same as in arguments.h.

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
        self.shapes: dict[str, tuple[int, ...]] = {"readout_loss_weight": (readout,)}
        for layer, size in zip(FastWeights._fields, self.sizes, strict=True):
            self.shapes |= {f"{layer}.weight": size, f"{layer}.alpha_weight": size}
            self.shapes |= {f"{layer}.bias": size[1:], f"{layer}.alpha_bias": size[1:]}
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
        """Return weights [..., in, out] and biases [..., out] of the four plastic layers as one [..., matrix_size].

        Their shapes are the caller's to check: `sizes` has them.
        """
        packed: Tensor = _Pack.apply(self, *itertools.chain(*layers))
        return packed

    def unpack(self, packed: Tensor) -> FastWeights:
        """Undo `pack`."""
        return FastWeights(*(FastWeight(weight.flatten(-2), bias.flatten(-2)) for weight, bias in self.places(packed)))

    def places(self, packed: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return where the layers' weights [..., in, blocks, out / blocks] and biases lie in ``packed``, as views."""
        matrices = [matrix[..., :cols] for matrix, _, cols in self._matrices(packed)]
        rows = ((0, 0), (1, 0), (1, self.hidden + 1), (2, 0))  # matrix and first row of each layer
        return [
            (matrices[index][..., first : first + size, :, :], matrices[index][..., first + size, :, :])
            for (index, first), (size, _) in zip(rows, self.sizes, strict=True)
        ]

    def clear_padding(self, packed: Tensor) -> None:
        """Zero what belongs to no layer; much less than all of ``packed``, which torch would do in several threads."""
        for matrix, rows, cols in self._matrices(packed):
            matrix[..., rows:, :, :] = 0
            matrix[..., :rows, :, cols:] = 0

    def _matrices(self, packed: Tensor) -> Iterator[tuple[Tensor, int, int]]:
        """The three matrices [..., rows, blocks, columns], with how many rows and columns of a block are in use."""
        used = ((self.inputs + 1, self.hidden), (2 * self.hidden + 2, self.hidden), (self.hidden + 1, self.readout))
        for layout, blocks, (rows, cols) in zip(self.layers, (1, self.cell_blocks, 1), used, strict=True):
            flat = packed[..., layout.matrix : layout.matrix + layout.rows * layout.cols]
            yield flat.unflatten(-1, (layout.rows, blocks, layout.cols // blocks)), rows, cols

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


class _Pack(torch.autograd.Function):
    """Copies into place: less work than joining and padding, and none of it in torch's threads."""

    @staticmethod
    def forward(ctx: Any, layout: Layout, *parts: Tensor) -> Tensor:
        ctx.layout = layout
        packed = parts[0].new_empty(*parts[0].shape[:-2], layout.matrix_size)
        layout.clear_padding(packed)
        for place, part in zip(itertools.chain(*layout.places(packed)), parts, strict=True):
            place.copy_(part.unflatten(-1, place.shape[-2:]))
        return packed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, *itertools.chain(*ctx.layout.unpack(gradient))


@functools.lru_cache
def make_layout(inputs: int, hidden: int, gates: int, readout: int, dtype: torch.dtype) -> Layout:
    """Return the `Layout` of these sizes; the same object each time."""
    return Layout(inputs, hidden, gates, readout, dtype)


def round_up(size: int, multiple: int) -> int:
    """The next multiple of ``multiple``."""
    return -(-size // multiple) * multiple
