"""Write the C code of a step: vector work around calls of the passes over matrices."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from plastic_agents.models.plastic.forms.compiled.emit import emit, view
from plastic_agents.models.plastic.forms.compiled.memory import Memory, PaddedMatrix, Slot
from plastic_agents.models.plastic.forms.compiled.program import (
    LINE_BYTES,
    OuterProduct,
    Product,
    Program,
    round_up,
    without_factors,
)
from plastic_agents.models.plastic.tracing.trace import UntraceableError, Value

_TABLES = ["const int64_t *lengths = e->lengths, *o = e->offsets;", "(void)lengths, (void)o;"]


class Code(NamedTuple):
    """C code of a step, and the layout of its memory.

    Attributes:
        source: the C code.
        lengths, offsets: the tables of kernel.h.
        area_sizes: numbers for each step of a sequence, by area.
        matrices: of the program, then the projections, with offsets into a set of their own.
        pairs: for each matrix, the places of the outer products of which the gradient of W~ is the sum.
        projection_pairs: the same for each projection.
        shared_rows: the shared vectors, each as a matrix of one row.
        carry_size: numbers of all that is carried.
    """

    source: str
    lengths: list[int]
    offsets: list[int]
    area_sizes: dict[str, int]
    matrices: list[PaddedMatrix]
    pairs: list[list[tuple[Slot, Slot]]]
    projection_pairs: list[list[tuple[Slot, Slot]]]
    shared_rows: list[PaddedMatrix]
    carry_size: int


def generate(program: Program, item_bytes: int) -> Code:
    """Return the code of a program, for numbers of ``item_bytes`` bytes.

    Raises:
        UntraceableError: the order of the step's products is one that the kernel does not support.
    """
    memory = Memory(program, LINE_BYTES // item_bytes)
    forward = _Forward(program, memory).function()
    backward = _Backward(program, memory).function()
    matrix_code = ",\n    ".join(_matrix_code(program, memory, number) for number in range(len(program.writes)))
    lengths = [memory.lengths.index(value.length) for value in (program.inputs["x"], program.readout)]
    fields = ", ".join(map(str, [len(program.writes), memory.offset_index(program.smallest_keep), *lengths]))
    source = f"""\
/* Generated from the Python of a step. */
#include "step.h"

{forward}

{backward}

