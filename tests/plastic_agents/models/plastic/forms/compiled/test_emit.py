import math
import random
import re

import pytest
import torch
import torch.nn.functional as F
from plastic_agents.models.plastic.cells import LSTMHidden
from plastic_agents.models.plastic.forms.compiled.emit import emit, split_passes, view
from plastic_agents.models.plastic.tracing.derivatives import gradients, outer_products, vjp
from plastic_agents.models.plastic.tracing.trace import Graph, ancestors
from torch import nn

from tests.plastic_agents.models.plastic.tracing.graphs import (
    BATCH,
    BINARY,
    UNARY,
    WITH_PARAMETERS,
    CProgram,
    Traced,
    compile_programs,
    lstm,
    parameters,
    random_program,
)

# Several C compilers, each with vectors of its own, run these: the tolerance is for sums in another order.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-3}
# Operations that call functions of the C library for the type.
FUNCTIONS = ["sqrt", "exp", "expm1", "log", "log1p", "sigmoid", "tanh", "relu", "abs", "sign", "softplus", "amax"]
C_TYPES = {torch.float64: "double", torch.float32: "float"}


def gradient_step(x, h, c, w_out, wi, input_weight, whh, wr):
    """One step of the gradient rule, without the fast weights."""
    a = torch.relu(x @ wi)
    (new, units), pullback = vjp(lambda q: lstm(q, h, c), a @ input_weight + h @ whh)
    o = new.h @ wr
    d_o = 2 / o.shape[-1] * w_out.square() * o
    (d_q,) = pullback((LSTMHidden(d_o @ wr.T, torch.zeros_like(new.c)), torch.zeros_like(units)))
    d_i = (d_q @ input_weight.T) * (a > 0)
    gate = torch.sigmoid(o[:, -1])
    squared_norm = torch.zeros_like(gate)
    for pre, post in ((x, d_i), (a, d_q), (h, d_q), (new.h, d_o)):
        squared_norm = squared_norm + (pre.square().sum(-1) + 1) * post.square().sum(-1)
    write = gate * torch.rsqrt(squared_norm.clamp(min=1.0))
    return new.h, new.c, units, o, d_i, d_q, d_o, write, 0.2 * gate


def step_parameters(inputs, hidden, outputs):
    shapes = ((outputs,), (inputs, hidden), (hidden, 4 * hidden), (hidden, 4 * hidden), (hidden, outputs))
    return [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes]


def traced_functions(n, names):
    for name in names:
        yield f"{name}, {n}", Traced(UNARY[name], [n])
    for name, function in BINARY.items():
        yield f"{name}, {n}", Traced(function, [n, n])
    for name, function in WITH_PARAMETERS.items():
        yield f"{name} with parameters, {n}", Traced(function, [n], parameters(n))
    for seed in range(5):
        program = random_program(random.Random(seed), steps=20)
        yield f"random {seed}, {n}", Traced(program, [n, n, 1])
        yield f"random second derivative {seed}, {n}", Traced(second_derivative(seed), [n, n, 1])
    for outputs in (1, 5):
        step = Traced(gradient_step, [n + 1, n, n], step_parameters(n + 1, n, outputs))
        yield f"step with {outputs} outputs, {n}", step


def second_derivative(seed):
    program = random_program(random.Random(seed), steps=6)

    def gradient(*inputs):
        outputs, pullback = vjp(lambda *values: tuple(program(*values)), *inputs)
        return outputs, pullback(tuple(torch.tanh(output) for output in outputs))

    return gradient


CASES = [(torch.float64, 1, list(UNARY)), (torch.float64, 17, list(UNARY)), (torch.float32, 17, FUNCTIONS)]


