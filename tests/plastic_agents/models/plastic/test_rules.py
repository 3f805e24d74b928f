"""Each rule's update of one layer at one step equals its equation, written out for single elements."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from plastic_agents.models.plastic.fast_weights import FastWeight, PlasticLinear
from plastic_agents.models.plastic.forms.dense import DenseLayer
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.rule import RULES, LayerStep
from plastic_agents.models.plastic.update import Plasticity, completed

B, N, M = 2, 4, 3


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_layer(name):
    """Make a layer in the middle of an episode, and the arguments of the rule's step."""
    rule = RULES[name]()
    n_out = M + rule.extra_outputs(N, M)
    linear = PlasticLinear(N, n_out, 1.0, rule.alpha_init, rule.plastic_bias)
    parameters = rule.make_parameters(N, n_out)
    with torch.no_grad():
        for parameter in parameters.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    state = {
        key: value + 0.2 * torch.rand(B, *value.shape)
        for key, value in rule.initial_state(parameters, N, n_out).items()
    }
    fast = FastWeight(torch.randn(B, N, n_out), torch.zeros(B, n_out), state or None)
    return SimpleNamespace(
        rule=rule,
        linear=linear,
        parameters=parameters,
        fast=fast,
        p=torch.randn(B, N),
        u=torch.randn(B, M),
        eta=torch.rand(B, 1),
        signed_eta=torch.rand(B, 1) - 0.5,
        decay=0.5 * torch.rand(B, 1),
    )


@torch.no_grad()
def updated(layer):
    """Return the fast weight after the rule's update, without a norm limit, as the dense form computes it."""
    dense = DenseLayer(layer.linear, layer.fast)
    vectors = {key: value for key, value in (layer.fast.rule or {}).items() if value.dim() == 2}
    rates = (layer.eta, layer.signed_eta, layer.decay)
    extra = dense.read(layer.p)[:, M:]
    step = LayerStep(layer.p, layer.u, extra, *rates, layer.parameters, vectors, dense, lambda: layer.u)
    return dense.updated(completed(layer.rule.update(step), layer.eta, layer.decay, None))


def elements(function, rows=N, columns=M):
    """Return the matrix [B, rows, columns] of ``function(b, i, j)``."""
    with torch.no_grad():
        return torch.tensor([[[function(b, i, j) for j in range(columns)] for i in range(rows)] for b in range(B)])


def check(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["hebbian", "gradient"])
def test_hebbian_and_gradient(name):
    layer = make_layer(name)  # dL/dq is u here
    W, p, u, eta, decay = layer.fast.weight, layer.p, layer.u, layer.eta, layer.decay
    alpha = layer.linear.alpha_weight
    after = updated(layer)
    check(
        after.weight,
        elements(lambda b, i, j: (1 - decay[b]) * W[b, i, j] + eta[b] * alpha[i, j] * p[b, i] * u[b, j]),
    )
    check(after.bias, eta * layer.linear.alpha_bias * u)
    assert after.bias.any() == (name == "gradient")


def test_oja():
    layer = make_layer("oja")
    W, p, u, eta, alpha = layer.fast.weight, layer.p, layer.u, layer.eta, layer.linear.alpha_weight
    layer.decay = torch.zeros(B, 1)  # the default
    check(
        updated(layer).weight,
        elements(
            lambda b, i, j: torch.exp(-eta[b] * u[b, j] ** 2) * W[b, i, j] + eta[b] * alpha[i, j] * p[b, i] * u[b, j]
        ),
    )


def test_oja_finds_the_first_principal_component():
    """Oja's theorem: with a constant rate, W of a linear unit turns to the direction of the largest variance."""
    layer = make_layer("oja")
    layer.linear.alpha_weight.data.fill_(1.0)
    axis = torch.nn.functional.normalize(torch.randn(B, N), dim=-1)
    layer.eta, layer.decay = torch.full((B, 1), 0.02), torch.zeros(B, 1)
    for _ in range(1500):
        layer.p = 1.5 * torch.randn(B, 1) * axis + 0.3 * torch.randn(B, N)
        layer.u = torch.einsum("bi,bio->bo", layer.p, layer.fast.weight)
        layer.fast = updated(layer)
    for unit in range(M):
        weight = layer.fast.weight[:, :, unit]
        assert ((weight * axis).sum(-1).abs() / weight.norm(dim=-1) > 0.98).all()
        assert ((weight.norm(dim=-1) - 1).abs() < 0.2).all()


