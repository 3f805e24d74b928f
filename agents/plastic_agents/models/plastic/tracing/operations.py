"""The torch functions and methods that a traced step may call, as operations of its graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from plastic_agents.models.plastic.tracing.trace import Value, broadcast, untraceable


def _last(value: Value, dim: int | None) -> Value:
    """Check that ``dim`` is the last axis, and not the batch."""
    if dim not in (-1, value.ndim - 1) or value.ndim == 0 or (value.batched and value.ndim == 1):
        untraceable(f"dim must be -1, the last axis of a vector [B, n], got dim={dim} for {value!r}")
    return value


def _elementwise(op: str, first: Any, *others: Any) -> Value:
    return next(value for value in (first, *others) if isinstance(value, Value)).graph.elementwise(op, first, *others)


def _masks(op: str, *masks: Any) -> Value:
    if any(not isinstance(mask, Value) or mask.dtype != torch.bool for mask in masks):
        untraceable(f"operands of {op} must be masks, such as x > 0")
    return _elementwise(op, *masks)


def _where(mask: Any, x: Any, other: Any) -> Value:
    if not isinstance(mask, Value) or mask.dtype != torch.bool:
        untraceable("the condition of where must be a mask, such as x > 0")
    return _elementwise("where", mask, x, other)


def _getitem(x: Value, key: Any) -> Value:
    keys = list(key) if isinstance(key, tuple) else [key]
    if keys[-1] is None and len(keys) == 2 and (keys[0] is Ellipsis or keys[0] == slice(None)):
        return _unsqueeze(x, -1)
    dots = [i for i, key in enumerate(keys) if key is Ellipsis] or [len(keys)]
    keys[dots[0] : dots[0] + 1] = [slice(None)] * (x.ndim - len([key for key in keys if key is not Ellipsis]))
    if len(keys) != x.ndim or any(not isinstance(key, slice | int) for key in keys):
        untraceable(f"an index must be a slice or a whole number, got {key!r}")
    batch, last = keys[: int(x.batched)], keys[int(x.batched) :]
    if any(not isinstance(key, slice) or key != slice(None) for key in batch):
        untraceable("the step must not index the batch axis")
    if not last:
        return x
    if isinstance(last[0], slice):
        start, stop, step = last[0].indices(x.length)
        if step != 1:
            untraceable("a slice must have step 1")
        return x.graph.slice(x, start, stop)
    start = range(x.length)[last[0]]
    return x.graph.reshape(x.graph.slice(x, start, start + 1), x.shape[:-1])


def _unsqueeze(x: Value, dim: int) -> Value:
    if x.ndim != int(x.batched) or dim not in (-1, x.ndim):
        untraceable("unsqueeze must add a last axis to one number per sequence [B]")
    return x.graph.reshape(x, (*x.shape, 1))


def _squeeze(x: Value, dim: int) -> Value:
    return x.graph.reshape(_last(x, dim), x.shape[:-1]) if x.length == 1 else x


def _reduce(op: str, x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    result = x.graph.reduce(op, _last(x, dim))
    return result if keepdim else x.graph.reshape(result, x.shape[:-1])


def _mean(x: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _reduce("sum", x, dim, keepdim) / x.length


def _vector_norm(x: Value, ord: Any = 2, dim: int | None = None, keepdim: bool = False) -> Value:
    if ord not in (2, None, "fro"):
        untraceable(f"the order of a norm must be 2, got {ord!r}")
    squared = _reduce("sum", x.square(), dim, keepdim)
    zero = squared == 0  # where the derivative is 0, as in torch
    return _elementwise("where", zero, 0, _elementwise("where", zero, 1, squared).sqrt())


def _normalize(x: Value, p: float = 2, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Value:
    if out is not None:
        untraceable("normalize must not have the argument out")
    return x / _clamp(_vector_norm(x, p, dim, keepdim=True), min=eps)


def _softmax(x: Value, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Value:
    if dtype not in (None, x.dtype):
        untraceable(f"softmax must have dtype {x.dtype}, got {dtype}")
    exponentials: Value = (x - x.graph.detach(_reduce("amax", x, dim, keepdim=True))).exp()
    return exponentials / _reduce("sum", exponentials, dim, keepdim=True)


def _softplus(x: Value, beta: float = 1, threshold: float = 20) -> Value:
    scaled = x * beta
    curve = _clamp(scaled, max=threshold).exp().log1p() / beta
    return _elementwise("where", scaled > threshold, x, curve)


def _clamp(x: Value, min: float | None = None, max: float | None = None) -> Value:
    if isinstance(min, Value) or isinstance(max, Value):
        untraceable("the bounds of clamp must be numbers; use torch.maximum and torch.minimum")
    if min is not None:
        x = _elementwise("where", x < min, min, x)
    return x if max is None else _elementwise("where", x > max, max, x)


def _pow(x: Value, exponent: float) -> Value:
    if not isinstance(exponent, int | float) or exponent not in (0.5, -0.5, int(exponent)):
        untraceable(f"an exponent must be a whole number, 0.5 or -0.5, got {exponent!r}")
    if exponent < 0:
        return x.graph.elementwise("div", 1, _pow(x, -exponent))
    if exponent in (0, 0.5, 1):
        return _full_like(x, 1) if exponent == 0 else x if exponent == 1 else x.graph.elementwise("sqrt", x)
    square = x.graph.elementwise("square", _pow(x, exponent // 2))
    return square * x if exponent % 2 else square


def _split(x: Value, split_size: int | Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    length = _last(x, dim).length
    if isinstance(split_size, int):
        split_size = [min(split_size, length - start) for start in range(0, length, split_size)]
    if sum(split_size) != length:
        untraceable(f"sections must sum to {length}, got {split_size}")
    starts = [sum(split_size[:i]) for i in range(len(split_size))]
    return tuple(x.graph.slice(x, start, start + size) for start, size in zip(starts, split_size, strict=True))


def _cat(tensors: Sequence[Value], dim: int = 0) -> Value:
    if len({(value.ndim, value.batched) for value in tensors}) > 1:
        untraceable("cat must have vectors of one kind: all [B, n], or all shared [n]")
    return tensors[0].graph.cat([_last(value, dim) for value in tensors])


def _matmul(x: Value, matrix: Value) -> Value:
    if not isinstance(x, Value) or not isinstance(matrix, Value) or matrix.op not in ("shared", "transpose"):
        untraceable("a product must be a vector [B, n] times a parameter [n, m]")
    return x.graph.project(x, matrix.inputs[0], True) if matrix.inputs else x.graph.project(x, matrix)


def _transpose(x: Value) -> Value:
    if x.batched or x.ndim != 2:
        untraceable(f"the transpose must be of a parameter with two axes, got {x!r}")
    return x.inputs[0] if x.op == "transpose" else x.graph.node("transpose", (x,), tuple(reversed(x.shape)), False)


def _linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    product = _matmul(x, _transpose(weight))
    result = product if bias is None else product + bias
    if result.shape != product.shape:
        untraceable(f"the bias of a linear layer must have {product.length} entries, got {bias!r}")
    return result


def _full_like(x: Value, fill_value: float) -> Value:
    return x.graph.expand(x.graph.value(fill_value), x.shape, x.batched)


def _convert(x: Value, *args: Any) -> Value:
    if any(isinstance(kind, torch.dtype) and not kind.is_floating_point for kind in args):
        untraceable("values can only be converted to floating-point numbers")
    if x.dtype == torch.bool:
        return x.graph.node("reshape", (x,), x.shape, x.batched)
    if any(isinstance(kind, torch.dtype) and kind != x.graph.dtype for kind in args):
        untraceable(f"values can only be converted to the network's dtype {x.graph.dtype}")
    return x


OPERATIONS: dict[str, Callable[..., Any]] = {
    **{
        op: partial(_elementwise, op)
        for op in (
            *("add", "sub", "mul", "div", "neg", "square", "sqrt", "exp", "expm1", "log", "log1p", "sigmoid", "tanh"),
            *("abs", "sign", "maximum", "minimum", "lt", "le", "eq", "logical_and", "logical_or", "logical_not"),
        )
    },
    "rsub": lambda x, other: other - x,
    "truediv": partial(_elementwise, "div"),
    "rtruediv": lambda x, other: other / x,
    "gt": lambda x, other: _elementwise("lt", other, x),
    "ge": lambda x, other: _elementwise("le", other, x),
    "ne": lambda x, other: _masks("logical_not", x == other),
    "and": partial(_masks, "logical_and"),
    "or": partial(_masks, "logical_or"),
    "invert": partial(_masks, "logical_not"),
    "where": _where,
    "special_expit": partial(_elementwise, "sigmoid"),
    "relu": lambda x, inplace=False: _elementwise("relu", x),
    "rsqrt": lambda x: 1 / x.sqrt(),
    "reciprocal": lambda x: 1 / x,
    "pow": _pow,
    "softplus": _softplus,
    "clamp": _clamp,
    "clamp_min": lambda x, min: _clamp(x, min=min),
    "clamp_max": lambda x, max: _clamp(x, max=max),
    "sum": partial(_reduce, "sum"),
    "amax": partial(_reduce, "amax"),
    "mean": _mean,
    "linalg_vector_norm": _vector_norm,
    "linalg_norm": _vector_norm,
    "norm": lambda x, p=2, dim=None, keepdim=False: _vector_norm(x, p, dim, keepdim),
    "normalize": _normalize,
    "softmax": _softmax,
    "cat": _cat,
    "concat": _cat,
    "split": _split,
    "chunk": lambda x, chunks, dim=0: _split(x, -(-_last(x, dim).length // chunks), dim),
    "narrow": lambda x, dim, start, length: x.graph.slice(_last(x, dim), start, start + length),
    "getitem": _getitem,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "expand_as": lambda x, other: x.graph.expand(x, *broadcast((x, other))),
    "full_like": _full_like,
    "zeros_like": lambda x: _full_like(x, 0),
    "ones_like": lambda x: _full_like(x, 1),
    "detach": lambda x: x.graph.detach(x),
    "clone": lambda x: x,
    "contiguous": lambda x: x,
    "to": _convert,
    "type_as": _convert,
    "float": lambda x: _convert(x, torch.float32),
    "matmul": _matmul,
    "mm": _matmul,
    "linear": _linear,
    "T": _transpose,
    "mT": _transpose,
    "t": _transpose,
}
