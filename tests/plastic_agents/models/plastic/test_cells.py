"""The cells equal torch's, and the inner gradient of each cell equals autograd's."""

from __future__ import annotations

import pytest
import torch
from plastic_agents.models.plastic.cells import CELLS
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.rule import PlasticityRule, Update
from torch import nn

B, N, H = 3, 4, 5


def run_cell(cell, module, x, hidden):
    """Run a cell with the weights of one of torch's modules."""
    q_x = x @ module.weight_ih.T + module.bias_ih
    q_h = hidden.h @ module.weight_hh.T + module.bias_hh
    return CELLS[cell].forward(q_x, q_h, hidden)


def inputs(cell):
    fields = CELLS[cell].Hidden._fields
    return torch.randn(B, N), CELLS[cell].Hidden(*(torch.randn(B, H) for _ in fields))


@pytest.mark.parametrize(("cell", "nonlinearity"), [("rnn", "relu"), ("tanh_rnn", "tanh")])
def test_simple_cells_equal_those_of_torch(cell, nonlinearity):
    module = nn.RNNCell(N, H, nonlinearity=nonlinearity)
    x, hidden = inputs(cell)
    after, units = run_cell(cell, module, x, hidden)
    torch.testing.assert_close(after.h, module(x, hidden.h))
    assert units is after.h


def test_linear_cell_is_its_input_alone():
    q_x, hidden = inputs("linear")
    after, units = CELLS["linear"].forward(q_x, torch.randn(B, N), hidden)
    assert after.h is q_x
    assert units is q_x


@torch.no_grad()
def test_hidden_state_of_linear_cells_has_no_effect():
    core = PlasticNetwork(N, H, 2, cell="linear", n_layers=2)
    x, start = torch.randn(B, N), core.initial_state(B)
    disturbed = start._replace(hidden=start.hidden._replace(h=torch.randn(B, 2 * H)))
    torch.testing.assert_close(core.step(x, disturbed)[0].y, core.step(x, start)[0].y)


def test_gru_equals_that_of_torch():
    module = nn.GRUCell(N, H)
    x, hidden = inputs("gru")
    after, units = run_cell("gru", module, x, hidden)
    torch.testing.assert_close(after.h, module(x, hidden.h))
    _, z, n = units.split(H, dim=-1)
    torch.testing.assert_close(after.h, (1 - z) * n + z * hidden.h)


def test_lstm_equals_that_of_torch():
    module = nn.LSTMCell(N, H)
    x, hidden = inputs("lstm")
    after, units = run_cell("lstm", module, x, hidden)
    h, c = torch.lstm_cell(x, hidden, module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh)
    torch.testing.assert_close(after.h, h)
    torch.testing.assert_close(after.c, c)
    i, f, g, o = units.split(H, dim=-1)
    torch.testing.assert_close(after.c, f * hidden.c + i * g)
    torch.testing.assert_close(after.h, o * torch.tanh(c))


def test_minimal_gated_unit_equals_its_equation():
    (q_f, q_n), (r_f, r_n), h = torch.randn(2, B, H), torch.randn(2, B, H), torch.randn(B, H)
    after, units = CELLS["mgu"].forward(
        torch.cat([q_f, q_n], dim=-1), torch.cat([r_f, r_n], dim=-1), CELLS["mgu"].Hidden(h)
    )
    for sequence in range(B):
        for unit in range(H):
            f = 1 / (1 + torch.exp(-(q_f + r_f)[sequence, unit]))
            n = torch.tanh(q_n[sequence, unit] + f * r_n[sequence, unit])
            torch.testing.assert_close(after.h[sequence, unit], (1 - f) * h[sequence, unit] + f * n)
            torch.testing.assert_close(units[sequence, [unit, H + unit]], torch.stack([f, n]))


@pytest.mark.parametrize("cell", CELLS)
def test_units_have_the_number_of_gates(cell):
    gates = CELLS[cell].gates
    _, hidden = inputs(cell)
    after, units = CELLS[cell].forward(torch.randn(B, gates * H), torch.randn(B, gates * H), hidden)
    assert units.shape == (B, gates * H)
    assert all(leaf.shape == (B, H) for leaf in after)
    assert CELLS[cell].bound(16) == 0.25


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_inner_gradient_equals_autograd(cell, n_layers):
    """dL/dq is also the gradient of the loss in the slow bias of the layer, for one sequence."""
    gradients = []

    class Recorder(PlasticityRule):
        uses_loss_gradient = True

        def update(self, step):
            gradients.append(step.loss_gradient)
            return Update(step.pre, step.loss_gradient)

    network = PlasticNetwork(N, H, 2, cell, Recorder(), n_layers=n_layers).double()
    with torch.no_grad():
        network.readout_loss_weight.uniform_(0.5, 2)
    xs = torch.randn(4, 1, N, dtype=torch.float64)
    with torch.no_grad():
        _, state = network.unroll(xs[:3], form="dense")  # a state with fast weights
    gradients.clear()
    network.step(xs[3], state)
    found = dict(zip(network.rule_parameters, gradients, strict=True))

    # The loss from an independent forward pass, with W~ + W and b~ + b as the weights.
    biases = {
        name: (layer.bias + state.fast[name].bias[0]).detach().requires_grad_()
        for name, layer in network.layers.items()
    }
    weights = {name: layer.weight + state.fast[name].weight[0] for name, layer in network.layers.items()}

    def layer(name, p):
        return p @ weights[name] + biases[name]

    below = torch.relu(layer("input", xs[3]))
    for number, (to_hidden, recurrent) in enumerate(network.recurrent_layers):
        columns = slice(number * H, (number + 1) * H)
        previous = type(state.hidden)(*(leaf[:, columns] for leaf in state.hidden))
        below = network.cell.forward(layer(to_hidden, below), layer(recurrent, previous.h), previous)[0].h
    readout = layer("readout", below)
    loss = (network.readout_loss_weight * readout).square().mean()
    expected = dict(zip(biases, torch.autograd.grad(loss, list(biases.values()), materialize_grads=True), strict=True))
    for name, gradient in found.items():
        torch.testing.assert_close(gradient[0], expected[name], rtol=1e-9, atol=1e-12)
    assert any(gradient.abs().max() > 1e-6 for gradient in found.values())