@pytest.mark.parametrize(("dtype", "n", "names"), CASES, ids=["double, 1", "double, 17", "float, 17"])
def test_c_code_equals_torch(tmp_path, dtype, n, names):
    programs = {}
    for name, traced in traced_functions(n, names):
        assert name not in programs
        results = [v for d in traced.gradients for v in (d.inputs if d.op == "outer" else (d,))]
        program = CProgram(f"program_{len(programs)}", traced.outputs, [*results, *traced.outputs])
        programs[name] = traced, program
    library = compile_programs(tmp_path, [program for _, program in programs.values()], C_TYPES[dtype])
    failures = []
    for name, (traced, program) in programs.items():
        results = iter(program.run(library, traced.tensors, dtype))
        outputs = [next(results).reshape(tensor.shape) for tensor in traced.wanted_outputs]
        found = []
        for d in traced.gradients:
            pairs = [(next(results), next(results)) for _ in outer_products(d)] if d.op == "outer" else []
            found.append(sum(left.T @ right for left, right in pairs) if pairs else next(results))
        for output in outputs:  # which the backward pass can read too
            torch.testing.assert_close(next(results).reshape(output.shape), output, rtol=0, atol=0)
        try:
            traced.check(outputs, found, TOLERANCE[dtype])
        except AssertionError as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("dtype", C_TYPES, ids=str)
def test_c_functions_keep_nan_and_infinity(tmp_path, dtype):
    def functions(x, y):
        return (
            torch.cat([torch.relu(x), torch.maximum(x, y), torch.minimum(x, y), torch.sign(y), x.abs(), -x], -1),
            torch.cat([x.sigmoid(), x.tanh(), x.exp(), x.clamp(-1, 1), F.softplus(x), torch.where(x < y, x, y)], -1),
            torch.cat([(x > y).float(), (x >= y).float(), (x == y).float(), (x != y).float(), 1 / x], -1),
            torch.amax(x, -1, keepdim=True),
        )

    entries = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 2.0], dtype=torch.float64)
    graph = Graph()
    outputs = graph.trace(functions, graph.input("x", 36), graph.input("y", 36))
    program = CProgram("program", outputs, [])
    library = compile_programs(tmp_path, [program], C_TYPES[dtype])
    tensors = {"x": entries.repeat(6).repeat(BATCH, 1), "y": entries.repeat_interleave(6).repeat(BATCH, 1)}
    for result, wanted in zip(program.run(library, tensors, dtype), functions(**tensors), strict=True):
        torch.testing.assert_close(result, wanted.to(dtype), equal_nan=True)


def test_c_functions_of_floats_are_accurate(tmp_path):
    near, far = torch.linspace(-20, 20, 5000), torch.linspace(-120, 100, 5000)
    x = torch.cat([near, far, torch.linspace(-1, 1, 999) ** 9, torch.tensor([88.7, -87.3, 1e30, -1e30])])
    graph = Graph()
    value = graph.input("x", len(x))
    program = CProgram("program", [value.exp(), value.tanh(), value.sigmoid()], [])
    library = compile_programs(tmp_path, [program], "float")
    results = program.run(library, {"x": x.repeat(BATCH, 1)}, torch.float32)
    for result, function in zip(results, (torch.exp, torch.tanh, torch.sigmoid), strict=True):
        torch.testing.assert_close(result[0], function(x.double()).float(), rtol=3e-7, atol=1e-37)


def code(outputs, stored=()):
    return emit(ancestors(outputs), [*outputs, *stored], lambda value: f"m{value.index}", lambda n: f"n{n}")


def loops(blocks):
    return re.findall(r"for \(.*?j < (\w+); j\+\+\) \{?(.*?)\n\}", "\n".join(blocks), re.DOTALL)


def test_operations_of_one_length_share_a_loop_and_temporary_values_have_no_memory():
    graph = Graph()
    x, y = graph.input("x", 5), graph.input("y", 5)
    output = (x * y + 1).square() - y
    places = set()
    blocks = emit(ancestors([output]), [output], lambda v: places.add(v) or f"m{v.index}")
    assert len(loops(blocks)) == 1
    assert places == {x, y, output}


def test_sums_are_in_the_loop_of_their_operands():
    x = Graph().input("x", 5)
    (block,) = code([(x * 2).square().sum(-1), x.sum(-1)])
    assert len(loops([block])) == 1
    assert "#pragma omp simd reduction(+ : " in block


def test_calls_have_loops_of_their_own():
    x = Graph().input("x", 5)
    (block,) = code([torch.tanh(x + 1) * 2])
    assert len(loops([block])) == 3
    assert block.count("#pragma omp simd") == 2


