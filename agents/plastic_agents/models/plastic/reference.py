"""The whole plastic network in one slow loop: the page to read first.

Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3. `docs/equations.md` derives the equations and lists all
symbols. Vectors are rows, (x) is the outer product, * multiplies element by element. Each sequence has its own fast
weights W, b, which are zero at the start of an episode; all sequences share the slow weights W~, b~ and the
coefficients alpha, which the outer optimiser learns. One step from the input x and the hidden activity h:

    1. Forward      q = p (W~ + W) + b~ + b  in each layer, p being its input
                    a = relu(q_in(x)),  h' = cell(q_ih(a), q_hh(h)),  o = [y, e, m] = q_out(h')
    2. Rate         eta = eta_0 sigmoid(m),  and the decay d = d_0 sigmoid(m)
    3. Direction    the rule's pre and post, for example
                    Hebbian rule:   pre = p,  post = u, u being the activity after the nonlinearity
                    gradient rule:  pre = p,  post = dL/dq, with the inner loss L = mean over k of (w_out_k o_k)^2
    4. Norm limit   eta_w = eta min(1, n_max / n),  n the norm of pre (x) post over all plastic layers
    5. Update       W <- (1 - d) W + eta_w alpha * (pre (x) post)
                    b <- (1 - d) b + eta_w alpha_b * post, if the rule changes biases

A rule may replace the factors eta and 1 - d, keep a state of its own, and add a matrix of it to W: see `Update` in
`plastic_agents.models.plastic.rule`.

The fast forms in `forms/` are tested against this loop, forward and backward. It takes the parameters, the cell's
equations and the rule's from the network and nothing else, forms every matrix, and lets autograd differentiate the
inner loss.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from plastic_agents.models.core import CoreOutput, State, with_restarts
from plastic_agents.models.plastic.fast_weights import FastWeight, PlasticLinear
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.rule import LayerStep, MatrixUpdate, Update


@torch.enable_grad()
def reference_unroll(
    network: PlasticNetwork, xs: Tensor, state: State | None = None, episode_starts: Tensor | None = None
) -> tuple[CoreOutput, State]:
    """Run over a segment.

    Args:
        network: the network, of any cell and rule.
        xs: inputs [T, B, I].
        state: the state before the first step; ``None`` starts episodes.
        episode_starts: bool [T, B], true where the network restarts from its initial state before the step.

    Returns:
        The output, y [T, B, O] and eta [T, B], and the state after the last step.
    """
    state = network.initial_state(xs.shape[1]) if state is None else state
    ys, etas = [], []
    for t, x in enumerate(xs):
        if episode_starts is not None:
            state = with_restarts(state, network.initial_state(len(x)), episode_starts[t])
        y, eta, state = _step(network, x, state)
        ys.append(y)
        etas.append(eta)
    return CoreOutput(torch.stack(ys), torch.stack(etas)), state


def _step(network: PlasticNetwork, x: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
    settings, fast = network.settings, state.fast
    layers = {name: _Layer(layer, fast.get(name)) for name, layer in network.layers.items()}

    # 1. Forward, with W~ + W and b~ + b of each sequence.
    q: dict[str, Tensor] = {}  # without the extra outputs of a layer, which are for the rule
    pre: dict[str, Tensor] = {}
    post: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}

    def forward(name: str, p: Tensor) -> Tensor:
        pre[name], full, size = p, layers[name].read(p), network.output_sizes[name]
        q[name], extra[name] = full[:, :size], full[:, size:]
        return q[name]

    post["input"] = below = torch.relu(forward("input", x))
    hiddens = []
    for number, (to_hidden, recurrent) in enumerate(network.recurrent_layers):
        columns = slice(number * network.hidden_size, (number + 1) * network.hidden_size)
        previous = type(state.hidden)(*(leaf[:, columns] for leaf in state.hidden))
        hidden, units = network.cell.forward(forward(to_hidden, below), forward(recurrent, previous.h), previous)
        post[to_hidden] = post[recurrent] = units
        below = hidden.h
        hiddens.append(hidden)
    post["readout"] = readout = forward("readout", below)

    # 2. Rate.
    m = readout[:, -1:]
    gate = torch.sigmoid(m) if settings.modulated else torch.full_like(m, 0.5)
    signed_gate = torch.tanh(m) if settings.modulated else gate
    eta, decay = settings.rate * gate, settings.decay * gate

    # 3. Direction. The inner gradient stays in the graph, because the outer gradient flows through it.
    loss_gradient: dict[str, Tensor] = {}
    if network.rule.uses_loss_gradient:
        inner_loss = (network.readout_loss_weight * readout).square().mean(dim=1).sum()
        # A cell may ignore a layer, whose gradient is then zero.
        gradients = torch.autograd.grad(inner_loss, list(q.values()), create_graph=True, materialize_grads=True)
        loss_gradient = dict(zip(q, gradients, strict=True))
    updates = {
        name: network.rule.update(
            LayerStep(
                pre[name],
                post[name],
                extra[name],
                eta,
                settings.rate * signed_gate,
                decay,
                parameters,
                {key: value for key, value in (fast[name].rule or {}).items() if value.dim() == 2},
                layers[name],
                partial(loss_gradient.__getitem__, name),
            )
        )
        for name, parameters in network.rule_parameters.items()
    }

    # 4. Norm limit. The root is taken only above the limit, because its derivative at 0 is infinite.
    squared_norm = torch.zeros_like(eta)
    for update in updates.values():
        squared_norm = squared_norm + _outer(update.pre, update.post).square().sum(dim=(1, 2)).unsqueeze(-1)
        if network.rule.plastic_bias:
            squared_norm = squared_norm + update.post.square().sum(dim=1, keepdim=True)
    limited = squared_norm > settings.max_norm**2
    norm = torch.where(limited, squared_norm, 1.0).sqrt()
    limit = torch.where(limited, settings.max_norm / norm, 1.0)

    # 5. Update. The next step is the first that uses it.
    after = {name: layers[name].updated(update, eta, decay, limit) for name, update in updates.items()}
    hidden = type(state.hidden)(*(torch.cat(leaves, dim=1) for leaves in zip(*hiddens, strict=True)))
    return readout[:, : network.output_size], eta.squeeze(-1), State(hidden, after)


class _Layer:
    """A layer with its matrices [B, in, out]; without a fast weight, that of zero."""

    def __init__(self, layer: PlasticLinear, fast: FastWeight | None) -> None:
        self.layer, self.fast = layer, fast
        self.weight = layer.weight + (torch.zeros(()) if fast is None else fast.weight)
        self.bias = layer.bias + (torch.zeros(()) if fast is None else fast.bias)

    def read(self, p: Tensor) -> Tensor:
        return (p.unsqueeze(-2) @ self.weight).squeeze(-2) + self.bias

    def read_fast(self, p: Tensor) -> Tensor:
        assert self.fast is not None
        return (p.unsqueeze(-2) @ self.fast.weight).squeeze(-2)

    def read_transposed(self, d: Tensor) -> Tensor:
        return (self.weight @ d.unsqueeze(-1)).squeeze(-1)

    def read_state(self, name: str, p: Tensor) -> Tensor:
        assert self.fast is not None
        assert self.fast.rule is not None
        return (p.unsqueeze(-2) @ self.fast.rule[name]).squeeze(-2)

    def updated(self, update: Update, eta: Tensor, decay: Tensor, limit: Tensor) -> FastWeight:
        assert self.fast is not None
        weight, bias, state = self.fast
        batch_size, n_in, n_out = weight.shape
        rate = (eta if update.rate is None else update.rate) * limit
        keep = 1 - decay if update.keep is None else update.keep
        rows = weight.new_ones(batch_size, n_in) if update.keep_rows is None else update.keep_rows
        columns = weight.new_ones(batch_size, n_out) if update.keep_columns is None else update.keep_columns
        written = rate.unsqueeze(-1) * _outer(update.pre, update.post)
        for name, coefficient in update.add.items():
            assert state is not None
            written = written + coefficient.unsqueeze(-1) * state[name]
        return FastWeight(
            keep.unsqueeze(-1) * _outer(rows, columns) * weight + self.layer.alpha_weight * written,
            keep * columns * bias + rate * self.layer.alpha_bias * update.post,
            None if state is None else {name: _next(state[name], update.state[name]) for name in state},
        )


def _next(before: Tensor, update: Tensor | MatrixUpdate) -> Tensor:
    if isinstance(update, Tensor):
        return update
    return update.keep.unsqueeze(-1) * before + update.rate.unsqueeze(-1) * _outer(update.pre, update.post)


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    return rows.unsqueeze(-1) * columns.unsqueeze(-2)
