"""Trace the Python code of a step: record which operations it does on vectors, without doing them.

The step is called once with `Value` objects in place of its tensors [B, n]. Every torch function and operator that
meets a Value adds a node to a `Graph`. derivatives.py adds the backward pass to the same graph, and emit.py writes C
code for it. Only torch's documented protocol for other types, ``__torch_function__``, is used.

The code sees a batch of one sequence in place of B. It must treat all sequences alike: it may neither index nor reduce
the batch axis, nor branch on values.
"""

from __future__ import annotations

import inspect
import numbers
import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Adjoint = Callable[["Value"], "Sequence[Value | None]"]

_COMMUTATIVE = {"add", "mul", "eq", "maximum", "minimum", "logical_and", "logical_or"}
_NEUTRAL = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}
_MASKS = {"lt", "le", "eq", "logical_and", "logical_or", "logical_not"}
_OWN_FILES = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class UntraceableError(NotImplementedError):
    """The step does something that has no form as vector work in C."""


def untraceable(message: str) -> NoReturn:
    """Raise an `UntraceableError` that names the line of the step."""
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(_OWN_FILES)]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    raise UntraceableError(message + place)


def _operator(name: str, swapped: bool = False) -> Callable[[Value, Any], Value]:
    def method(self: Value, other: Any) -> Value:
        result: Value = self.graph.call(name, *((other, self) if swapped else (self, other)))
        return result

    return method


def _forbidden(action: str, instead: str) -> Callable[..., NoReturn]:
    def method(*_: Any) -> NoReturn:
        untraceable(f"the compiled form cannot {action}; {instead}")

    return method


