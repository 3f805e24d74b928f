"""Plastic networks learn by other libraries' own PPO: the scripts' training, on an easy task.

An episode has one cue, to be approached once, and again where that was worth it: 1.25 at best. Without memory nothing
tells a good cue from a bad one, so that every policy earns 0 on average.
"""

from pathlib import Path

import numpy as np
import pytest
from plastic_agents import NetworkConfig, Plasticity

pytestmark = pytest.mark.integrations
EASY = {"n_cues": 1, "n_trials": 6}
BAR = 0.8  # always to approach earns 0 +- 0.2 in the 320 episodes that are averaged


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples" / "integrations")


def test_torchrl():
    pytest.importorskip("torchrl")
    from plastic_agents.integrations.torchrl import RecurrentModule
    from torchrl_lstm_ppo import ENVS, STEPS, UNITS, train

    def make_core(size):
        config = NetworkConfig(rule="hebbian", hidden_size=32, plasticity=Plasticity(max_norm=10.0))
        return RecurrentModule(config.make_core(size, UNITS))

    returns = list(train(make_core, 30 * ENVS * STEPS, **EASY))
    assert np.mean(returns[-5:]) > BAR


def test_rllib():
    pytest.importorskip("ray.rllib")
    from rllib_ppo import MODULES, train

    returns = list(train(MODULES["hebbian"], 30, **EASY))
    assert np.mean(returns[-5:]) > BAR
