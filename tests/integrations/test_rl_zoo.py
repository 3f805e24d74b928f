"""RL Zoo's `enjoy` with a policy that RL Zoo trained: hidden state and fast weights last for an episode."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

# Without an import of rl_zoo3, which changes Gymnasium for the other tests of this process.
pytestmark = [
    pytest.mark.integrations,
    pytest.mark.skipif(find_spec("rl_zoo3") is None, reason="RL Zoo is not installed"),
]

SCRIPTS = Path(__file__).parents[2] / "examples" / "integrations"
# Runs the script with a `predict` that compares its states with those that the states of the episode so far lead to.
CHECKING = """
import runpy

import torch
from plastic_agents import RecurrentPPO

predict, states = RecurrentPPO.predict, []


def checking_predict(model, observation, state=None, episode_start=None, deterministic=False):
    last_state = states[-1] if len(states) % 24 else None
    _, expected = predict(model, observation, last_state)
    action, state = predict(model, observation, state, episode_start, deterministic)
    assert torch.equal(state.hidden.h, expected.hidden.h), len(states)
    assert all(torch.equal(state.fast[name].weight, expected.fast[name].weight) for name in expected.fast), len(states)
    assert any(fast.weight.any() for fast in state.fast.values()) or not len(states) % 24
    states.append(state)
    return action, state


RecurrentPPO.predict = checking_predict
runpy.run_path({script!r}, run_name="__main__")
print("checked", len(states))
"""


def run(folder, *command):
    result = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_enjoy_keeps_the_memory_for_an_episode(tmp_path):
    script, settings = str(SCRIPTS / "rl_zoo.py"), str(SCRIPTS / "rl_zoo.yml")
    which = ("--algo", "plastic_ppo", "--env", "PlasticRNN/CueChoice-v0", "-f", "logs")
    run(tmp_path, script, "train", *which, "--conf-file", settings, "-n", "1536", "--seed", "0")
    code = CHECKING.format(script=script)
    printed = run(tmp_path, "-c", code, "enjoy", *which, "--no-render", "-n", "60")
    assert "checked 60\n" in printed
    assert "2 Episodes\n" in printed
