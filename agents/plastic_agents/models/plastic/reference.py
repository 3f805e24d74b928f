"""The whole plastic network in one slow loop: the page to read first.

Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3. `docs/equations.md` derives the equations and lists all
symbols. Vectors are rows, (x) is the outer product, * multiplies element by element. Each sequence has its own fast
weights W, b, which are zero at the start of an episode; all sequences share the slow weights W~, b~ and the
coefficients alpha, which the outer optimiser learns. One step from the input x and the hidden activity h:

    1. Forward      q = p (W~ + W) + b~ + b  in each layer, p being its input
                    a = relu(q_in(x)),  h' = cell(q_ih(a) + q_hh(h)),  o = [y, e, m] = q_out(h')
    2. Rate         eta = eta_0 sigmoid(m)
    3. Direction    Hebbian rule:   D_W = p (x) u, u being the layer's activity;  D_b = 0
                    gradient rule:  D_W = dL/dW,  D_b = dL/db,  with the inner loss L = mean over k of (w_out_k o_k)^2
    4. Norm limit   eta_w = eta min(1, n_max / n),  n the norm of D_W and D_b over all layers
    5. Update       W <- (1 - eta) W + eta_w alpha * D_W,  the same for b

With a decay rate of its own (`Plasticity.decay`), the factor 1 - eta becomes 1 - decay sigmoid(m).

The fast forms in `forms/` are tested against this loop, forward and backward, so it takes nothing but the parameters
from the network. It forms every matrix, and autograd differentiates the inner loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plastic_agents.models.core import CoreOutput, State
from plastic_agents.models.plastic.fast_weights import FastWeight, FastWeights
from plastic_agents.models.plastic.network import PlasticNetwork

LAYERS = ("input", "input_to_hidden", "hidden_to_hidden", "readout")


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
    settings = network.plasticity
    state = network.initial_state(xs.shape[1]) if state is None else state
    names = [(layer, kind) for layer in LAYERS for kind in ("weight", "bias")]
    slow = {(layer, kind): getattr(getattr(network, layer), kind) for layer, kind in names}
    alpha = {(layer, kind): getattr(getattr(network, layer), f"alpha_{kind}") for layer, kind in names}
    fast = {(layer, kind): getattr(getattr(state.fast, layer), kind) for layer, kind in names}
    hidden = tuple(state.hidden)  # h, and c of the LSTM
    ys, etas = [], []
    for t, x in enumerate(xs):
        if episode_starts is not None:
            hidden = tuple(torch.where(_over(episode_starts[t], value), 0.0, value) for value in hidden)
            fast = {name: torch.where(_over(episode_starts[t], value), 0.0, value) for name, value in fast.items()}

        # 1. Forward, with W~ + W and b~ + b of each sequence.
        weights = {name: (slow[name] + fast[name]).requires_grad_() for name in names}

        def q(layer: str, p: Tensor, weights: dict[tuple[str, str], Tensor] = weights) -> Tensor:
            return torch.einsum("bi,bio->bo", p, weights[layer, "weight"]) + weights[layer, "bias"]

        previous_h = hidden[0]
        a = torch.relu(q("input", x))
        q_cell = q("input_to_hidden", a) + q("hidden_to_hidden", previous_h)
        if len(hidden) == 1:  # relu RNN
            units = torch.relu(q_cell)
            hidden = (units,)
        else:  # LSTM
            q_i, q_f, q_g, q_o = q_cell.chunk(4, dim=1)
            i, f, g, o = torch.sigmoid(q_i), torch.sigmoid(q_f), torch.tanh(q_g), torch.sigmoid(q_o)
            units = torch.cat([i, f, g, o], dim=1)
            c = f * hidden[1] + i * g
            hidden = (o * torch.tanh(c), c)
        readout = q("readout", hidden[0])

        # 2. Rate.
        gate = torch.sigmoid(readout[:, -1]) if settings.modulated else torch.full_like(readout[:, -1], 0.5)
        eta, decay = settings.rate * gate, settings.decay_rate * gate

        # 3. Direction. The inner gradient stays in the graph, because the outer gradient flows through it.
        if network.rule == "gradient":
            inner_loss = (network.readout_loss_weight * readout).square().mean(dim=1).sum()
            gradients = torch.autograd.grad(inner_loss, list(weights.values()), create_graph=True)
            directions = dict(zip(names, gradients, strict=True))
        else:
            pre = {"input": x, "input_to_hidden": a, "hidden_to_hidden": previous_h, "readout": hidden[0]}
            post = {"input": a, "input_to_hidden": units, "hidden_to_hidden": units, "readout": readout}
            directions = {name: torch.zeros_like(value) for name, value in fast.items()}
            for layer in LAYERS:
                directions[layer, "weight"] = torch.einsum("bi,bo->bio", pre[layer], post[layer])

        # 4. Norm limit. The root is taken only above the limit, because its derivative at 0 is infinite.
        squared_norm = torch.stack([d.flatten(1).square().sum(dim=1) for d in directions.values()]).sum(dim=0)
        limited = squared_norm > settings.max_norm**2
        norm = torch.where(limited, squared_norm, 1.0).sqrt()
        write = eta * torch.where(limited, settings.max_norm / norm, 1.0)

        # 5. Update. The next step is the first that uses it.
        for name, value in fast.items():
            fast[name] = _over(1 - decay, value) * value + _over(write, value) * alpha[name] * directions[name]
        ys.append(readout[:, : network.output_size])
        etas.append(eta)
    layers = (FastWeight(fast[layer, "weight"], fast[layer, "bias"]) for layer in LAYERS)
    final = State(type(state.hidden)(*hidden), FastWeights(*layers))
    return CoreOutput(torch.stack(ys), torch.stack(etas)), final


def _over(values: Tensor, leaf: Tensor) -> Tensor:
    """Return ``values`` [B] as [B, 1, ...], to broadcast over ``leaf`` [B, ...]."""
    return values.reshape(-1, *[1] * (leaf.dim() - 1))
