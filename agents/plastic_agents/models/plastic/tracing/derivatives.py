"""Derivatives of a traced step, as more operations in the same graph. They can be applied to their own results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from plastic_agents.models.plastic.tracing.trace import Graph, Value, ancestors, untraceable


def _where(mask: Value, value: Any, other: Any) -> Value:
    return mask.graph.elementwise("where", mask, value, other)


def _extremum(is_less: Callable[[Value, Value], Value]) -> Callable[..., list[Value]]:
    """Return the rule of maximum or minimum, which divides the gradient evenly between equal operands."""

    def rule(d: Value, _: Value, x: Value, y: Value) -> list[Value]:
        shared = _where(x == y, d / 2, d)
        return [_where(is_less(x, y), 0, shared), _where(is_less(y, x), 0, shared)]

    return rule


# (gradient of the result, result, operands) -> gradients of the operands, before broadcasting is undone. Operations
# that are not in the table have no derivative: masks, sign, detach, and values without operands. At points without a
# derivative, such as 0 for relu, the rules give the same gradient as torch.
RULES: dict[str, Callable[..., Sequence[Value | None]]] = {
    "add": lambda d, result, x, y: [d, d],
    "sub": lambda d, result, x, y: [d, -d],
    "mul": lambda d, result, x, y: [d * y, d * x],
    "div": lambda d, result, x, y: [d / y, -(d / y) * result],
    "neg": lambda d, result, x: [-d],
    "square": lambda d, result, x: [2 * d * x],
    "sqrt": lambda d, result, x: [d / (2 * result)],
    "exp": lambda d, result, x: [d * result],
    "expm1": lambda d, result, x: [d * (result + 1)],
    "log": lambda d, result, x: [d / x],
    "log1p": lambda d, result, x: [d / (x + 1)],
    "sigmoid": lambda d, result, x: [d * (result * (1 - result))],
    "tanh": lambda d, result, x: [d * (1 - result.square())],
    "relu": lambda d, result, x: [_where(result <= 0, 0, d)],
    "abs": lambda d, result, x: [d * x.sign()],
    "maximum": _extremum(lambda x, y: x < y),
    "minimum": _extremum(lambda x, y: y < x),
    "where": lambda d, result, mask, x, y: [None, _where(mask, d, 0), _where(mask, 0, d)],
    "sum": lambda d, result, x: [d],
    "amax": lambda d, result, x: [d * (x == result) / d.graph.reduce("sum", x == result)],
    "expand": lambda d, result, x: [d],
    "reshape": lambda d, result, x: [d],
    "alias": lambda d, result, x: [d],
    "slice": lambda d, result, x: [d],  # `_Adjoints` puts the gradients of slices together
    "cat": lambda d, result, *parts: [
        d.graph.slice(d, start, start + part.length) for start, part in zip(_starts(parts), parts, strict=True)
    ],
    "external": lambda d, result, *inputs: d.graph.adjoints[result](d),
}


def gradients(outputs: Sequence[tuple[Value, Value]], inputs: Sequence[Value]) -> list[Value | None]:
    """Return the gradients of the inputs, from pairs of an output and its gradient; None for no dependence.

    The gradient of a shared vector [n] is one vector per sequence [B, n], which the caller sums over sequences. The
    gradient of a shared matrix is only a record of the vectors that `outer_products` returns; it has no C code.
    """
    active = _between([output for output, _ in outputs], inputs)
    adjoints = _Adjoints()
    for output, d in outputs:
        adjoints.add(output, d)
    for value in sorted(active, key=lambda value: value.index, reverse=True):
        d_value = adjoints.total(value)
        if d_value is None or value.op not in RULES:
            continue
        for operand, d_operand in zip(value.inputs, RULES[value.op](d_value, value, *value.inputs), strict=True):
            if d_operand is not None and operand in active:
                adjoints.add(operand, d_operand, value.attribute if value.op == "slice" else None)
    return [adjoints.total(value) for value in inputs]


class _Adjoints:
    """Gradients of values, summed over the operations that read the values."""

    def __init__(self) -> None:
        self._whole: dict[Value, Value] = {}
        self._slices: dict[Value, list[tuple[int, Value]]] = {}

    def add(self, value: Value, d: Value, start: int | None = None) -> None:
        """Add the gradient of a value, or of the slice of it that begins at ``start``."""
        if start is not None:
            self._slices.setdefault(value, []).append((start, d))
        elif d.op == "outer":
            pairs = self._whole[value].inputs if value in self._whole else ()
            self._whole[value] = d.graph.node("outer", (*pairs, *d.inputs), d.shape, False)
        else:
            d = _like(d, value)
            self._whole[value] = self._whole[value] + d if value in self._whole else d

    def total(self, value: Value) -> Value | None:
        """Return the sum."""
        for d in _assemble(value, self._slices.pop(value, [])):
            self.add(value, d)
        return self._whole.get(value)


def outer_products(gradient: Value) -> list[tuple[Value, Value]]:
    """Return the pairs of vectors, [B, rows] and [B, columns], whose outer products sum to the gradient of a matrix."""
    return list(zip(gradient.inputs[::2], gradient.inputs[1::2], strict=True))


def vjp(function: Callable[..., Any], *inputs: Any, has_aux: bool = False) -> tuple[Any, ...]:
    """Return ``function(*inputs)``, and a function from the outputs' gradients to those of the inputs.

    This is `torch.func.vjp`, for traced values too. Steps that descend an inner loss call it. Values that ``function``
    reads besides its arguments are constants. Outputs are a tensor or nested tuples of tensors. With
    ``has_aux``, the function returns a pair, whose second member is returned last and is not differentiated.
    """
    graph = next((value.graph for value in inputs if isinstance(value, Value)), None)
    if graph is None:
        return _tensor_vjp(function, *inputs, has_aux=has_aux)
    values = [graph.alias(graph.value(value)) for value in inputs]
    if not all(value.batched for value in values):
        untraceable("the inputs of vjp must be values of each sequence, not parameters")
    outputs, *aux = function(*values) if has_aux else (function(*values),)

    def pullback(cotangents: Any) -> tuple[Any, ...]:
        pairs = zip(_leaves(graph, outputs), _leaves(graph, cotangents), strict=True)
        results = gradients(list(pairs), values)
        return tuple(value.zeros_like() if d is None else d for value, d in zip(values, results, strict=True))

    return outputs, pullback, *aux


def _tensor_vjp(function: Callable[..., Any], *inputs: Tensor, has_aux: bool) -> tuple[Any, ...]:
    """Return `torch.func.vjp`, or the same by `torch.autograd.grad`, which needs not import torch's compiler."""
    outer = torch.is_grad_enabled()
    if torch.is_inference_mode_enabled() or any(_is_wrapped(x) or (outer and not x.requires_grad) for x in inputs):
        return torch.func.vjp(function, *inputs, has_aux=has_aux)
    with torch.enable_grad():
        values = [x.view_as(x) if outer else x.detach().requires_grad_() for x in inputs]
        result = function(*values)
    output, *aux = result if has_aux else (result,)
    outputs = _flat(output)

    def pullback(cotangents: Any) -> tuple[Tensor, ...]:
        active = [(y, d) for y, d in zip(outputs, _flat(cotangents), strict=True) if y.requires_grad]
        results: Any = [None] * len(values)
        if active:
            ys, ds = zip(*active, strict=True)
            results = torch.autograd.grad(ys, values, ds, retain_graph=True, create_graph=outer, allow_unused=True)
        return tuple(torch.zeros_like(x) if d is None else d for x, d in zip(values, results, strict=True))

    if not outer:
        output, aux = _detached(output), [_detached(value) for value in aux]
    return output, pullback, *aux