def test_bcm():
    layer = make_layer("bcm")
    W, p, u, eta, decay = layer.fast.weight, layer.p, layer.u, layer.eta, layer.decay
    theta, tau = layer.fast.rule["theta"], torch.sigmoid(layer.parameters["tau"])
    alpha = layer.linear.alpha_weight
    after = updated(layer)
    check(
        after.weight,
        elements(
            lambda b, i, j: (
                (1 - decay[b]) * W[b, i, j] + eta[b] * alpha[i, j] * p[b, i] * u[b, j] * (u[b, j] - theta[b, j])
            )
        ),
    )
    for b in range(B):
        for j in range(M):
            check(after.rule["theta"][b, j], ((1 - tau[j]) * theta[b, j] + tau[j] * u[b, j] ** 2).detach())


@torch.no_grad()
def delta_parts(layer, key):
    """Return the value and the fast weight's answer for keys [B, N], each [B, M]."""
    value = elements(
        lambda b, _, j: (
            sum(key[b, i] * layer.parameters.get_submodule("value").weight[j, i] for i in range(N))
            + layer.parameters.get_submodule("value").bias[j]
        ),
        rows=1,
    )[:, 0]
    answer = elements(lambda b, _, j: sum(key[b, i] * layer.fast.weight[b, i, j] for i in range(N)), rows=1)[:, 0]
    return value, answer


