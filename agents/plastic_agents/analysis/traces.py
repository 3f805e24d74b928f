"""Traces of plasticity over an episode: the rate eta, and the size and rank of the fast weights at each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plastic_agents.analysis.agent import Agent
from plastic_agents.models.core import State
from plastic_envs import EpisodeBatch


@dataclass(frozen=True)
class Trace:
    """Means over episodes at each of T steps.

    Attributes:
        eta: the modulated rate at step t, [T]; ``None`` for a core without a rate.
        norm: by the name of the matrix (see `fast_matrices`), the Frobenius norm before step t, [T].
        rank: by the name of the matrix, the effective rank before step t (see `effective_rank`), [T]; 0 while the
            matrix is zero.
    """

    eta: list[float] | None
    norm: dict[str, list[float]]
    rank: dict[str, list[float]]

    @property
    def is_empty(self) -> bool:
        """Whether the agent has neither a rate eta nor fast matrices."""
        return self.eta is None and not self.norm


def fast_matrices(fast: Any) -> dict[str, Tensor]:
    """Return all matrices [B, ..., m, n] in the fast part of a `State`, by name.

    The name is the path through fields, keys and indices, such as ``"layers.0"``. A layer with only one matrix, such as
    a weight with its bias, gives its own name to the matrix: the names of a `PlasticNetwork` are ``"input"``,
    ``"input_to_hidden"``, ``"hidden_to_hidden"`` and ``"readout"``. A fast part that is a single tensor has the name
    ``"fast"``.
    """
    if isinstance(fast, Tensor):
        return {"fast": fast} if _is_matrix(fast) else {}
    matrices = {}
    for name, value in _children(fast):
        inner = {"": value} if isinstance(value, Tensor) and _is_matrix(value) else fast_matrices(value)
        if len(inner) == 1:
            matrices[name] = next(iter(inner.values()))
        else:
            matrices.update({f"{name}.{path}": matrix for path, matrix in inner.items()})
    return matrices


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.dim() >= 3 and tensor.is_floating_point()


def _children(structure: Any) -> Iterator[tuple[str, Any]]:
    """Yield the direct members of a named tuple, dict, tuple or list, with their names."""
    if isinstance(structure, dict):
        yield from ((str(key), value) for key, value in structure.items())
    elif hasattr(structure, "_fields"):
        yield from zip(structure._fields, structure, strict=True)
    elif isinstance(structure, tuple | list):
        yield from ((str(index), value) for index, value in enumerate(structure))


def effective_rank(matrix: Tensor) -> Tensor:
    """Return the exponential of the entropy of the normalised singular values: [..., m, n] -> [...].

    The effective rank is between 1 and the rank, and 0 for a zero matrix. It tells over how many directions the matrix
    spreads. Roy and Vetterli, "The effective rank: a measure of effective dimensionality", 2007.
    """
    singular_values = torch.linalg.svdvals(matrix)
    total = singular_values.sum(-1, keepdim=True)
    normalised = singular_values / total.clamp(min=torch.finfo(matrix.dtype).tiny)
    rank: Tensor = torch.exp(torch.special.entr(normalised).sum(-1)) * (total.squeeze(-1) > 0)
    return rank


def mean_norms(fast: Any) -> dict[str, float]:
    """Return the Frobenius norm of each matrix in the fast part of a state, averaged over sequences, by name."""
    return {name: torch.linalg.matrix_norm(matrix).mean().item() for name, matrix in fast_matrices(fast).items()}


def mean_ranks(fast: Any) -> dict[str, float]:
    """Return the effective rank of each matrix in the fast part of a state, averaged over sequences, by name."""
    return {name: effective_rank(matrix).mean().item() for name, matrix in fast_matrices(fast).items()}


def trace(agent: Agent, episodes: EpisodeBatch) -> Trace:
    """Play ``episodes`` and record the rate eta and the fast weights at each step."""
    norms: list[dict[str, float]] = []
    ranks: list[dict[str, float]] = []

    def record(state: State) -> State:
        norms.append(mean_norms(state.fast))
        ranks.append(mean_ranks(state.fast))
        return state

    with agent.evaluating():
        _, output = agent.play(episodes, dict.fromkeys(range(agent.task.episode_length), record))
    return Trace(
        eta=None if output.eta is None else [float(value) for value in output.eta.mean(1)],
        norm={name: [step[name] for step in norms] for name in norms[0]},
        rank={name: [step[name] for step in ranks] for name in ranks[0]},
    )
