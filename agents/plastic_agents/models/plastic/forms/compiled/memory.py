"""Places in memory of the values of a step: on the tape, in the arrays of the backward pass, or in scratch.

The generated code refers to lengths and offsets by their numbers in tables, so it does not depend on the sizes of the
network, except that equal lengths have the same number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from plastic_agents.models.plastic.forms.compiled.emit import Passes, split_passes, view
from plastic_agents.models.plastic.forms.compiled.program import (
    MatrixWrite,
    OuterProduct,
    Product,
    Program,
    round_up,
)
from plastic_agents.models.plastic.tracing.trace import Value, ancestors

ROW_MULTIPLE = 4


class Slot(NamedTuple):
    """Place of a vector in one of the arrays of a step: ``"tape"``, ``"back"`` or ``"scratch"``."""

    area: str
    offset: int


class PaddedMatrix(NamedTuple):
    """A matrix in memory: see ``Matrix`` in kernel.h."""

    rows: int
    cols: int
    offset: int
    inputs: int
    plain: bool


class Table:
    """A table of numbers, which get their places in it at their first use."""

    def __init__(self, name: str) -> None:
        self.name, self.numbers, self._indices = name, list[int](), dict[Any, int]()

    def __call__(self, key: Any, number: int | None = None) -> str:
        """Return the C expression of a number, which is the key itself unless given."""
        return f"{self.name}[{self.index(key, number)}]"

    def index(self, key: Any, number: int | None = None) -> int:
        """Return the place of a number in the table."""
        if key not in self._indices:
            self._indices[key] = len(self.numbers)
            self.numbers.append(key if number is None else number)
        return self._indices[key]


class Memory:
    """The memory of a program.

    Attributes:
        passes: the nodes of both directions.
        outputs: results of the forward pass. They include the updates of all matrices.
        results: results of the backward pass.
        taped: values and inputs on the tape.
        kept: values of the backward pass from which the caller computes gradients.
        lengths, offsets: the tables.
        areas: numbers for each step of a sequence, by area.
        fused: for each matrix, the product that the backward pass combines with the update of the step before.
    """

    def __init__(self, program: Program, line: int) -> None:
        self.program, self.line = program, line
        pairs = [value for pairs in program.pairs for pair in pairs for value in (pair.rows, pair.cols)]
        pairs += [value for pairs in program.projection_pairs.values() for pair in pairs for value in pair]
        writes = [value for write in program.writes for value in _operands(write)]
        self.outputs = [program.readout, program.eta, *program.carry, *writes, program.smallest_keep]
        self.results = [value for value in program.gradients.values() if value is not None]
        self.passes: Passes = split_passes(self.outputs, [*self.results, *pairs])
        self.forward = set(self.passes.forward)
        self.live = self.forward | set(ancestors([*self.results, *pairs]))
        self.taped = {self.base(value) for value in (*self.passes.taped, *writes, program.smallest_keep)}
        self.taped |= {self.base(value) for value in pairs if self.base(value) in self.forward}
        self.taped |= set(program.inputs.values())
        self.kept = {self.base(value) for value in pairs} - self.forward
        operands = [v for node in self.live if node.op == "external" for v in (node, *node.inputs[:1])]
        self._padded = {self.base(value) for value in (*operands, *pairs, *writes)}
        self.tangents = set(program.tangents.values())
        self._tangent_names = {value: name for name, value in program.tangents.items()}
        self.lengths, self.offsets = Table("lengths"), Table("o")
        self.areas = {"tape": 0, "back": 0, "scratch": 0}
        self.fused: dict[int, OuterProduct] = {}
        self.shared_offsets = dict(_offsets(program.shared, line))
        self.shared_rows = [
            PaddedMatrix(1, round_up(value.length, line), self.shared_offsets[name], 0, False)
            for name, value in program.shared.items()
        ]
        self.carry_offsets = dict(_offsets(dict(zip(program.carry_names, program.carry, strict=True)), 1))
        self.carry_size = sum(value.length for value in program.carry)
        self.matrices = list(self._matrices())
        self._slots: dict[Any, Slot] = {}
        self._buffers: dict[tuple[Value, bool], Any] = {}
        self._prepared: set[tuple[Value, bool]] = set()

    def _matrices(self) -> Iterator[PaddedMatrix]:
        # Every matrix has a row more than its inputs: a layer's bias, or zeros. A matrix of the rule's state may be
        # added to a layer's, and the passes over projections fill up groups of rows with the zeros.
        program = self.program
        shapes = [(size.rows - size.bias, size.cols, not size.bias) for size in program.sizes]
        projections = [(*program.projection_shape(name), False) for name in program.projections]
        for group in (shapes, projections):
            offset = 0
            for inputs, cols, plain in group:
                padded_rows, padded_cols = self.padded_rows(inputs + 1), self.padded_cols(cols)
                yield PaddedMatrix(padded_rows, padded_cols, offset, inputs, plain)
                offset += padded_rows * padded_cols

    def padded_rows(self, rows: int) -> int:
        """Return the number of rows in memory."""
        return round_up(rows, ROW_MULTIPLE)

    def padded_cols(self, cols: int) -> int:
        """Return the number of columns in memory."""
        return round_up(cols, self.line)

    def base(self, value: Value) -> Value:
        """Return the value in whose memory another lies."""
        return view(value, self.passes.parts).base

    def is_whole(self, value: Value) -> bool:
        """Return whether a value has memory of its own, and is not part of another."""
        place = view(value)
        return place.offset == 0 and place.base.length == value.length and place.base not in self.passes.parts

    def place(self, value: Value) -> str:
        """Return the C expression of a pointer to a value's memory."""
        if value.op == "shared" or (value.op == "input" and not value.batched):
            return f"(e->shared + {self.lengths(self.shared_offsets[value.attribute])})"
        if value in self._tangent_names:
            return self._tangent(self._tangent_names[value])
        if value.op == "external" and isinstance(value.attribute, Product):
            pair = self.fused.get(value.attribute.matrix)
            if pair is not None and pair.result is value:
                return f"(lane->matrix[{value.attribute.matrix}].d_p)"
        area = "tape" if value in self.taped else "back" if value in self.kept else "scratch"
        self._slot(value, area, value.length, value in self._padded)
        return self._pointer_to(value)

    def _tangent(self, name: Any) -> str:
        if name in ("readout", "eta"):
            return f"lane->d_{name}"
        if name in self.carry_offsets:
            return f"(lane->d_carry + {self.lengths(self.carry_offsets[name])})"
        kind, number = name
        if number not in self.fused and kind in ("alpha_post", "alpha_pre"):  # its pass has overwritten them
            return self.scratch(
                kind, number, self.matrices[number].rows if kind == "alpha_post" else self.matrices[number].cols
            )
        reference = "&" if kind in ("d_rate", "d_keep", "d_coefficient") else ""
        return f"({reference}lane->matrix[{number}].{kind})"

    def pointer(self, value: Value) -> str:
        """Return the C expression of a pointer to a value, which may be part of another."""
        base, offset, _ = view(value, self.passes.parts)
        return f"({self.place(base)} + {self.lengths(offset)})" if offset else self.place(base)

    def _slot(self, key: Any, area: str, length: int, padded: bool) -> None:
        """Give a value or buffer a place, unless it has one."""
        if key not in self._slots:
            # A vector may need one entry more, for the bias.
            size = round_up(length + 1, self.line) if padded or length > 1 else 1
            start = self.areas[area] if size == 1 else round_up(self.areas[area], self.line)
            self._slots[key] = Slot(area, start)
            self.areas[area] = start + size

    def scratch(self, name: str, number: int, length: int) -> str:
        """Return a pointer to scratch of a padded length for a matrix."""
        self._slot((name, number), "scratch", length, True)
        return self._pointer_to((name, number))

    def _pointer_to(self, key: Any) -> str:
        place = self._slots[key]
        return f"({place.area} + {self.offsets(key, place.offset)})"

    def offset_index(self, value: Value) -> int:
        """Return the number in the table of offsets of a value that lies in memory of its own."""
        base = self.base(value)
        self.place(base)
        return self.offsets.index(base, self._slots[base].offset)

    def buffer_index(self, value: Value, bias: bool) -> int:
        """Return the number in the table of offsets of a prepared matrix operand."""
        key = self._buffers[value, bias]
        return self.offsets.index(key, self._slots[key].offset)

    def buffer_slot(self, value: Value, bias: bool) -> Slot:
        """Return the place of a prepared matrix operand."""
        return self._slots[self._buffers[value, bias]]

    def prepare(self, value: Value, bias: bool) -> tuple[str, list[str]]:
        """Return a pointer to a padded matrix operand, and the statements that copy and pad it if needed.

        Args:
            value: the operand.
            bias: whether a 1 for the bias follows it.
        """
        if (value, bias) not in self._buffers:
            self._buffers[value, bias] = self._make_buffer(value, bias)
        key = self._buffers[value, bias]
        pointer, statements = self._pointer_to(key), []
        if (value, bias) not in self._prepared:
            length = self.lengths(value.length)
            if not isinstance(key, Value):
                statements.append(f"memcpy({pointer}, {self.pointer(value)}, {length} * sizeof(real));")
            padded = self.lengths(round_up(value.length + 1, self.line))  # enough for rows and for columns
            statements.append(f"pad({pointer}, {length}, {padded}, {int(bias)});")
            if value in self.forward:  # the backward pass finds it on the tape
                self._prepared.add((value, bias))
        return pointer, statements

    def _make_buffer(self, value: Value, bias: bool) -> Any:
        """Return the key of the memory of a padded operand: the value itself, or a copy."""
        base = self.base(value)
        taken = any(buffer is base for (_, other_bias), buffer in self._buffers.items() if other_bias != bias)
        if self.is_whole(value) and not taken and base not in self.tangents and base.op not in ("shared", "literal"):
            self.place(base)
            return base
        key = ("copy", value.index, bias)
        area = "back" if base in self.kept else "tape" if value in self.forward else "scratch"
        self._slot(key, area, value.length, True)
        return key


def _operands(write: MatrixWrite) -> list[Value]:
    """Return the values of an update that must be on the tape."""
    optional = (write.keep if write.columns is None else write.columns, write.coefficient)
    return [write.pre, write.post, write.rate, *(value for value in optional if value is not None)]


def _offsets(values: Mapping[Any, Value], multiple: int) -> Iterable[tuple[Any, int]]:
    offset = 0
    for name, value in values.items():
        yield name, offset
        offset += round_up(value.length, multiple)
