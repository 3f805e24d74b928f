import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plastic_agents.models.plastic.tracing.trace import Graph, UntraceableError, ancestors
from torch import nn

from tests.plastic_agents.models.plastic.tracing.graphs import (
    BINARY,
    SIZES,
    UNARY,
    WITH_PARAMETERS,
    Traced,
    evaluate,
    parameters,
)


@pytest.fixture
def graph():
    return Graph(dtype=torch.float64)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_operation_equals_torch(name, n):
    traced = Traced(UNARY[name], [n]) if name in UNARY else Traced(BINARY[name], [n, n])
    traced.check(evaluate(traced.outputs, traced.tensors), evaluate(traced.gradients, traced.tensors))
    for value, tensor in zip(traced.outputs, traced.wanted_outputs, strict=True):
        assert (value.ndim, value.dim(), value.size(-1)) == (tensor.ndim, tensor.dim(), value.shape[-1])


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", WITH_PARAMETERS)
def test_parameters_become_shared_inputs(name, n):
    traced = Traced(WITH_PARAMETERS[name], [n], parameters(n))
    traced.check(evaluate(traced.outputs, traced.tensors), evaluate(traced.gradients, traced.tensors))
    shared = {value.attribute for value in ancestors(traced.outputs) if value.op == "shared"}
    assert shared == traced.used_parameters


def test_the_step_may_read_the_shape_of_a_parameter():
    v = nn.Parameter(torch.ones(3, device="meta"))
    graph = Graph({"v": v})
    result = graph.trace(lambda x: x * (v.shape[0] + v.dim() + v.size(-1) + len(v) + v.numel()), graph.input("x", 3))
    assert result.inputs[1].attribute == 13


def test_parameters_may_be_on_the_meta_device():
    layer = nn.Linear(3, 5, device="meta")
    graph = Graph({"weight": layer.weight, "bias": layer.bias})
    result = graph.trace(lambda x: layer(x) + torch.sigmoid(layer.bias), graph.input("x", 3))
    assert result.shape == (1, 5)
    assert result.batched
    assert [value.attribute for value in ancestors([result]) if value.op == "shared"] == ["weight", "bias"]


def test_equal_operations_are_one_node(graph):
    x, y = graph.input("x", 3), graph.input("y", 3)
    assert x * y is y * x
    assert torch.tanh(x + y) is (y + x).tanh()
    assert x - y is not y - x
    assert x * 0.0 is not x * -0.0
    assert x[:, :2] is not x[:, 1:]


def test_operations_without_effect_add_no_node(graph):
    zero, one = graph.value(0), graph.value(1)
    assert zero is not one
    x, y = graph.input("x", 3), graph.input("y", 2)
    assert zero + x is x
    assert one * x is x
    assert torch.zeros_like(x) + x is x
    assert x * torch.ones_like(x) is x
    assert x - 0 is x
    assert x / 1 is x
    assert torch.cat([x, y], -1)[:, 3:] is y
    assert x[:, 0:3] is x
    assert x[:, 1:][:, 1:] is x[:, 2:3]
    assert (x > 0) * 1 is not (x > 0)


def test_numpy_numbers_leave_operators_to_values(graph):
    x = graph.input("x", 3)
    assert np.float64(2) * x is x * 2
    assert np.float64(2) - x is 2 - x


def test_masks_and_devices_look_like_those_of_tensors(graph):
    x = graph.input("x", 3)
    assert (x > 0).dtype == torch.bool
    assert (x > 0)[:, :2].dtype == torch.bool
    assert (x > 0).float().dtype == torch.where(x > 0, x, 0).dtype == x.dtype == torch.float64
    assert x.device == torch.device("cpu")


def test_the_repr_shows_operation_and_shape(graph):
    assert repr(graph.input("x", 3)[:, 1:] * 2) == "%3 = mul(%1, %2) [B, 2]"


def in_place(x):
    x += 1


def assign(x):
    x[:, 0] = 1