def _is_wrapped(tensor: Tensor) -> bool:
    """Return whether a tensor belongs to a transform of torch.func, or has a tangent: autograd can't follow these."""
    if forward_ad.unpack_dual(tensor).tangent is not None:
        return True
    try:
        tensor.data_ptr()
    except RuntimeError:
        return True
    return False


def _between(outputs: Sequence[Value], inputs: Sequence[Value]) -> set[Value]:
    """Return the values that depend on the inputs, and on which the outputs depend."""
    needed = ancestors(outputs)
    active = set(inputs)
    for value in needed:
        if value.op in RULES and not active.isdisjoint(value.inputs):
            active.add(value)
    return active.intersection(needed)


def _leaves(graph: Graph, tree: Any) -> list[Value]:
    if not isinstance(tree, tuple | list):
        return [graph.value(tree)]
    return [leaf for branch in tree for leaf in _leaves(graph, branch)]


def _flat(tree: Any) -> list[Tensor]:
    return [leaf for branch in tree for leaf in _flat(branch)] if isinstance(tree, tuple | list) else [tree]


def _detached(tree: Any) -> Any:
    if not isinstance(tree, tuple | list):
        return tree.detach()
    branches = [_detached(branch) for branch in tree]
    return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)


def _starts(parts: Sequence[Value]) -> list[int]:
    return [sum(part.length for part in parts[:i]) for i in range(len(parts))]


def _like(d: Value, value: Value) -> Value:
    """Return the gradient ``d`` with the shape of ``value``, summed or repeated as its broadcasting demands."""
    graph = d.graph
    shape = value.shape if value.batched else torch.Size((1, value.length))
    if d.length > value.length:
        if value.length != 1:
            untraceable(f"a gradient of {d.length} entries cannot be that of a value of {value.length}")
        d = graph.reduce("sum", d)
    if d.batched:
        d = graph.reshape(d, (1, d.length))
    return graph.reshape(graph.expand(d, (1, value.length), True), shape)


def _assemble(value: Value, pieces: list[tuple[int, Value]]) -> list[Value]:
    """Return gradients of a whole vector from those of its slices: one, if the slices do not overlap."""
    rows: list[tuple[int, list[Value]]] = []  # (next free entry, values)
    graph, zero = value.graph, value.graph.value(0)

    def gap(length: int) -> list[Value]:
        return [graph.expand(zero, (1, length), True)] if length else []

    for start, d in sorted(pieces, key=lambda piece: piece[0]):
        d = graph.reshape(d, (1, d.length)) if d.batched else d
        stop, row = next((row for row in rows if row[0] <= start), (0, []))
        rows = [other for other in rows if other[1] is not row]
        rows.append((start + d.length, [*row, *gap(start - stop), d]))
    return [graph.cat([*row, *gap(value.length - stop)]) for stop, row in rows]
