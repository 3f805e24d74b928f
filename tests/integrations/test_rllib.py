import pytest
import torch

pytest.importorskip("ray.rllib")

import numpy as np
from gymnasium import spaces
from plastic_agents import NetworkConfig
from plastic_agents.integrations.rllib import RecurrentRLModule
from ray.rllib.core.columns import Columns

pytestmark = pytest.mark.integrations
OBSERVATIONS = spaces.Box(-1, 1, (5,), np.float32)


def make_module(actions, network=None, observations=OBSERVATIONS):
    network = NetworkConfig("gradient", hidden_size=4) if network is None else network
    return RecurrentRLModule(
        observation_space=observations, action_space=actions, model_config={"network": network, "max_seq_len": 6}
    )


def batched(nested, sequences):
    if isinstance(nested, dict):
        return {name: batched(value, sequences) for name, value in nested.items()}
    return torch.as_tensor(nested).expand(sequences, *nested.shape)


@pytest.mark.parametrize(
    ("actions", "parameters"), [(spaces.Discrete(3), 3), (spaces.Box(-1, 1, (2,), np.float32), 4)], ids=str
)
def test_training_reproduces_the_outputs_of_acting(actions, parameters):
    module = make_module(actions)
    state = batched(module.get_initial_state(), 2)
    observations = torch.randn(2, 6, 5)
    trained = module.forward_train({Columns.OBS: observations, Columns.STATE_IN: state})
    assert trained[Columns.ACTION_DIST_INPUTS].shape == (2, 6, parameters)
    assert module.compute_values({}, trained[Columns.EMBEDDINGS]).shape == (2, 6)
    for t in range(6):
        acted = module.forward_exploration({Columns.OBS: observations[:, t : t + 1], Columns.STATE_IN: state})
        state = acted[Columns.STATE_OUT]
        torch.testing.assert_close(
            acted[Columns.ACTION_DIST_INPUTS][:, 0], trained[Columns.ACTION_DIST_INPUTS][:, t], atol=1e-5, rtol=1e-4
        )
    assert state["fast"]["readout"]["weight"].abs().amax() > 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"network": "hebbian"}, "NetworkConfig"), ({"observations": spaces.Discrete(3)}, "one-dimensional")],
)
def test_bad_arguments_are_named(wrong, named):
    with pytest.raises(TypeError, match=named):
        make_module(spaces.Discrete(3), **wrong)