@dataclass(frozen=True, eq=False, repr=False)
class Value:
    """A tensor of the traced step, and the node of the graph that computes it. It has torch's operators and methods.

    Attributes:
        graph: the graph that the node belongs to.
        index: number of the node; inputs have smaller numbers.
        op: name of the operation, see `Graph`.
        inputs: operands.
        attribute: what else the operation needs: a name, the number of a literal, the start of a slice.
        shape: (1, n) for one vector per sequence [B, n], (1,) for one number per sequence [B]; for values that all
            sequences share (n,), () or, for a matrix, (rows, columns).
        batched: whether the value differs between sequences.
        dtype: torch.bool for masks, which count as 0 and 1.
    """

    graph: Graph
    index: int
    op: str
    inputs: tuple[Value, ...]
    attribute: Any
    shape: torch.Size
    batched: bool
    dtype: torch.dtype

    __array_ufunc__ = None  # numpy's numbers leave the operation to Value
    device = torch.device("cpu")

    @property
    def length(self) -> int:
        """Number of entries for each sequence."""
        return self.shape.numel()

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def dim(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or the size of one axis."""
        return self.shape if dim is None else self.shape[dim]

    def __repr__(self) -> str:
        operands = [f"%{value.index}" for value in self.inputs]
        attribute = [] if self.attribute is None else [repr(self.attribute)]
        axes = ["B", *map(str, self.shape[1:])] if self.batched else map(str, self.shape)
        return f"%{self.index} = {self.op}({', '.join(operands + attribute)}) [{', '.join(axes)}]"

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        graph = next(value.graph for value in _flat((args, kwargs or {})) if isinstance(value, Value))
        return graph.call(_name(function), *args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("T", "mT") or name not in _operations():  # `call` explains that there is no such operation
            return self.graph.call(name, self)
        return partial(self.graph.call, name, self)

    __hash__ = object.__hash__
    __add__, __radd__ = _operator("add"), _operator("add", swapped=True)
    __sub__, __rsub__ = _operator("sub"), _operator("sub", swapped=True)
    __mul__, __rmul__ = _operator("mul"), _operator("mul", swapped=True)
    __truediv__, __rtruediv__ = _operator("div"), _operator("div", swapped=True)
    __floordiv__, __mod__ = _operator("floor_divide"), _operator("remainder")
    __pow__, __rpow__ = _operator("pow"), _operator("pow", swapped=True)
    __and__, __or__, __xor__ = _operator("and"), _operator("or"), _operator("xor")
    __lt__, __le__, __gt__, __ge__ = _operator("lt"), _operator("le"), _operator("gt"), _operator("ge")
    __eq__, __ne__ = _operator("eq"), _operator("ne")  # type: ignore[assignment]
    __matmul__, __rmatmul__ = _operator("matmul"), _operator("matmul", swapped=True)
    __getitem__ = _operator("getitem")
    __iadd__ = __isub__ = __imul__ = __itruediv__ = _forbidden("change a value in place", "write x = x + y")
    __setitem__ = _forbidden("change a value in place", "use torch.where or torch.cat")
    __bool__ = _forbidden("branch on a value, because all sequences run the same code", "use torch.where")
    __float__ = __int__ = _forbidden("convert a value to a Python number", "use it as a tensor")
    __iter__ = __len__ = _forbidden("iterate over sequences", "treat all sequences alike")

    def __neg__(self) -> Value:
        return self.graph.elementwise("neg", self)

    def __invert__(self) -> Any:
        return self.graph.call("invert", self)

    def __abs__(self) -> Value:
        return self.graph.elementwise("abs", self)


class Graph:
    """The operations of a step, in order. Equal operations on equal operands are one node.

    Operations are ``input``, ``shared`` and ``literal``; elementwise operations with torch's names (``expand`` repeats
    a number or a shared vector); ``sum`` and ``amax`` over the last axis; ``cat``, ``slice``, ``reshape``, ``detach``
    (no gradient passes), ``alias`` (a new name for a value); ``transpose`` of a shared matrix; ``outer``, the gradient
    of a shared matrix; ``external``.

    Args:
        shared: names and tensors that all sequences share, such as parameters, on any device. Other tensors with axes
            are errors. Other tensors without axes are constants, like Python numbers.
        dtype: of all values except masks.
    """

    def __init__(self, shared: Mapping[str, Tensor] | None = None, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.values: list[Value] = []
        self.adjoints: dict[Value, Adjoint] = {}
        self._nodes: dict[Hashable, Value] = {}
        self._shared = {id(tensor): (name, tensor) for name, tensor in (shared or {}).items()}

    def trace(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return ``function(*arguments)``; operations on shared tensors alone are recorded too."""
        with _SharedOperations(self):
            return function(*arguments)

    def input(self, name: str, size: int, shared: bool = False) -> Value:
        """Return an argument of the step: [B, size], or [size] for a vector that all sequences share."""
        return self.node("input", (), (size,) if shared else (1, size), not shared, name)

    def external(self, kind: Hashable, inputs: Sequence[Value], size: int, adjoint: Adjoint) -> Value:
        """Return the result [B, size] of an operation that hand-written C does.

        Args:
            kind: name of the operation. Two calls with the same kind and inputs are one.
            inputs: vectors, or shared matrices, that the operation reads from memory. An operation that must come
                after another has its result as an input.
            size: length of the result.
            adjoint: maps the gradient of the result to those of the inputs; None where there is no gradient.
        """
        result = self.node("external", [self.value(value) for value in inputs], (1, size), True, kind)
        self.adjoints.setdefault(result, adjoint)
        return result

    def node(
        self,
        op: str,
        inputs: Sequence[Value],
        shape: Sequence[int],
        batched: bool,
        attribute: Any = None,
        dtype: torch.dtype | None = None,
    ) -> Value:
        """Return the node with these fields; see `Value`."""
        key = (op, *(value.index for value in inputs), repr(attribute), tuple(shape), batched, dtype)
        if key not in self._nodes:
            fields = (op, tuple(inputs), attribute, torch.Size(shape), batched, dtype or self.dtype)
            self._nodes[key] = Value(self, len(self.values), *fields)
            self.values.append(self._nodes[key])
        return self._nodes[key]

    def value(self, operand: Any) -> Value:
        """Return the Value of an operand: a Value, a shared tensor or a number."""
        if isinstance(operand, Tensor):
            operand = self._lift(operand)
        if isinstance(operand, numbers.Real):
            return self.node("literal", (), (), False, float(operand))
        if not isinstance(operand, Value) or operand.graph is not self:
            untraceable(f"an operand must be a tensor of this step or a number, got {operand!r}")
        return operand

    def knows(self, tensor: Any) -> bool:
        """Return whether a tensor is one of the shared tensors."""
        return id(tensor) in self._shared

    def _lift(self, operand: Any) -> Any:
        """Replace tensors by Values or numbers, also inside lists and tuples."""
        if isinstance(operand, list | tuple) and not isinstance(operand, torch.Size):
            return type(operand)(map(self._lift, operand))
        if not isinstance(operand, Tensor):
            return operand
        if self.knows(operand):
            if operand.ndim > 2:
                untraceable(f"a shared tensor must have at most two axes, got {tuple(operand.shape)}")
            return self.node("shared", (), operand.shape, False, self._shared[id(operand)][0])
        if operand.ndim == 0 and operand.device.type == "cpu" and not operand.requires_grad:
            return operand.item()
        untraceable(
            f"the step reads a tensor of shape {tuple(operand.shape)} that is neither a parameter of the rule nor an "
            "argument of the step"
        )

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Record the torch function or method with this name."""
        if name not in _operations():
            untraceable(f"the compiled form has no operation {name!r}")
        operation = _operations()[name]
        args, kwargs = self._lift(args), {key: self._lift(value) for key, value in kwargs.items()}
        try:
            inspect.signature(operation).bind(*args, **kwargs)
        except TypeError as error:
            untraceable(f"the compiled form does not know these arguments of {name!r}: {error}")
        return operation(*args, **kwargs)

    def elementwise(self, op: str, *operands: Any) -> Value:
        """Record an elementwise operation with broadcasting."""
        values = [self.value(operand) for operand in operands]
        shape, batched = broadcast(values)
        for i, value in enumerate(values):  # the operation itself repeats a number
            narrow = [*values[:i], value.inputs[0], *values[i + 1 :]] if value.op == "expand" else values
            values = narrow if broadcast(narrow) == (shape, batched) else values
        if op in _COMMUTATIVE:
            values.sort(key=lambda value: (value.op == "literal", value.index))
        masks = [value.dtype == torch.bool for value in values]
        if op == "add" and all(masks):
            untraceable("masks must not be added; convert them with .float(), or use |")
        first, last = values[0], values[-1]
        is_neutral = last.op == "literal" and last.attribute == _NEUTRAL.get(op) and not masks[0]
        if is_neutral and (first.shape, first.batched) == (shape, batched):
            return first
        is_mask = op in _MASKS or (op == "where" and all(masks[1:]))
        return self.node(op, values, shape, batched, dtype=torch.bool if is_mask else None)

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """Record a change between [B] and [B, 1], or [] and [1]."""
        value = value.inputs[0] if value.op == "reshape" else value
        return value if value.shape == tuple(shape) else self._same_kind("reshape", value, shape)

    def expand(self, value: Value, shape: Sequence[int], batched: bool) -> Value:
        """Record the repetition of a value to a larger shape, which may have a batch axis in addition."""
        if (value.shape, value.batched) == (tuple(shape), batched):
            return value
        return self.node("expand", (value,), shape, batched)

    def slice(self, value: Value, start: int, stop: int) -> Value:
        """Record entries ``start`` to ``stop`` of the last axis."""
        length, shape = stop - start, (*value.shape[:-1], stop - start)
        if not 0 <= start < stop <= value.length:
            untraceable(f"a slice must have at least one entry and lie in the vector, got {start}:{stop}")
        if length == value.length:
            return value
        if value.op == "slice":
            return self.slice(value.inputs[0], value.attribute + start, value.attribute + stop)
        if value.op == "expand" and value.inputs[0].length == 1:
            return self.expand(value.inputs[0], shape, value.batched)
        if value.op == "cat":
            offset = 0
            for part in value.inputs:
                if offset <= start and stop <= offset + part.length:
                    return self.slice(part, start - offset, stop - offset)
                offset += part.length
        return self._same_kind("slice", value, shape, start)

    def reduce(self, op: str, value: Value) -> Value:
        """Record ``sum`` or ``amax`` over the last axis, which stays with size 1."""
        if value.length == 1 and value.dtype != torch.bool:
            return value
        return self.node(op, (value,), (*value.shape[:-1], 1), value.batched)

    def cat(self, values: Sequence[Value]) -> Value:
        """Record the concatenation of vectors along the last axis."""
        parts = [part for value in values for part in (value.inputs if value.op == "cat" else (value,))]
        shape = (*parts[0].shape[:-1], sum(part.length for part in parts))
        return parts[0] if len(parts) == 1 else self.node("cat", parts, shape, parts[0].batched)

    def detach(self, value: Value) -> Value:
        """Record a value that is a constant for derivatives."""
        return self._same_kind("detach", value, value.shape)

    def alias(self, value: Value) -> Value:
        """Record a new name for a value, to which derivatives can refer."""
        return self._same_kind("alias", value, value.shape, len(self.values))

    def project(self, value: Value, matrix: Value, transposed: bool = False) -> Value:
        """Record the product of a vector and a shared matrix [rows, columns], or its transpose."""
        rows, columns = reversed(matrix.shape) if transposed else matrix.shape
        if not value.batched or value.ndim != 2 or value.length != rows:
            untraceable(f"a product with a matrix [{rows}, {columns}] must have a vector [B, {rows}], got {value!r}")

        def adjoint(d: Value) -> tuple[Value, Value]:
            pair = (d, value) if transposed else (value, d)
            return self.project(d, matrix, not transposed), self.node("outer", pair, matrix.shape, False)

        return self.external("project_transposed" if transposed else "project", (value, matrix), columns, adjoint)

    def _same_kind(self, op: str, value: Value, shape: Sequence[int], attribute: Any = None) -> Value:
        dtype = torch.bool if value.dtype == torch.bool else None
        return self.node(op, (value,), shape, value.batched, attribute, dtype)


def ancestors(values: Sequence[Value]) -> list[Value]:
    """Return the values and all values that they need, in the order in which they can be computed."""
    found: set[Value] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value not in found:
            found.add(value)
            stack.extend(value.inputs)
    return sorted(found, key=lambda value: value.index)


class _SharedOperations(TorchFunctionMode):
    """A mode in which operations on shared tensors are recorded even if no operand is a Value."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, kwargs = _name(function), kwargs or {}
        operands = _flat((args, kwargs))
        reads_shared = any(self.graph.knows(operand) for operand in operands)
        if any(isinstance(operand, Value) for operand in operands) or (reads_shared and name in _operations()):
            return self.graph.call(name, *args, **kwargs)
        result = function(*args, **kwargs)
        if reads_shared and isinstance(result, Tensor):
            untraceable(f"the compiled form has no operation {name!r}")
        return result