UNTRACEABLE = {
    "branch": (lambda x: x if (x > 0) else -x, "use torch.where"),
    "float": (lambda x: float(x), "Python number"),
    "iteration": (lambda x: list(x), "iterate over sequences"),
    "length": (lambda x: len(x), "iterate over sequences"),
    "in place": (in_place, "in place"),
    "assignment": (assign, "in place"),
    "unknown function": (torch.erf, "'erf'"),
    "unknown method": (lambda x: x.cumsum(-1), "'cumsum'"),
    "unknown attribute": (lambda x: x if x.requires_grad else -x, "'requires_grad'"),
    "unknown argument": (lambda x: torch.add(x, x, alpha=2), "'add'"),
    "power of two": (lambda x: 2**x, "exponent"),
    "odd power": (lambda x: x**1.5, "exponent must be"),
    "batch index": (lambda x: x[0], "batch axis"),
    "batch slice": (lambda x: x[1:], "batch axis"),
    "step": (lambda x: x[:, ::2], "step 1"),
    "empty": (lambda x: x[:, 3:], "at least one entry"),
    "list as index": (lambda x: x[:, [0, 1]], "index must be"),
    "mask as index": (lambda x: x[x > 0], "index must be"),
    "batch sum": (lambda x: x.sum(0), "dim must be"),
    "sum of everything": (lambda x: x.sum(), "dim must be"),
    "sum over the batch of numbers": (lambda x: x.sum(-1).sum(-1), "dim must be"),
    "cat of batches": (lambda x: torch.cat([x, x]), "dim must be"),
    "number and vector": (lambda x: x.sum(-1) * x, "keep the axis"),
    "lengths": (lambda x: x[:, :2] + x, "same length"),
    "sum of masks": (lambda x: (x > 0) + (x < 1), "masks must not be added"),
    "number as a condition": (lambda x: torch.where(x, x, 0), "condition of where"),
    "not of a number": (lambda x: ~x, "must be masks"),
    "tensor": (lambda x: x * torch.ones(3), "neither a parameter"),
    "learned number": (lambda x: x * torch.tensor(0.5, requires_grad=True), "neither a parameter"),
    "integers": (lambda x: x.to(torch.int64), "floating-point"),
    "bounds": (lambda x: x.clamp(x.detach(), None), "bounds of clamp"),
    "norm": (lambda x: torch.linalg.vector_norm(x, ord=1, dim=-1), "order of a norm"),
    "matrix of values": (lambda x: x @ x, "a product must be"),
    "sections": (lambda x: x.split([1, 1], dim=-1), "sections must sum"),
    "unsqueeze": (lambda x: x.unsqueeze(1), "unsqueeze"),
    "string": (lambda x: x + "1", "operand must be"),
    "dtype": (lambda x: F.softmax(x, -1, dtype=torch.float16), "dtype"),
}


@pytest.mark.parametrize("name", UNTRACEABLE)
def test_untraceable_code_names_the_reason_and_the_line(graph, name):
    function, message = UNTRACEABLE[name]
    with pytest.raises(UntraceableError, match=re.escape(message)) as error:
        graph.trace(function, graph.input("x", 3))
    assert re.search(rf"\({re.escape(__file__)}:\d+\)$", str(error.value))
    assert isinstance(error.value, NotImplementedError)


MISUSED_PARAMETERS = {
    "unknown function": (lambda x, v, m: x * torch.erf(v), "'erf'"),
    "data": (lambda x, v, m: x * v.data, "'data'"),
    "matrix as a vector": (lambda x, v, m: x * m, "can only be multiplied"),
    "lengths": (lambda x, v, m: (x * v) @ m.T, "product with a matrix [5, 3]"),
    "vector as a matrix": (lambda x, v, m: v @ m, "must have a vector [B, 3]"),
    "matrix on the left": (lambda x, v, m: m @ x, "a product must be"),
    "in place": (lambda x, v, m: v.mul_(x), "'mul_'"),
}


@pytest.mark.parametrize("name", MISUSED_PARAMETERS)
def test_untraceable_use_of_parameters(name):
    function, message = MISUSED_PARAMETERS[name]
    vector, matrix = nn.Parameter(torch.ones(3, device="meta")), nn.Parameter(torch.ones(3, 5, device="meta"))
    graph = Graph({"v": vector, "m": matrix})
    with pytest.raises(UntraceableError, match=re.escape(message)):
        graph.trace(function, graph.input("x", 3), vector, matrix)


def test_values_of_two_graphs_do_not_mix(graph):
    with pytest.raises(UntraceableError, match="operand must be"):
        graph.input("x", 3) + Graph().input("x", 3)
