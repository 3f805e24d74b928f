import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from plastic_agents.models.plastic.cells import LSTMHidden
from plastic_agents.models.plastic.tracing.derivatives import RULES, gradients, outer_products, vjp
from plastic_agents.models.plastic.tracing.trace import Graph, UntraceableError

from tests.plastic_agents.models.plastic.tracing.graphs import (
    BATCH,
    BINARY,
    SIZES,
    UNARY,
    WITH_PARAMETERS,
    Traced,
    evaluate,
    flat,
    lstm,
    parameters,
    random_program,
)


def compare(function, sizes, parameters=(), tolerance=1e-12):
    traced = Traced(function, sizes, parameters)
    traced.check(evaluate(traced.outputs, traced.tensors), evaluate(traced.gradients, traced.tensors), tolerance)
    return traced


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_second_derivative_equals_torch(name, n):
    function = UNARY.get(name) or BINARY[name]

    def gradient(*inputs):
        outputs, pullback = vjp(lambda *values: tuple(flat(function(*values))), *inputs)
        return pullback(tuple(torch.tanh(output + 0.5) for output in outputs))

    compare(gradient, [n] if name in UNARY else [n, n], tolerance=1e-10)


def test_every_rule_is_tested():
    functions = [(function, 1, ()) for function in UNARY.values()]
    functions += [(function, 2, ()) for function in BINARY.values()]
    functions += [(function, 1, parameters(3)) for function in WITH_PARAMETERS.values()]
    functions += [(lambda x: vjp(torch.square, x)[0], 1, ())]
    graphs = [Traced(function, [3] * arity, shared).graph for function, arity, shared in functions]
    assert {value.op for graph in graphs for value in graph.values} >= set(RULES)


@settings(max_examples=60, deadline=None)
@given(random=st.randoms(use_true_random=False), n=st.sampled_from(SIZES))
def test_random_programs_equal_torch(random, n):
    compare(random_program(random), [n, n, 1], tolerance=1e-10)


@settings(max_examples=20, deadline=None)
@given(random=st.randoms(use_true_random=False), n=st.sampled_from(SIZES))
def test_second_derivatives_of_random_programs_equal_torch(random, n):
    program = random_program(random, steps=6)

    def gradient(*inputs):
        outputs, pullback = vjp(lambda *values: tuple(program(*values)), *inputs)
        return pullback(tuple(torch.tanh(output) for output in outputs))

    compare(gradient, [n, n, 1], tolerance=1e-9)


@pytest.mark.parametrize("n", SIZES)
def test_inner_gradient_of_the_lstm_equals_the_formula(n):
    def by_vjp(q, h, c, d_h):
        (new, units), pullback = vjp(lambda q: lstm(q, h, c), q)
        (d_q,) = pullback((LSTMHidden(d_h, torch.zeros_like(d_h)), torch.zeros_like(units)))
        return new.h, d_q

    def by_formula(q, h, c, d_h):
        new, units = lstm(q, h, c)
        i, f, g, o = units.chunk(4, dim=-1)
        tanh_c = torch.tanh(new.c)
        d_c = d_h * o * (1 - tanh_c.square())
        d_gates = d_c * g * i * (1 - i), d_c * c * f * (1 - f), d_c * i * (1 - g.square()), d_h * tanh_c * o * (1 - o)
        return new.h, torch.cat(d_gates, dim=-1)

    sizes = [4 * n, n, n, n]
    first, second = compare(by_vjp, sizes), compare(by_formula, sizes)
    for result, wanted in zip(first.wanted_gradients, second.wanted_gradients, strict=True):
        torch.testing.assert_close(result, wanted)


def test_twice_differentiated_lstm():
    def step(q, h, c, x):
        outputs, pullback = vjp(lstm, q * x, h, c)
        return outputs, pullback((LSTMHidden(h, c), torch.cat([c, h, c, h], -1)))

    compare(step, [12, 3, 3, 12])


SPECIAL_POINTS = {
    "relu": (torch.relu, [0.0, -0.0, math.nan, math.inf]),
    "clamp": (lambda x: x.clamp(-1, 2), [-1.0, 2.0, 3.0, -9.0]),
    "maximum": (lambda x: torch.maximum(x, torch.cat([x[:, :2], x[:, :2] + 1], -1)), [1.0, 2.0, 2.0, 9.0]),
    "minimum": (lambda x: torch.minimum(x * 2, x + 1), [1.0, 2.0, 0.0, -1.0]),
    "abs": (torch.abs, [0.0, -0.0, 2.0, -2.0]),
    "sqrt": (torch.sqrt, [0.0, 1.0, math.inf, 4.0]),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True), [0.0, 0.0, 0.0, 0.0]),
    "normalize": (lambda x: F.normalize(x, dim=-1), [0.0, 0.0, 0.0, 0.0]),
    "where": (lambda x: torch.where(x > 0, x.sqrt(), x), [-1.0, 0.0, 1.0, 4.0]),
    "softplus": (F.softplus, [0.0, 20.0, 2000.0, -2000.0]),
    "softmax": (lambda x: torch.softmax(x, -1), [1000.0, 999.0, 0.0, -1000.0]),
    "amax": (lambda x: torch.amax(x, -1, keepdim=True), [2.0, 1.0, 2.0, 2.0]),
    "sigmoid": (torch.sigmoid, [1000.0, -1000.0, 0.0, math.nan]),
}


