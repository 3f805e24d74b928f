"""Traces of eta and the fast weights over an episode."""

import numpy as np
import pytest
import torch
from plastic_agents import NetworkConfig, Plasticity, SupervisedAgent
from plastic_agents.analysis.traces import effective_rank, trace

from plastic_envs import make_task


def test_effective_rank_of_known_matrices():
    assert effective_rank(torch.eye(5)).item() == pytest.approx(5)
    assert effective_rank(torch.ones(4, 7, dtype=torch.float64)).item() == pytest.approx(1)
    assert effective_rank(torch.zeros(3, 3)).item() == 0
    two = torch.diag(torch.tensor([3.0, 1.0, 0.0]))
    assert effective_rank(two).item() == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert effective_rank(torch.stack([torch.eye(3), torch.zeros(3, 3)])).tolist() == pytest.approx([3, 0])


@pytest.mark.parametrize("rule", ["hebbian", "gradient"])
def test_trace_follows_the_updates(rule):
    torch.manual_seed(0)
    task = make_task("PlasticRNN/CueReward-v0", n_support=3, n_queries=2)
    plasticity = Plasticity(modulated=False, alpha_init="absent")
    model = SupervisedAgent(task, NetworkConfig(rule=rule, hidden_size=6, plasticity=plasticity))
    result = trace(model, task.sample(np.random.default_rng(0), 4))
    assert result.eta == pytest.approx([0.1] * 5)
    for name in ("input", "input_to_hidden", "hidden_to_hidden", "readout"):
        assert len(result.norm[name]) == len(result.rank[name]) == 5
        assert result.norm[name][0] == result.rank[name][0] == 0
    # One update makes a matrix of rank one; the recurrent layer's first is zero, as there was no activity before.
    assert result.rank["readout"][1] == pytest.approx(1, abs=1e-3)
    assert result.norm["hidden_to_hidden"][1] == 0 < result.norm["readout"][1]


def test_networks_without_fast_weights_have_no_trace():
    task = make_task("PlasticRNN/CueReward-v0")
    model = SupervisedAgent(task, NetworkConfig(rule="none", hidden_size=4))
    assert trace(model, task.sample(np.random.default_rng(0), 2)) is None