def test_a_slice_of_a_member_ends_the_loop():
    x = Graph().input("x", 6)
    y = x * 2
    (block,) = code([y + torch.cat([y[:, 3:], y[:, :3]], -1), y[:, 1:] * x[:, 1:]])
    assert len(loops([block])) == 3


def test_parts_of_a_concatenation_are_computed_in_place():
    graph = Graph()
    x = graph.input("x", 5)
    output = torch.cat([x * 2, x + 1], -1)
    (block,) = code([output])
    assert len(loops([block])) == 1
    assert f"p{output.index}[n5 + j]" in block


def test_lengths_and_literals_are_expressions_of_the_caller():
    def source(n, rate):
        x = Graph().input("x", n)
        outputs = [torch.cat([x[:, n // 2 :] * rate, x.exp()], -1).sum(-1)]
        lengths, literals = [], []

        def entry(table, prefix):
            def expression(number):
                if number not in table:
                    table.append(number)
                return f"{prefix}[{table.index(number)}]"

            return expression

        blocks = emit(ancestors(outputs), outputs, lambda v: f"m{v.index}", entry(lengths, "n"), entry(literals, "c"))
        return blocks, lengths, literals

    first, lengths, literals = source(10, 0.3)
    second, others, other_literals = source(6, 0.7)
    assert first == second
    assert (lengths, literals) != (others, other_literals)
    assert literals == [0.3]


def test_vector_work_is_divided_only_by_external_operations_that_need_it():
    graph = Graph()
    x = graph.input("x", 3)
    first = graph.external("first", [x * 2], 3, None)
    second = graph.external("second", [x + 1], 3, None)
    blocks = code([first * second])
    assert [type(block) for block in blocks] == [str, type(first), type(second), str]


def test_dead_code_is_not_in_a_pass():
    graph = Graph()
    x, d = graph.input("x", 3), graph.input("d", 3)
    dead, output = x.exp(), x.tanh()
    passes = split_passes([output], gradients([(output, d)], [x]))
    assert dead not in set(passes.forward) | set(passes.backward)


def test_the_tape_has_results_that_the_backward_pass_cannot_repeat():
    graph = Graph()
    x, y, d = graph.input("x", 3), graph.input("y", 3), graph.input("d", 3)
    q = x * y
    output = torch.tanh(q).square() + (q - 1).exp() * 2
    passes = split_passes([output], gradients([(output, d)], [x, y]))
    assert {value.op for value in passes.taped} == {"input", "tanh", "exp"}
    assert d not in set(passes.taped)


def test_parts_of_a_taped_concatenation_are_taped_once():
    graph = Graph()
    x, d = graph.input("x", 3), graph.input("d", 6)
    first, second = x.sigmoid(), x.tanh()
    output = torch.cat([first, second], -1)
    passes = split_passes([output], [*gradients([(output, d)], [x]), output])
    assert passes.taped == [output]
    assert [view(part, passes.parts)[:2] for part in (first, second)] == [(output, 0), (output, 3)]


def test_a_number_that_a_concatenation_repeats_does_not_lie_in_it():
    graph = Graph()
    x = graph.input("x", 3)
    repeated = graph.trace(lambda: x[:, :1].expand_as(x))
    output = torch.cat([repeated, x.tanh()], -1)
    passes = split_passes([output], [output, repeated])
    assert view(repeated, passes.parts).base is repeated


def test_calls_are_not_repeated():
    graph = Graph()
    x, d = graph.input("x", 3), graph.input("d", 3)
    y = torch.tanh(x)
    passes = split_passes([y * x], gradients([(y * x, d)], [x]))
    assert set(passes.taped) == {x, y}


def test_cheap_operations_are_repeated_in_the_backward_pass():
    graph = Graph()
    x, d = graph.input("x", 3), graph.input("d", 3)
    y = torch.sigmoid(x)
    slope = y * (1 - y)
    output = slope * x
    passes = split_passes([output], gradients([(output, d)], [x]))
    assert slope in set(passes.forward) & set(passes.backward)
    assert slope not in set(passes.taped)
