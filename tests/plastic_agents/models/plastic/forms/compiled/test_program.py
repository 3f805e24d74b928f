"""The traced step: which products it makes, and steps that its simplifications must not change."""

from __future__ import annotations

import pytest
import torch
from plastic_agents.models.plastic.forms import compiled
from plastic_agents.models.plastic.forms.compiled.program import Product, trace_step, without_factors
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.rule import MatrixUpdate, PlasticityRule, Update
from plastic_agents.models.plastic.tracing.trace import Graph
from plastic_agents.models.plastic.update import LAYER_KINDS, Plasticity
from torch import nn

from tests.plastic_agents.models.plastic.test_forms import check_forms, make_network

needs_kernel = pytest.mark.skipif(not compiled.available(torch.zeros(())), reason="needs a C compiler")
I, H, O = 3, 6, 2
EVERYWHERE = Plasticity(layers=LAYER_KINDS)


def products(rule, number):
    program = trace_step(PlasticNetwork(I, H, O, "rnn", rule, EVERYWHERE), torch.float32)
    operations = [v.attribute for v in program.graph.values if v.op == "external" and isinstance(v.attribute, Product)]
    return [operation for operation in operations if operation.matrix == number]


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("rule", ["delta", "gated_delta", "longhorn", "rls"])
def test_a_rule_that_reads_its_prediction_costs_no_second_product(rule, number):
    forward, backward = products(rule, number)
    assert forward == Product(number, bias=True, parts=True)
    assert backward == Product(number, transposed=True, backward=True, parts=True)


def test_a_read_with_another_vector_is_a_product_of_its_own():
    class Other(PlasticityRule):
        def update(self, step):
            return Update(step.pre, step.post - step.read_fast(step.pre.square()))

    assert Product(0, fast=True) in products(Other(), 0)
    assert not any(operation.parts for operation in products(Other(), 0))


def test_without_factors():
    graph = Graph()
    p, number = graph.input("p", 3), graph.input("number", 1)
    for vector in (p * number, number * p, p / number, 2 * (p * number) / 4):
        base, with_factors = without_factors(vector)
        assert base is p
        assert with_factors(p) is vector
    for vector in (p, p * p, p + number, number / p, number * number):
        assert without_factors(vector)[0] is vector


class Reads(PlasticityRule):
    """Reads W with p, with multiples of p and with another vector; its biases are plastic."""

    plastic_bias = True

    def update(self, step):
        factor = torch.sigmoid(step.pre.sum(-1, keepdim=True))
        reads = step.read_fast(step.pre) + step.read_fast(factor * step.pre) + step.read_fast(step.pre / (1 + factor))
        return Update(step.pre, step.post - reads - step.read_fast(step.pre.square()) + step.read(step.pre))


class ReadsAndDescends(PlasticityRule):
    """Reads W with p, and descends the inner loss through the same layers."""

    uses_loss_gradient = True

    def update(self, step):
        return Update(step.pre, step.loss_gradient - step.read_fast(0.5 * step.pre))


class Projects(PlasticityRule):
    """Multiplies by matrices that all sequences share, by their transposes, and by one of them both ways."""

    def make_parameters(self, n_in, n_out):
        parameters = nn.Module()
        parameters.linear = nn.Linear(n_in, n_out)
        parameters.matrix = nn.Parameter(torch.randn(n_in, n_out) / 3)
        return parameters

    def update(self, step):
        p, projections = step.pre, step.parameters
        both = projections.linear(p @ projections.matrix @ projections.matrix.T)
        return Update(p, projections.linear(p) + p @ projections.matrix + both)


@needs_kernel
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize("rule", [Reads(), ReadsAndDescends(), Projects()], ids=lambda rule: type(rule).__name__)
def test_the_compiled_form_equals_the_reference(rule, cell):
    network = make_network(cell, rule, I, H, O, EVERYWHERE)
    for with_state in (False, True):  # a state with biases that the rule itself would not write
        check_forms(network, ["compiled"], 6, 3, with_state, with_starts=True)


@needs_kernel
def test_factors_of_columns_beside_an_added_matrix_run_in_pytorch():
    class Both(PlasticityRule):
        def initial_state(self, parameters, n_in, n_out):
            return {"trace": torch.zeros(n_in, n_out)}

        def update(self, step):
            trace = MatrixUpdate(step.pre, step.post, rate=step.eta, keep=1 - step.eta)
            columns = torch.sigmoid(step.post)
            return Update(step.pre, step.post, keep_columns=columns, add={"trace": step.eta}, state={"trace": trace})

    network = PlasticNetwork(I, H, O, "rnn", Both())
    with pytest.warns(RuntimeWarning, match="supports only one of Update.keep_columns and one matrix in Update.add"):
        network.unroll(torch.randn(2, 2, I))
