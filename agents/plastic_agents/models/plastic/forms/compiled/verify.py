"""The comparison of a new kernel with the dense form, before it is used."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from plastic_agents.models.core import State
from plastic_agents.models.plastic.forms.compiled.autograd import run_kernel
from plastic_agents.models.plastic.forms.compiled.kernel import Kernel
from plastic_agents.models.plastic.forms.dense import unroll_dense

if TYPE_CHECKING:
    from plastic_agents.models.plastic.network import PlasticNetwork

_STEPS, _BATCH = 4, 3
_TOLERANCES = {torch.float32: 1e-3, torch.float64: 1e-8}


def disagreement(core: PlasticNetwork, kernel: Kernel, dtype: torch.dtype) -> str | None:
    """Return where the kernel of a network differs from the dense form, forward or backward; None if nowhere.

    A copy of the network with random parameters makes a few steps, in which an episode starts.
    """
    generator = torch.Generator().manual_seed(0)
    core = _copied(core)
    for parameter in core.parameters():
        bound = parameter.shape[0] ** -0.5 if parameter.dim() == 2 else 0.3
        parameter.data.uniform_(-bound, bound, generator=generator)
    xs = torch.randn(_STEPS, _BATCH, core.input_size, generator=generator, dtype=dtype, requires_grad=True)
    episode_starts = torch.zeros(_STEPS, _BATCH, dtype=torch.bool)
    episode_starts[2, 1] = True
    found = _results(core, xs, run_kernel(core, kernel, xs, core.initial_state(_BATCH), episode_starts))
    dense = _results(core, xs, unroll_dense(core, xs, core.initial_state(_BATCH), episode_starts))
    for name, expected in dense.items():
        error = (found[name] - expected).abs().max() / (1 + expected.abs().max())
        if not error <= _TOLERANCES[dtype]:
            return f"{name}, by {float(error):.1g}"
    return None


def _copied(core: PlasticNetwork) -> PlasticNetwork:
    """Return a copy with parameters of its own, also of a network whose parameters are results of other tensors."""
    tensors: dict[int, Any] = {}
    for module in core.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                tensors[id(parameter)] = torch.nn.Parameter(torch.empty_like(parameter.detach()))
        for buffer in module._buffers.values():
            if buffer is not None:
                tensors[id(buffer)] = buffer.detach().clone()
    return copy.deepcopy(core, tensors)


def _named(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a nested state by name, dicts in the order of their keys."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _named(f"{name}.{key}", value[key])
    elif value is not None:
        for key, item in zip(getattr(value, "_fields", range(len(value))), value, strict=True):
            yield from _named(f"{name}.{key}", item)


def _results(core: PlasticNetwork, xs: Tensor, outputs: Any) -> dict[str, Tensor]:
    """Return readout, rates, final state and the gradients of a loss in which every entry of these counts."""
    readout, state, eta = outputs
    results = {"the readout": readout, "eta": eta}
    results |= dict(_named("the state", State(*state)))
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (torch.randn(value.shape, generator=generator, dtype=value.dtype) * value).sum() for value in results.values()
    )
    inputs = {"the inputs": xs, **dict(core.named_parameters())}
    gradients = torch.autograd.grad(loss, list(inputs.values()), allow_unused=True)
    for (name, tensor), gradient in zip(inputs.items(), gradients, strict=True):
        results[f"the gradient of {name}"] = torch.zeros_like(tensor) if gradient is None else gradient
    return {name: value.detach() for name, value in results.items()}
