"""The plastic network as the paper writes it, slow and obvious: autograd finds the inner gradient at every step.

Nothing here is shared with the forms it judges, except the parameters of the network handed in. Each fast weight is a
full matrix a sequence; the inner gradient is `torch.autograd.grad` with ``create_graph=True``, so that the outer
gradient flows through it; the norm of the update is the norm of those matrices.

Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plastic_agents.models.core import State
from plastic_agents.models.plastic.fast_weights import FastWeight, FastWeights
from plastic_agents.models.plastic.network import PlasticNetwork

LAYERS = ("input", "input_to_hidden", "hidden_to_hidden", "readout")


def reference_unroll(
    network: PlasticNetwork, xs: Tensor, state: State | None = None, episode_starts: Tensor | None = None
) -> tuple[Tensor, Tensor, State]:
    """Outputs [T, B, O], modulated rates [T, B] and the final state; see `PlasticNetwork.unroll` for the arguments."""
    settings = network.plasticity
    state = network.initial_state(xs.shape[1]) if state is None else state
    hidden = tuple(state.hidden)
    fast = {
        f"{name}.{kind}": getattr(getattr(state.fast, name), kind) for name in LAYERS for kind in ("weight", "bias")
    }
    if not any(value.requires_grad for value in fast.values()):
        fast = {key: value.clone().requires_grad_() for key, value in fast.items()}
    outputs, etas = [], []
    for t, x in enumerate(xs):
        if episode_starts is not None:
            going_on = (~episode_starts[t]).to(xs.dtype)
            hidden = tuple(going_on[:, None] * value for value in hidden)
            fast = {key: going_on.reshape(-1, *[1] * (value.dim() - 1)) * value for key, value in fast.items()}

        def affine(name: str, p: Tensor, fast: dict[str, Tensor] = fast) -> Tensor:
            layer = getattr(network, name)
            weight, bias = layer.weight + fast[f"{name}.weight"], layer.bias + fast[f"{name}.bias"]
            return torch.einsum("bi,bio->bo", p, weight) + bias

        # 1. Forward.
        a = torch.relu(affine("input", x))
        previous_h = hidden[0]
        q = affine("input_to_hidden", a) + affine("hidden_to_hidden", previous_h)
        if len(hidden) == 1:
            units = torch.relu(q)
            hidden = (units,)
        else:
            q_i, q_f, q_g, q_o = q.chunk(4, dim=1)
            i, f, g, o = torch.sigmoid(q_i), torch.sigmoid(q_f), torch.tanh(q_g), torch.sigmoid(q_o)
            units = torch.cat([i, f, g, o], dim=1)
            c = f * hidden[1] + i * g
            hidden = (o * torch.tanh(c), c)
        readout = affine("readout", hidden[0])

        # 2. Rate.
        gate = torch.sigmoid(readout[:, -1]) if settings.modulated else torch.full_like(readout[:, -1], 0.5)
        eta, decay = settings.rate * gate, settings.decay_rate * gate

        # 3. Directions.
        if network.rule == "gradient":
            inner_loss = (network.readout_loss_weight * readout).square().mean(dim=1).sum()
            directions = dict(
                zip(fast, torch.autograd.grad(inner_loss, list(fast.values()), create_graph=True), strict=True)
            )
        else:
            pairs = {
                "input": (x, a),
                "input_to_hidden": (a, units),
                "hidden_to_hidden": (previous_h, units),
                "readout": (hidden[0], readout),
            }
            directions = {f"{name}.weight": torch.einsum("bi,bo->bio", p, u) for name, (p, u) in pairs.items()}

        # 4. Norm limit: min(1, max_norm / n), without a root at 0.
        squared_norm = torch.stack([d.flatten(1).square().sum(dim=1) for d in directions.values()]).sum(dim=0)
        too_long = squared_norm > settings.max_norm**2
        norm = torch.where(too_long, squared_norm, 1.0).sqrt()
        write = eta * torch.where(too_long, settings.max_norm / norm, 1.0)

        # 5. Update.
        for key, value in fast.items():
            name, kind = key.split(".")
            each = (slice(None), *[None] * (value.dim() - 1))
            fast[key] = (1 - decay)[each] * value
            if key in directions:
                fast[key] = fast[key] + write[each] * getattr(getattr(network, name), f"alpha_{kind}") * directions[key]
        outputs.append(readout[:, : network.output_size])
        etas.append(eta)
    layers = (FastWeight(fast[f"{name}.weight"], fast[f"{name}.bias"]) for name in LAYERS)
    return torch.stack(outputs), torch.stack(etas), State(type(state.hidden)(*hidden), FastWeights(*layers))
