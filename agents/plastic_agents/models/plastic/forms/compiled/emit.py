"""C code of the vector work in a graph, for one sequence.

Elementwise operations on vectors of one length share a loop. Values that only this loop reads are local variables and
have no memory. Numbers are scalar variables. A slice is read from the memory of its vector, and the parts of a
concatenation are computed in its memory where possible.

The C code needs functions.h and a type ``real``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from plastic_agents.models.plastic.tracing.trace import Value, ancestors

EXPRESSIONS = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "div": "{} / {}",
    "neg": "-{}",
    "square": "{0} * {0}",
    "sqrt": "square_root({})",
    "exp": "exponential({})",
    "expm1": "exponential_minus_1({})",
    "log": "logarithm({})",
    "log1p": "logarithm_plus_1({})",
    "sigmoid": "sigmoid({})",
    "tanh": "tangent({})",
    "relu": "relu({})",
    "abs": "absolute({})",
    "sign": "sign({})",
    "maximum": "larger_of({}, {})",
    "minimum": "smaller_of({}, {})",
    "lt": "{} < {} ? 1 : 0",
    "le": "{} <= {} ? 1 : 0",
    "eq": "{} == {} ? 1 : 0",
    "logical_and": "{} && {}",
    "logical_or": "{} || {}",
    "logical_not": "!{}",
    "where": "{} ? {} : {}",
    "expand": "{}",
}
# Long operations, which compilers vectorise badly or not at all. They have loops of their own, and are not repeated.
CALLS = {"amax", "exp", "expm1", "log", "log1p", "sigmoid", "tanh"}
# The value before the loop, and the statement in the loop.
REDUCTIONS = {"sum": ("0", "{0} += {1};"), "amax": ("-INFINITY", "{0} = larger_of({0}, {1});")}
_ALIASES = {"slice", "reshape", "detach", "alias"}
_CONSTANTS = {"shared", "literal", "transpose"}
_PRIORITY = {"numbers": 0, "cat": 1, "calls": 2, "loop": 3, "external": 4}


class View(NamedTuple):
    """``length`` entries of the memory of ``base``, from ``offset`` on."""

    base: Value
    offset: int
    length: int


def view(value: Value, parts: Mapping[Value, View] | None = None) -> View:
    """Return where a value lies, if it is a slice of another, another name for it, or one of ``parts`` of `Passes`."""
    base, offset = value, 0
    while base.op in _ALIASES:
        offset += base.attribute if base.op == "slice" else 0
        base = base.inputs[0]
    if parts and base in parts:
        base, offset = parts[base].base, parts[base].offset + offset
    return View(base, offset, value.length)


class Passes(NamedTuple):
    """The nodes of the forward and the backward pass.

    Attributes:
        forward, backward: nodes in order.
        taped: inputs and values of the forward pass that the backward pass reads.
        parts: values that lie in the memory of a taped concatenation.
    """

    forward: list[Value]
    backward: list[Value]
    taped: list[Value]
    parts: dict[Value, View]


def split_passes(outputs: Sequence[Value], gradients: Sequence[Value]) -> Passes:
    """Divide the nodes into those that the outputs need, and those that only the gradients need.

    The backward pass repeats cheap operations of the forward pass whose operands are on the tape.

    Args:
        outputs: results of the forward pass.
        gradients: results of the backward pass, and other values that the caller reads in it. For the gradient of a
            shared matrix, pass the vectors of `outer_products`.
    """
    forward = ancestors(outputs)
    backward = set(ancestors(gradients)).difference(forward)
    read = {view(value).base for node in backward for value in node.inputs} | {view(value).base for value in gradients}
    read = {value for value in forward if value in read and value.op not in _CONSTANTS}
    parts = {part: place for part, place in _parts(forward).items() if part in read and place.base in read}
    repeated = {
        value
        for value in read.difference(parts)
        if value.op in EXPRESSIONS
        and value.op not in CALLS
        and all(base in read or base.op in _CONSTANTS for base, _, _ in map(view, value.inputs))
    }
    taped = [value for value in forward if value in read.difference(parts, repeated)]
    return Passes(forward, sorted(backward | repeated, key=lambda value: value.index), taped, parts)


def _parts(nodes: Iterable[Value]) -> dict[Value, View]:
    """Return vectors that can be computed in the place that they have in a concatenation, and this place."""
    nodes = list(nodes)
    parts: dict[Value, View] = {}
    for node in nodes:
        offset = 0
        for part in node.inputs if node.op == "cat" else ():
            base = view(part).base
            if base.length == part.length > 1 and base.op in EXPRESSIONS and base.op != "expand":
                parts.setdefault(base, View(node, offset, part.length))
            offset += part.length
    return {part: place for part, place in parts.items() if part in set(nodes)}


@dataclass
class _Group:
    """Operations that share a loop, or statements on numbers; ``segment`` counts the external operations before."""

    kind: tuple[str, int]
    members: dict[Value, None]
    segment: int


def emit(
    nodes: Sequence[Value],
    stored: Collection[Value],
    place: Callable[[Value], str],
    length: Callable[[int], str] = str,
    literal: Callable[[float], str] | None = None,
    parts: Mapping[Value, View] | None = None,
) -> list[str | Value]:
    """Return C code for the nodes: blocks of vector work for one sequence, and between them external operations.

    Each block does all the work that is possible before the next external operation.

    Args:
        nodes: in order. Operands that are not among them lie in memory.
        stored: values that must be in memory after the code. Operands of external operations are stored too.
        place: C expression of a pointer to the memory of a value, see `view`. The code calls it for operands and for
            all values that it must store: ``stored`` and temporary ones. No two values may share memory.
        length: C expression of a length or an offset.
        literal: C expression of a number in Python.
        parts: see `Passes`.
    """
    return _Emitter(nodes, stored, place, length, literal or _literal, parts or {}).emit()


def _literal(number: float) -> str:
    text = repr(number).replace("inf", "INFINITY").replace("nan", "NAN")
    return f"(real){text}"


class _Emitter:
    """The code of one call of `emit`.

    Attributes:
        memory: values that must be in memory.
        repetitions: ``expand`` nodes without memory: their readers read what they repeat.
        work: nodes that become code, in the order of the trace.
        groups: the same nodes in the order of the code.
        pointers: names of the pointers of the current block.
    """

    def __init__(
        self,
        nodes: Sequence[Value],
        stored: Collection[Value],
        place: Callable[[Value], str],
        length: Callable[[int], str],
        literal: Callable[[float], str],
        parts: Mapping[Value, View],
    ) -> None:
        self.place, self.length, self.literal = place, length, literal
        operands = [operand for node in nodes if node.op == "external" for operand in node.inputs]
        self.memory = {view(value).base for value in (*stored, *operands)}
        self.repetitions = {node for node in nodes if node.op == "expand" and node not in self.memory}
        self.work = [
            node
            for node in nodes
            if node not in self.repetitions and node.op in (*EXPRESSIONS, *REDUCTIONS, "cat", "external")
        ]
        self.parts = {part: place for part, place in _parts(self.work).items() if part not in self.memory} | dict(parts)
        self.groups = self._group()
        self.group_of = {value: group for group in self.groups for value in group.members}
        for group in self.groups:
            for value in group.members:
                if value.op in ("cat", "external"):
                    self.memory.add(value)
                for base, _, _ in map(self._view, value.inputs):
                    writer = self.group_of.get(base, group)
                    if writer is not group and (base.length > 1 or writer.segment != group.segment):
                        self.memory.add(base)
        self.pointers: dict[Value, str] = {}

    def _view(self, value: Value) -> View:
        base, offset, length = view(value)
        if base not in self.repetitions:
            return View(base, offset, length)
        repeated = self._view(base.inputs[0])
        return repeated if repeated.length == 1 else View(repeated.base, repeated.offset + offset, length)

    @staticmethod
    def _kind(value: Value) -> tuple[str, int]:
        if value.op == "external":
            return "external", value.index
        if value.op == "cat" or (value.op in EXPRESSIONS and value.length == 1):
            return ("cat" if value.op == "cat" else "numbers"), 1
        length = value.inputs[0].length if value.op in REDUCTIONS else value.length
        return ("calls" if value.op in CALLS else "loop"), length

    def _group(self) -> list[_Group]:
        """Collect the operations that can share a loop, whatever order they were traced in."""
        waiting, groups, segment = dict.fromkeys(self.work), list[_Group](), 0
        while waiting:
            ready = [v for v in waiting if all(base not in waiting for base, _, _ in map(self._view, v.inputs))]
            kind = min((self._kind(value) for value in ready), key=lambda kind: _PRIORITY[kind[0]])
            group = _Group(kind, {}, segment)
            for value in waiting:
                if self._kind(value) == kind and all(self._can_read(group, v, waiting) for v in value.inputs):
                    group.members[value] = None
            for value in group.members:
                del waiting[value]
            groups.append(group)
            segment += kind[0] == "external"
        return groups

    def _can_read(self, group: _Group, operand: Value, waiting: Collection[Value]) -> bool:
        """Return whether a member of the group can read the operand: other members only at the entry it writes."""
        base, _, length = self._view(operand)
        in_step = group.kind[0] != "cat" and base.op in EXPRESSIONS and length == base.length
        return base not in waiting or (base in group.members and in_step)

    def emit(self) -> list[str | Value]:
        blocks: list[str | Value] = []
        lines: list[str] = []

        def close() -> None:
            if lines:
                pointers = [
                    f"real *restrict {name} = (real *)({self.place(value)});" for value, name in self.pointers.items()
                ]
                blocks.append("\n".join(["{", *pointers, *lines, "}"]))
            lines.clear()
            self.pointers.clear()

        for group in self.groups:
            if group.kind[0] == "external":
                close()
                blocks.extend(group.members)
            elif group.kind[0] == "numbers":
                for value in group.members:
                    lines.extend(self._assign(value, group))
            elif group.kind[0] == "cat":
                lines.extend(line for value in group.members for line in self._concatenate(value, group))
            else:
                lines.extend(self._loop(group))
        close()
        return blocks

    def _loop(self, group: _Group) -> Iterator[str]:
        reductions = [value for value in group.members if value.op in REDUCTIONS]
        yield from (f"real v{value.index} = {REDUCTIONS[value.op][0]};" for value in reductions)
        if group.kind[0] == "loop":
            names = ", ".join(f"v{value.index}" for value in reductions)
            yield "#pragma omp simd" + (f" reduction(+ : {names})" if names else "")
        yield f"for (int64_t j = 0; j < {self.length(group.kind[1])}; j++) {{"
        for value in group.members:
            if value.op in REDUCTIONS:
                yield REDUCTIONS[value.op][1].format(f"v{value.index}", self._operand(value.inputs[0], group))
            else:
                yield from self._assign(value, group)
        yield "}"
        yield from (f"{self._entry(View(v, 0, 1))} = v{v.index};" for v in reductions if v in self.memory)

    def _assign(self, value: Value, group: _Group) -> Iterator[str]:
        operands = [self._operand(operand, group) for operand in value.inputs]
        yield f"const real v{value.index} = {EXPRESSIONS[value.op].format(*operands)};"
        if value in self.memory:
            yield f"{self._entry(view(value))} = v{value.index};"

    def _concatenate(self, value: Value, group: _Group) -> Iterator[str]:
        offset = 0
        for part in value.inputs:
            place = View(value, offset, part.length)
            written = self.parts.get(view(part).base)
            if written is None or written.base is not value or written.offset != offset:
                loop = f"for (int64_t j = 0; j < {self.length(part.length)}; j++) " if part.length > 1 else ""
                yield f"{loop}{self._entry(place)} = {self._operand(part, group)};"
            offset += part.length

    def _operand(self, value: Value, group: _Group) -> str:
        base, _, _ = place = self._view(value)
        if base.op == "literal":
            return self.literal(base.attribute)
        writer = self.group_of.get(base)
        is_number = base.length == 1 and base.op != "external" and writer and writer.segment == group.segment
        return f"v{base.index}" if is_number or writer is group else self._entry(place)

    def _entry(self, place: View) -> str:
        """Return the C expression of an entry in memory: number j of a vector, or the only one."""
        base, offset, length = place
        if base in self.parts:
            base, offset = self.parts[base].base, self.parts[base].offset + offset
        name = self.pointers.setdefault(base, f"p{base.index}")
        terms = ([self.length(offset)] if offset else []) + (["j"] if length > 1 else [])
        return f"{name}[{' + '.join(terms) or '0'}]"
