"""Plastic networks learn with other libraries' PPO: the training of the scripts, on an easy task.

An episode has one cue. The best policy approaches it once, and again only if its value is positive; its mean return is
1.25. A policy without memory cannot distinguish positive from negative cues, so its mean return is 0.
"""

from pathlib import Path

import numpy as np
import pytest
from plastic_agents import NetworkConfig, Plasticity

pytestmark = pytest.mark.integrations
EASY = {"n_cues": 1, "n_trials": 6}
MIN_RETURN = 0.8  # a policy that always approaches has a mean return of 0 +- 0.2 over 320 episodes


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples" / "integrations")


def test_a_plastic_network_learns_with_torchrl():
    pytest.importorskip("torchrl")
    from plastic_agents.integrations.torchrl import RecurrentModule
    from torchrl_lstm_ppo import ENVS, STEPS, UNITS, train

    def make_core(size):
        config = NetworkConfig(rule="hebbian", hidden_size=32, plasticity=Plasticity(max_norm=10.0))
        return RecurrentModule(config.make_core(size, UNITS))

    returns = list(train(make_core, 30 * ENVS * STEPS, **EASY))
    assert np.mean(returns[-5:]) > MIN_RETURN


def test_a_plastic_network_learns_with_rllib():
    pytest.importorskip("ray.rllib")
    from rllib_ppo import MODULES, train

    returns = list(train(MODULES["hebbian"], 30, **EASY))
    assert np.mean(returns[-5:]) > MIN_RETURN