@pytest.mark.parametrize("name", SPECIAL_POINTS)
def test_special_points_follow_torch(name):
    function, entries = SPECIAL_POINTS[name]
    x = torch.tensor([entries] * BATCH, dtype=torch.float64, requires_grad=True)
    graph = Graph()
    value = graph.input("x", 4)
    output = graph.trace(function, value)
    (gradient,) = gradients([(output, graph.trace(torch.ones_like, output))], [value])
    tensor = function(x)
    (wanted,) = torch.autograd.grad(tensor, x, torch.ones_like(tensor))
    found, d = evaluate([output, gradient], {"x": x.detach()})
    torch.testing.assert_close(found, tensor.detach(), equal_nan=True)
    torch.testing.assert_close(d, wanted, equal_nan=True)


def test_gradients_of_shared_values_are_vectors_of_each_sequence():
    traced = Traced(lambda x, v, u, s, m: x * v + s * u.sum(-1), [3], parameters(3))
    assert [(value.shape, value.batched) for value in traced.gradients] == [
        ((1, 3), True),
        ((1, 3), True),
        ((1, 3), True),
        ((1, 1), True),
    ]


def test_the_gradient_of_a_matrix_is_pairs_of_vectors():
    matrix = torch.empty(3, 5, device="meta")
    graph = Graph({"m": matrix})
    x, y, d, e = graph.input("x", 3), graph.input("y", 5), graph.input("d", 5), graph.input("e", 3)
    outputs = graph.trace(lambda: (x @ matrix, y @ matrix.T))
    (gradient,) = gradients(list(zip(outputs, (d, e), strict=True)), [graph.value(matrix)])
    assert set(outer_products(gradient)) == {(x, d), (e, y)}


def test_no_dependence_has_no_gradient():
    graph = Graph()
    x, y, d = graph.input("x", 3), graph.input("y", 3), graph.input("d", 3)
    dx, dy = gradients([(x.detach() * y, d), (x.sign(), d), ((x > 0).float(), d)], [x, y])
    assert dx is None
    assert dy is x.detach() * d


def test_externals_call_their_adjoint():
    graph = Graph()
    x, y = graph.input("x", 3), graph.input("y", 2)

    def external(x, y):
        return graph.external("scale", (x, y), 3, lambda d: (graph.external("back", (d, y), 3, None), None))

    z, d = external(x.square(), y), graph.input("d", 3)
    dx, dy = gradients([(z, d)], [x, y])
    functions = {"scale": lambda x, y: x * y[:, :1], "back": lambda d, y: d * y[:, :1]}
    tensors = {name: torch.randn(BATCH, n, dtype=torch.float64) for name, n in (("x", 3), ("y", 2), ("d", 3))}
    assert dy is None
    (found,) = evaluate([dx], tensors, functions)
    torch.testing.assert_close(found, 2 * tensors["x"] * tensors["d"] * tensors["y"][:, :1])
    assert external(x.square(), y) is z


def test_what_the_function_of_vjp_reads_besides_its_arguments_is_constant():
    def step(x):
        outside = torch.relu(x)
        output, pullback = vjp(lambda x: torch.relu(x) * outside, x)
        return output, pullback(torch.ones_like(output))

    compare(step, [3])


def test_an_earlier_vjp_of_the_same_values_is_constant():
    def step(x):
        square, _ = vjp(torch.square, x)
        output, pullback = vjp(lambda x: x * square, x)
        return output, pullback(torch.ones_like(output))

    compare(step, [3])


def test_vjp_of_values_without_dependence_is_zero():
    compare(lambda x, y: vjp(lambda x, y: x.square(), x, y)[1](x)[1] + x, [3, 3])


def test_vjp_of_a_parameter_is_refused():
    v = torch.ones(3)
    graph = Graph({"v": v})
    x = graph.input("x", 3)
    with pytest.raises(UntraceableError, match="inputs of vjp"):
        graph.trace(lambda: vjp(lambda x, v: x * v, x, v))
