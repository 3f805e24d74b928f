"""`LstmPolicy` and the policy of sb3-contrib, whose network it has."""

import numpy as np
import pytest
import torch

pytest.importorskip("sb3_contrib")

import sb3_contrib
from plastic_agents import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from torch import nn

from tests.plastic_agents.environments import uneven

pytestmark = pytest.mark.integrations

ONE_LSTM = {"shared_lstm": True, "enable_critic_lstm": False}


@pytest.mark.parametrize(
    "policy_kwargs",
    [
        {},
        {"net_arch": []},
        {"net_arch": {"pi": [5], "vf": [7, 3]}, "activation_fn": nn.ReLU, "n_lstm_layers": 2},
        {"net_arch": [6], **ONE_LSTM},
        {"net_arch": [6], "enable_critic_lstm": False},
    ],
)
def test_an_lstm_policy_is_the_network_of_sb3_contrib(policy_kwargs):
    """With the same parameters, both have the same actions and values at each step."""
    kwargs, env = {"lstm_hidden_size": 4, **policy_kwargs}, uneven(observation="unbounded", action="box")
    ours = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=kwargs).policy
    theirs = sb3_contrib.RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=kwargs, seed=0).policy
    core, nets = ours.core, theirs.mlp_extractor
    pairs = [
        (core.recurrent if policy_kwargs.get("shared_lstm") else core.actor.recurrent, theirs.lstm_actor),
        (ours.heads.actor, nn.Sequential(*nets.policy_net, theirs.action_net)),
        (ours.heads.critic, nn.Sequential(*nets.value_net, theirs.value_net)),
    ]
    if theirs.lstm_critic is not None:
        pairs.append((core.critic.recurrent, theirs.lstm_critic))
    elif theirs.critic is not None:
        pairs.append((core.critic.linear, theirs.critic))
    for module, source in pairs:
        assert str(module) == str(source)
        module.load_state_dict(source.state_dict())
    sizes = [sum(parameter.numel() for parameter in policy.parameters()) for policy in (ours, theirs)]
    assert sizes[0] == sizes[1]
    zeros = torch.zeros(kwargs.get("n_lstm_layers", 1), 4, 4)
    their_state, state = RNNStates((zeros, zeros), (zeros, zeros)), ours.initial_state(4)
    starts = torch.zeros(4, dtype=torch.bool)
    for step in range(3):
        observations = torch.as_tensor(np.random.default_rng(step).normal(size=(4, 2)).astype(np.float32))
        with torch.no_grad():
            actions, values, _, state = ours(observations, state, starts, deterministic=True)
            expected = theirs(observations, their_state, starts.float(), deterministic=True)
        torch.testing.assert_close(actions, expected[0])
        torch.testing.assert_close(values, expected[1][:, 0])
        their_state = expected[3]
