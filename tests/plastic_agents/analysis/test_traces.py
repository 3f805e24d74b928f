"""Traces of eta and the fast weights over an episode."""

import json
from collections import namedtuple

import numpy as np
import pytest
import torch
from plastic_agents import NetworkConfig, Plasticity, SupervisedAgent, Trace, probe, trace
from plastic_agents.analysis.tables import write_trace
from plastic_agents.analysis.traces import effective_rank, fast_matrices, mean_norms, mean_ranks
from plastic_agents.testing import check_core
from plastic_agents.training.tensorboard import play_examples

from plastic_envs import make_task
from tests.plastic_agents.memory_cores import Correlator

TASK = "PlasticRNN/CueReward-v0"


def test_effective_rank_of_known_matrices():
    assert effective_rank(torch.eye(5)).item() == pytest.approx(5)
    assert effective_rank(torch.ones(4, 7, dtype=torch.float64)).item() == pytest.approx(1)
    assert effective_rank(torch.zeros(3, 3)).item() == 0
    diagonal = torch.diag(torch.tensor([3.0, 1.0, 0.0]))
    assert effective_rank(diagonal).item() == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
    assert effective_rank(torch.stack([torch.eye(3), torch.zeros(3, 3)])).tolist() == pytest.approx([3, 0])


Pair = namedtuple("Pair", ["key", "value"])
MATRIX, VECTOR = torch.ones(2, 3, 4), torch.ones(2, 3)


@pytest.mark.parametrize(
    ("fast", "names"),
    [
        (None, []),
        (VECTOR, []),
        (torch.ones(2, 3, 4, dtype=torch.int64), []),
        (MATRIX, ["fast"]),
        (torch.ones(2, 5, 3, 4), ["fast"]),
        ((MATRIX, VECTOR, MATRIX), ["0", "2"]),
        ([MATRIX], ["0"]),
        ({"memory": MATRIX, "count": VECTOR, "none": None}, ["memory"]),
        (Pair(MATRIX, MATRIX), ["key", "value"]),
        (
            {"layers": [MATRIX, Pair(MATRIX, VECTOR)], "head": Pair(MATRIX, MATRIX)},
            ["layers.0", "layers.1", "head.key", "head.value"],
        ),
        ({"memory": [[MATRIX]]}, ["memory"]),
    ],
)
def test_matrices_are_found_in_any_structure(fast, names):
    matrices = fast_matrices(fast)
    assert list(matrices) == names
    assert all(matrix is MATRIX or matrix.dim() == 4 for matrix in matrices.values())


def test_matrices_of_a_plastic_network_have_the_names_of_its_layers():
    network = NetworkConfig(hidden_size=4).make_core(3, 2)
    fast = network.initial_state(2).fast
    matrices = fast_matrices(fast)
    assert list(matrices) == ["input", "input_to_hidden", "hidden_to_hidden", "readout"]
    assert all(matrices[name] is fast[name].weight for name in matrices)


def test_norms_and_ranks_are_means_over_sequences():
    fast = {"memory": torch.stack([3 * torch.eye(4), torch.zeros(4, 4)])}
    assert mean_norms(fast) == {"memory": pytest.approx(3)}
    assert mean_ranks(fast) == {"memory": pytest.approx(2)}


@pytest.mark.parametrize("rule", ["hebbian", "gradient"])
def test_trace_follows_the_updates(rule):
    torch.manual_seed(0)
    task = make_task(TASK, n_support=3, n_queries=2)
    plasticity = Plasticity(modulated=False, alpha_init="absent")
    agent = SupervisedAgent(task, NetworkConfig(rule=rule, hidden_size=6, plasticity=plasticity))
    result = trace(agent, task.sample(np.random.default_rng(0), 4))
    assert result.eta == pytest.approx([0.1] * 5)
    assert list(result.norm) == list(result.rank) == ["input", "input_to_hidden", "hidden_to_hidden", "readout"]
    for name in result.norm:
        assert len(result.norm[name]) == len(result.rank[name]) == 5
        assert result.norm[name][0] == result.rank[name][0] == 0
    # An update has rank one. The first update of the recurrent layer is zero, because there was no activity before it.
    assert result.rank["readout"][1] == pytest.approx(1, abs=1e-3)
    assert result.norm["hidden_to_hidden"][1] == 0 < result.norm["readout"][1]
    assert not result.is_empty


def test_trace_without_plasticity_is_empty():
    task = make_task(TASK)
    agent = SupervisedAgent(task, NetworkConfig(rule="none", hidden_size=4))
    result = trace(agent, task.sample(np.random.default_rng(0), 2))
    assert result == Trace(eta=None, norm={}, rank={})
    assert result.is_empty


def test_trace_plays_in_evaluation_mode():
    task = make_task(TASK)
    agent = SupervisedAgent(task, NetworkConfig(hidden_size=4)).train()
    modes = []
    original_play = agent.play
    agent.play = lambda *arguments: modes.append(agent.core.training) or original_play(*arguments)
    trace(agent, task.sample(np.random.default_rng(0), 2))
    assert modes == [False]
    assert agent.training


@pytest.mark.parametrize("rate", [None, 0.05])
def test_a_core_of_a_user_with_a_fast_matrix_is_probed_and_traced(rate, tmp_path):
    task = make_task(TASK, n_cues=3)
    check_core(Correlator(task, rate))
    agent = SupervisedAgent(task, Correlator(task, rate))
    report = probe(agent, episodes=200)
    assert len(report) == 6
    assert report["intact"].error.mean < 0.7 * report.memoryless.mean
    assert report["fast_erased"].error == report["no_writing"].error
    assert report["fast_erased"].error.mean == pytest.approx(report.memoryless.mean, abs=1e-6)
    assert report["hidden_erased"].error == report["hidden_transplant"].error == report["intact"].error
    assert report["fast_transplant"].twin_error.mean == pytest.approx(report["intact"].error.mean, abs=0.05)
    assert report["fast_transplant"].error.mean > report.memoryless.mean

    episodes = task.sample(np.random.default_rng(0), 16)
    result = trace(agent, episodes)
    assert result.eta == (None if rate is None else pytest.approx([rate] * task.episode_length))
    assert list(result.norm) == list(result.rank) == ["memory"]
    norms = result.norm["memory"]
    assert norms[0] == 0 < norms[1]
    assert norms[task.query_start :] == [norms[task.query_start]] * (task.episode_length - task.query_start)
    assert result.rank["memory"] == pytest.approx([0] + [1] * (task.episode_length - 1), abs=1e-4)
    state = agent.state_before(episodes, 3)
    expected = np.mean([np.linalg.norm(matrix) for matrix in state.fast["memory"][0].numpy()])
    assert norms[3] == pytest.approx(expected, rel=1e-5)

    write_trace(tmp_path, result, task.query_start)
    assert json.loads((tmp_path / "trace.json").read_text())["norm"]["memory"] == norms
    assert (tmp_path / "trace.png").stat().st_size > 5000
    assert list(play_examples(agent, 4)[2]) == ["memory"]