def _name(function: Any) -> str:
    """Return the name of a torch function, of a method without underscores, or of an attribute that is read."""
    name: str = function.__self__.__name__ if function.__name__ == "__get__" else function.__name__
    return name[2:-2] if name.startswith("__") else name


def _operations() -> Mapping[str, Callable[..., Any]]:
    # Imported here, because operations.py imports this module.
    from plastic_agents.models.plastic.tracing.operations import OPERATIONS

    return OPERATIONS


def _flat(arguments: Any) -> list[Any]:
    if isinstance(arguments, Mapping):
        arguments = list(arguments.values())
    if not isinstance(arguments, list | tuple):
        return [arguments]
    return [leaf for argument in arguments for leaf in _flat(argument)]


def broadcast(values: Sequence[Value]) -> tuple[torch.Size, bool]:
    """Return the shape of an elementwise result, and whether it has a batch axis."""
    if any(value.ndim == 2 and not value.batched for value in values):
        untraceable("a shared matrix can only be multiplied by a vector [B, n]")
    ranks, lengths = {value.ndim for value in values if value.batched}, {value.length for value in values} - {1}
    if len(ranks) == 2 or (ranks == {1} and lengths):
        untraceable("one number per sequence [B] does not broadcast with a vector; keep the axis: [B, 1]")
    if len(lengths) > 1:
        untraceable(f"vectors must have the same length, got {sorted(lengths)}")
    rank = max(ranks or {value.ndim for value in values})
    return torch.Size([1] * (rank - 1) + [*lengths, 1][: min(rank, 1)]), bool(ranks)
