"""What plasticity does over an episode: the rate eta, and the size and rank of the fast weights, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from plastic_agents.analysis.agent import Agent
from plastic_agents.models.core import State
from plastic_agents.models.plastic.fast_weights import FastWeights
from plastic_envs import EpisodeBatch


@dataclass(frozen=True)
class Trace:
    """Means over episodes at each step t of T.

    Attributes:
        eta: the modulated rate at step t, [T].
        norm: Frobenius norm of each layer's fast weight before step t, [T] by layer.
        rank: its effective rank (see `effective_rank`), [T] by layer; 0 while the fast weight is zero.
    """

    eta: list[float]
    norm: dict[str, list[float]]
    rank: dict[str, list[float]]


def effective_rank(matrix: Tensor) -> Tensor:
    """Exponential of the entropy of the singular values' shares: [..., m, n] -> [...]; 0 for a zero matrix.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", 2007. Between 1 and
    the ordinary rank: how many directions carry the matrix.
    """
    singular = torch.linalg.svdvals(matrix)
    total = singular.sum(-1, keepdim=True)
    share = singular / total.clamp(min=torch.finfo(matrix.dtype).tiny)
    return torch.exp(torch.special.entr(share).sum(-1)) * (total.squeeze(-1) > 0)


def mean_norms(fast: FastWeights) -> list[float]:
    """Frobenius norm of each layer's fast weight, the mean over sequences."""
    return [torch.linalg.matrix_norm(layer.weight).mean().item() for layer in fast]


def trace(model: Agent, episode: EpisodeBatch) -> Trace | None:
    """Play ``episode`` and note what the fast weights do; ``None`` for a network without `FastWeights`."""
    names = FastWeights._fields
    norms: list[list[float]] = []
    ranks: list[list[float]] = []

    def note(state: State) -> State:
        if isinstance(state.fast, FastWeights):
            norms.append(mean_norms(state.fast))
            ranks.append([effective_rank(layer.weight).mean().item() for layer in state.fast])
        return state

    _, output = model.play(episode, dict.fromkeys(range(model.task.episode_length), note))
    if output.eta is None or not norms:
        return None
    return Trace(
        eta=[float(value) for value in output.eta.mean(1)],
        norm={name: list(column) for name, column in zip(names, np.transpose(norms).tolist(), strict=True)},
        rank={name: list(column) for name, column in zip(names, np.transpose(ranks).tolist(), strict=True)},
    )