static const MatrixCode CODE[] = {{
    {matrix_code}
}};
const Step step = {{{fields}, CODE, forward_step, backward_step}};
"""
    pairs = [
        [
            (memory.buffer_slot(pair.rows, _has_bias(pair)), memory.buffer_slot(pair.cols, False))
            for pair in pairs
            if not pair.operation.fast
        ]
        for pairs in program.pairs
    ]
    projection_pairs = [
        [(memory.buffer_slot(rows, False), memory.buffer_slot(cols, False)) for rows, cols in pairs]
        for pairs in program.projection_pairs.values()
    ]
    return Code(
        source,
        memory.lengths.numbers,
        memory.offsets.numbers,
        {area: round_up(size, memory.line) for area, size in memory.areas.items()},
        memory.matrices,
        pairs,
        projection_pairs,
        memory.shared_rows,
        memory.carry_size,
    )


def _has_bias(pair: OuterProduct) -> bool:
    """Return whether the rows of an outer product have a 1 for the bias, as p of a product does."""
    return pair.operation.bias and not pair.operation.transposed


def _matrix_code(program: Program, memory: Memory, number: int) -> str:
    """Return the initialiser of a ``MatrixCode``."""
    write, size, main = program.writes[number], program.sizes[number], memory.fused.get(number)

    def index(value: Value | None) -> int:
        return -1 if value is None else memory.offset_index(value)

    fields = [
        memory.buffer_index(write.pre, size.bias),
        memory.buffer_index(write.post, False),
        index(write.rate),
        index(write.keep if write.columns is None else None),
        index(write.columns),
        -1 if write.added is None else write.added,
        index(write.coefficient),
        "MASKED" if main is None else _mask(program, memory, main.rows),
        _mask(program, memory, write.pre),
        int(program.names[number][1] is None),
    ]
    return "{" + ", ".join(map(str, fields)) + "}"


def _mask(program: Program, memory: Memory, value: Value) -> str:
    """Return the ``Mask`` of an operand: whether it comes from a relu, in this step or in the one before.

    It may be multiplied by a number: where the relu's output is zero, the number has no influence either.
    """
    value = without_factors(value)[0]
    base = view(value).base
    if not memory.is_whole(value):
        return "NOT_MASKED"
    if base.op == "relu":
        return "MASKED"
    for name, after in zip(program.carry_names, program.carry, strict=True):
        if program.inputs[name] is base and view(after).base.op == "relu" and memory.is_whole(after):
            return "MASKED_AFTER_FIRST"
    return "NOT_MASKED"


class _Function:
    """A function of generated code, which makes a step of several sequences together."""

    lane: str
    areas: tuple[str, ...]

    def __init__(self, program: Program, memory: Memory) -> None:
        self.program, self.memory = program, memory
        self.lengths = memory.lengths

    def blocks(self, nodes: list[Value], stored: set[Value]) -> Iterator[str | Value]:
        """Yield the vector work, and between it the operations on matrices."""
        memory = self.memory
        for block in emit(nodes, stored, memory.place, self.lengths, parts=memory.passes.parts):
            if isinstance(block, str):
                yield from self.each_lane([block])
            else:
                yield block

    def each_lane(self, statements: list[str]) -> list[str]:
        """Return a loop over the sequences."""
        if not statements:
            return []
        areas = ", ".join(f"*{area} = lane->{area}" for area in self.areas)
        unused = ", ".join(f"(void){area}" for area in self.areas)
        body = [f"{self.lane} *lane = &lanes[k];", f"real {areas};", f"{unused};", *statements]
        return ["for (int k = 0; k < n; k++) {", textwrap.indent("\n".join(body), "    "), "}"]

    def operation(self, statements: list[str], call: str, alive: str | None = None) -> list[str]:
        """Return a call with pointers to the operands p and the results q of all sequences."""
        if alive is not None:
            statements = [*statements, f"alive[k] = {alive};"]
        pointers = "*p[LANES]" if alive is None else "*p[LANES], *alive[LANES]"
        return ["{", f"const real {pointers};", "real *q[LANES];", *self.each_lane(statements), call, "}"]

    def operand(self, node: Value, bias: bool) -> list[str]:
        """Return the statements that set p and q of a sequence for an operation."""
        pointer, statements = self.memory.prepare(node.inputs[0], bias)
        return [*statements, f"p[k] = {pointer};", f"q[k] = {self.memory.place(node)};"]

    def projection(self, node: Value) -> list[str]:
        """Return a product with a matrix that all sequences share."""
        shared = node.inputs[1]
        number = len(self.program.sizes) + list(self.program.projections).index(shared.attribute)
        is_transposed = (node.attribute == "project_transposed") != (shared.attribute in self.program.flipped)
        function = "project_transposed" if is_transposed else "project"
        return self.operation(self.operand(node, False), f"{function}(e, {number}, n, p, q);")

    def second_part(self, number: int) -> str:
        """Return where the second part of a product that is made in parts begins."""
        return self.lengths(self.memory.padded_cols(self.program.sizes[number].cols))

    def copy(self, target: str, value: Value) -> str:
        """Return a statement that copies a value."""
        return f"memcpy({target}, {self.memory.pointer(value)}, {self.lengths(value.length)} * sizeof(real));"


class _Forward(_Function):
    lane, areas = "ForwardLane", ("tape", "scratch")

    def function(self) -> str:
        memory = self.memory
        self.seen: set[int] = set()
        lines = ["static void forward_step(const Arguments *e, ForwardLane *lanes, int n) {", *_TABLES]
        begin = [
            f"memcpy({memory.place(value)}, {source}, {self.lengths(value.length)} * sizeof(real));"
            for value, source in self._inputs()
        ]
        lines += self.each_lane(begin)
        stored = {memory.base(value) for value in memory.outputs} | memory.taped
        stored = {
            value for value in stored if value in memory.forward and value.op not in ("shared", "literal", "input")
        }
        body: list[str] = []
        for block in self.blocks(memory.passes.forward, stored):
            body += [block] if isinstance(block, str) else self._operation(block)
        lines += body
        lines += self._unread()
        lines += self.each_lane(self._results())
        return "\n".join([*lines, "}"])

    def _inputs(self) -> Iterator[tuple[Value, str]]:
        yield self.program.inputs["x"], "lane->x"
        for name, offset in self.memory.carry_offsets.items():
            yield self.program.inputs[name], f"lane->carry + {self.lengths(offset)}"

    def _operation(self, node: Value) -> list[str]:
        if not isinstance(node.attribute, Product):
            return self.projection(node)
        operation, is_first = node.attribute, node.attribute.matrix not in self.seen
        number, with_slow = operation.matrix, int(not operation.fast)
        self.seen.add(number)
        statements = self.operand(node, operation.bias)
        if not is_first and operation.transposed:
            alive = self._alive(node)
            alive_pointer = None if alive is None else self.memory.pointer(alive)
            name = "NULL" if alive is None else "alive"
            call = f"forward_transposed(e, {number}, lanes, n, {with_slow}, p, {name}, q);"
            return self.operation(statements, call, alive_pointer)
        if not is_first:
            return self.operation(statements, f"forward_product(e, {number}, lanes, n, {with_slow}, p, q);")
        if operation.transposed or (operation.fast and self.program.sizes[number].bias):
            raise UntraceableError("the first product with a matrix in a step must be p (W~ + W)")
        second_part = f"q[k] + {self.second_part(number)}" if operation.parts else "NULL"
        statements = [*statements, f"lane->matrix[{number}].q_fast = {second_part};"]
        return self.operation(statements, f"update_and_multiply(e, {number}, lanes, n, p, q);")

    def _unread(self) -> list[str]:
        """Return the updates of matrices that the step does not read, because it only adds them to others."""
        lines = []
        for number, write in enumerate(self.program.writes):
            if write.added in self.seen:
                raise UntraceableError("a matrix that is added to another must not be read")
            if number not in self.seen:  # a product with zeros
                size = self.program.sizes[number]
                rows, cols = self.memory.padded_rows(size.rows), self.memory.padded_cols(size.cols)
                zeros, result = self.memory.scratch("zeros", number, rows), self.memory.scratch("unused", number, cols)
                statements = [f"memset({zeros}, 0, {self.lengths(rows)} * sizeof(real));", f"p[k] = {zeros};"]
                call = f"update_and_multiply(e, {number}, lanes, n, p, q);"
                lines += self.operation([*statements, f"q[k] = {result};"], call)
        return lines

    def _alive(self, node: Value) -> Value | None:
        """Return the relu output that decides which entries of a transposed product are used, if there is one."""
        outputs = set()
        for reader in self.memory.live:
            if not any(operand is node for operand in reader.inputs):
                continue
            if reader.op != "where" or reader.inputs[1].op != "literal" or reader.inputs[2] is not node:
                return None
            mask = reader.inputs[0]
            if mask.op != "le" or mask.inputs[0].op != "relu" or mask.inputs[1].op != "literal":
                return None
            outputs.add(mask.inputs[0])
        alive = outputs.pop() if len(outputs) == 1 else None
        return alive if alive is not None and alive.length == node.length and alive in self.memory.taped else None

    def _results(self) -> list[str]:
        program, memory, statements = self.program, self.memory, list[str]()
        for write, size in zip(program.writes, program.sizes, strict=True):
            statements += memory.prepare(write.pre, size.bias)[1]
            statements += memory.prepare(write.post, False)[1]
            if write.columns is not None:
                padded = self.lengths(memory.padded_cols(size.cols))
                place = memory.place(memory.base(write.columns))
                statements.append(f"pad_with_ones({place}, {self.lengths(size.cols)}, {padded});")
        for value, offset in zip(program.carry, memory.carry_offsets.values(), strict=True):
            statements.append(self.copy(f"lane->carry + {self.lengths(offset)}", value))
        return [*statements, self.copy("lane->readout", program.readout), self.copy("lane->eta", program.eta)]


class _Backward(_Function):
    lane, areas = "BackwardLane", ("tape", "back", "scratch")

    def function(self) -> str:
        program, memory = self.program, self.memory
        self._choose_fused()
        stored = {memory.base(value) for value in (*memory.results, *memory.kept)} - memory.forward - memory.tangents
        lines = ["static void backward_step(const Arguments *e, BackwardLane *lanes, int n, real *d_alpha) {", *_TABLES]
        # A matrix that is added to another comes before it.
        for number in range(len(program.writes)):
            if number not in memory.fused:
                lines += [*self.each_lane(self._saved(number)), *self._pass(number, None)]
        for block in self.blocks(memory.passes.backward, stored):
            lines += [block] if isinstance(block, str) else self._operation(block)
        lines += self.each_lane(self._results())
        return "\n".join([*lines, "}"])

    def _saved(self, number: int) -> list[str]:
        """Return the copies of what the last pass over a matrix computed, before the next pass."""
        matrix, memory = self.memory.matrices[number], self.memory
        return [
            f"memcpy({memory.scratch(name, number, size)}, lane->matrix[{number}].{name}, "
            f"{self.lengths(size)} * sizeof(real));"
            for name, size in (("alpha_post", matrix.rows), ("alpha_pre", matrix.cols))
        ]

    def _choose_fused(self) -> None:
        """Find the last product with each matrix: the pass over the matrix takes its place."""
        externals = [node for node in self.memory.passes.backward if isinstance(node.attribute, Product)]
        for number, pairs in enumerate(self.program.pairs):
            last = max((node.index for node in externals if node.attribute.matrix == number), default=None)
            if last is None:
                if any(pairs):
                    raise UntraceableError("a product with a matrix must depend on the state or on the input")
                continue
            main = next((pair for pair in pairs if pair.result.index == last), None)
            is_fast = main is not None and main.operation.fast and self.program.sizes[number].bias
            if main is None or main.operation.transposed or is_fast:
                raise UntraceableError("the first product with a matrix in a step must be p (W~ + W)")
            self.memory.fused[number] = main

    def _operation(self, node: Value) -> list[str]:
        if not isinstance(node.attribute, Product):
            return self.projection(node)
        operation = node.attribute
        fused = self.memory.fused[operation.matrix]
        if fused.result is node:
            return self._pass(operation.matrix, fused)
        name = "backward_transposed" if operation.transposed else "backward_product"
        call = f"{name}(e, {operation.matrix}, lanes, n, {int(not operation.fast)}, p, q);"
        return self.operation(self.operand(node, False), call)

    def _pass(self, number: int, main: OuterProduct | None) -> list[str]:
        """Return the pass over a matrix, with the outer products of all its operations in the step."""
        memory, statements = self.memory, list[str]()
        others = [pair for pair in self.program.pairs[number] if pair is not main]
        for pair in [*([] if main is None else [main]), *others]:
            rows, prepare_rows = memory.prepare(pair.rows, _has_bias(pair))
            cols, prepare_cols = memory.prepare(pair.cols, False)
            statements += prepare_rows + prepare_cols
            if pair is main:
                fast = f"{cols} + {self.second_part(number)}" if pair.operation.parts else cols
                statements.append(f"lane->matrix[{number}].p = {rows}, lane->matrix[{number}].dq = {cols};")
                statements.append(f"lane->matrix[{number}].dq_fast = {fast};")
            elif pair is others[0]:  # the pass has room for one more
                statements.append(f"lane->matrix[{number}].a = {rows}, lane->matrix[{number}].b = {cols};")
            else:
                statements.append(f"add_outer(e, {number}, lane, {rows}, {cols});")
        return [*self.each_lane(statements), f"matrix_pass(e, {number}, lanes, n, d_alpha);"]

    def _order(self) -> list[Any]:
        """Return the names of the inputs in an order in which no result overwrites a tangent that a later one reads.

        Raises:
            UntraceableError: there is none, because vectors of the state change places.
        """
        names = {id(tangent): name for name, tangent in self.program.tangents.items()}
        read = {
            name: None if gradient is None else names.get(id(view(gradient).base))
            for name, gradient in self.program.gradients.items()
            if name in self.program.inputs
        }
        order: list[Any] = []
        while len(order) < len(read):
            left = [name for name in read if name not in order]
            free = [name for name in left if all(read[other] != name for other in left if other != name)]
            if not free:
                raise UntraceableError("vectors of a rule's state must not change places")
            order.append(free[0])
        return order

    def _results(self) -> list[str]:
        program, memory, statements = self.program, self.memory, list[str]()
        for name in self._order():
            value, gradient = program.inputs[name], program.gradients[name]
            target = "lane->d_x" if name == "x" else f"(lane->d_carry + {self.lengths(memory.carry_offsets[name])})"
            if gradient is None:
                statements.append(f"memset({target}, 0, {self.lengths(value.length)} * sizeof(real));")
            else:
                statements.append(self.copy(target, gradient))
        for name, value in program.shared.items():
            gradient = program.gradients.get(name)
            if gradient is not None:
                target = f"lane->d_shared + {self.lengths(memory.shared_offsets[name])}"
                statements.append(f"add({memory.pointer(gradient)}, {target}, {self.lengths(value.length)});")
        return statements