def test_delta():
    layer = make_layer("delta")
    W, eta, decay = layer.fast.weight, layer.eta, torch.zeros(B, 1)
    layer.decay = decay
    k = layer.p / (layer.p.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    v, answer = delta_parts(layer, k)
    check(
        updated(layer).weight,
        elements(lambda b, i, j: W[b, i, j] + eta[b] * k[b, i] * (v[b, j] - answer[b, j])),
    )
    layer.eta = torch.ones(B, 1)
    layer.fast = updated(layer)
    torch.testing.assert_close(delta_parts(layer, k)[1], v, rtol=1e-5, atol=1e-5)  # learned in one step of rate 1


def test_gated_delta():
    layer = make_layer("gated_delta")
    W, eta, decay = layer.fast.weight, layer.eta, layer.decay
    k = layer.p / (layer.p.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    v, answer = delta_parts(layer, k)
    gate = layer.parameters["gate"]
    logit = [sum(layer.p[b, i] * gate.weight[0, i] for i in range(N)) + gate.bias[0] for b in range(B)]
    g = [(1 - decay[b]) / (1 + torch.exp(-logit[b])) for b in range(B)]
    check(
        updated(layer).weight,
        elements(lambda b, i, j: g[b] * W[b, i, j] + eta[b] * k[b, i] * (v[b, j] - g[b] * answer[b, j])),
    )


def test_longhorn():
    layer = make_layer("longhorn")
    layer.decay = torch.zeros(B, 1)
    W, eta, k = layer.fast.weight, layer.eta, layer.p
    v, answer = delta_parts(layer, k)
    after = updated(layer).weight
    rate = [eta[b] / (1 + eta[b] * sum(k[b, i] ** 2 for i in range(N))) for b in range(B)]
    check(after, elements(lambda b, i, j: W[b, i, j] + rate[b] * k[b, i] * (v[b, j] - answer[b, j])))

    # It minimises |W' - W|^2 + eta |k W' - v|^2, of which the minimum is unique: the gradient is zero there.
    candidate = after.clone().requires_grad_()
    error = torch.einsum("bi,bio->bo", k, candidate) - v
    loss = (candidate - W).square().sum() + (eta * error.square()).sum()
    (gradient,) = torch.autograd.grad(loss, candidate)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


@pytest.mark.parametrize("forget", [0.0, 0.1])
def test_rls_is_ridge_regression(forget):
    """W is K R; R minimises ``sum_s c_s eta_s |p_s K R - v_s|^2 + c_0 |R|^2 / s``; c_s is what is not forgotten."""
    layer = make_layer("rls")
    layer.fast = FastWeight(  # a new episode
        torch.zeros(B, N, M),
        torch.zeros(B, M),
        {"inverse": layer.rule.initial_state(layer.parameters, N, M)["inverse"].detach().expand(B, N, N)},
    )
    scale, projection = torch.exp(layer.parameters.log_scale).detach(), layer.parameters.key.detach()
    keys, values, weights = [], [], []
    remaining = torch.ones(B)
    for _ in range(12):
        layer.p, layer.eta, layer.decay = torch.randn(B, N), torch.rand(B, 1), torch.full((B, 1), forget)
        keys.append(layer.p @ projection)
        values.append(delta_parts(layer, layer.p)[0])
        weights = [weight * (1 - forget) for weight in weights] + [layer.eta[:, 0]]
        remaining = remaining * (1 - forget)
        layer.fast = updated(layer)
        if len(keys) not in (1, 3, 12):  # fewer samples than inputs, and more
            continue
        for b in range(B):
            k, v = torch.stack([key[b] for key in keys]), torch.stack([value[b] for value in values])
            c = torch.stack([weight[b] for weight in weights]).unsqueeze(-1)
            moment = k.T @ (c * k) + remaining[b] / scale * torch.eye(N)
            solution = torch.linalg.solve(moment, k.T @ (c * v))
            torch.testing.assert_close(layer.fast.weight[b], projection @ solution, rtol=1e-8, atol=1e-9)
            inverse = projection @ torch.linalg.inv(moment) @ projection.T
            torch.testing.assert_close(layer.fast.rule["inverse"][b], inverse, rtol=1e-8, atol=1e-8)


def test_retroactive():
    layer = make_layer("retroactive")
    W, p, u, m = layer.fast.weight, layer.p, layer.u, layer.signed_eta
    keep = (1 - abs(m)) * (1 - layer.decay)
    E, alpha = layer.fast.rule["trace"], layer.linear.alpha_weight
    e = 1 / (1 + torch.exp(-layer.parameters["trace_rate"][0]))
    after = updated(layer)
    check(after.weight, elements(lambda b, i, j: keep[b] * W[b, i, j] + m[b] * alpha[i, j] * E[b, i, j]))

    def trace(b, i, j):
        norm = sum(p[b, n] ** 2 for n in range(N)) ** 0.5 * sum(u[b, k] ** 2 for k in range(M)) ** 0.5
        return (1 - e) * E[b, i, j] + e * min(1.0, 1 / float(norm)) * p[b, i] * u[b, j]

    check(after.rule["trace"], elements(trace))
    layer.u = 1e-3 * u  # coincidences of a norm below 1 are not limited
    u = layer.u
    check(updated(layer).rule["trace"], elements(trace))


def test_self_referential():
    layer = make_layer("self_referential")
    layer.decay = torch.zeros(B, 1)
    W, p, eta = layer.fast.weight, layer.p, layer.eta
    n_out = M + 2 * N + 1
    assert W.shape == (B, N, n_out)
    total = (layer.linear.weight + W).detach()
    bias = layer.linear.bias.detach()
    expected = []
    for b in range(B):
        q = p[b] @ total[b] + bias
        k, z, rate = q[M : M + N], q[M + N : M + 2 * N], q[-1]
        k, z = k.exp() / k.exp().sum(), z.exp() / z.exp().sum()
        beta = eta[b] / (1 + torch.exp(-rate))
        expected.append(W[b] + beta * torch.outer(k, (z - k) @ total[b]))
    check(updated(layer).weight, torch.stack(expected))


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_changes_its_layers_and_trains_its_parameters(name):
    network = PlasticNetwork(3, 5, 2, "lstm", name, Plasticity(max_norm=0.7))
    output, final = network.unroll(torch.randn(6, 2, 3))
    output.y.square().sum().backward()
    assert all(fast.weight.abs().sum(dim=(1, 2)).all() for fast in final.fast.values())
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any() or parameter.grad.numel() < 3, parameter_name
