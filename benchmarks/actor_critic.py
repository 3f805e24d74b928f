"""Training speed of recurrent policies, compared with sb3-contrib's RecurrentPPO, and memory of their rollouts.

    python benchmarks/actor_critic.py [--json FILE] [--rounds 5] [--threads N]

Speed: environment steps per second of `learn` (rollouts and updates) with four epochs. The environments are CueChoice
(64 lanes, rollouts of 24 steps) and CartPole-v1 without its velocities (8 lanes, rollouts of 128 steps), whose episodes
end at any step; both with minibatches of 128 steps, sb3-contrib's default, and of whole rollouts. sb3-contrib has
LSTMs of the same width: one for actor and critic, as in this project, and its default, one for each with two more
layers. Every round measures all learners in turn, and the script compares medians. It leaves sb3-contrib out if it is
not installed.

Memory: peak memory of a separate process that trains a Hebbian RNN with 128 units on 64 lanes with sequences of 24
steps, by the length of the rollout, and the size of the fast weights of every step for comparison.
"""

from __future__ import annotations

import os

# Waiting threads must not occupy the CPU. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the script runs from a checkout, installed or not

import gymnasium
import machine
import numpy as np
import torch
from gymnasium.wrappers import TransformObservation
from plastic_agents import NetworkConfig, RecurrentPPO, make_sb3_vec_env
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

try:
    import sb3_contrib
except ImportError:
    sb3_contrib = None

HIDDEN_SIZE = 128
CORES = {
    "LSTM": NetworkConfig("none", "lstm", HIDDEN_SIZE),
    "GRU": NetworkConfig("none", "gru", HIDDEN_SIZE),
    "Hebbian RNN": NetworkConfig("hebbian", "rnn", HIDDEN_SIZE),
    "gradient RNN": NetworkConfig("gradient", "rnn", HIDDEN_SIZE),
    "gradient LSTM": NetworkConfig("gradient", "lstm", HIDDEN_SIZE),
}
THEIRS = "sb3-contrib, one LSTM"
THEIR_DEFAULT = "sb3-contrib, default"
MEMORY_STEPS = (24, 96, 384)


def position_cart_pole() -> gymnasium.Env[Any, Any]:
    """Make a CartPole with positions and without velocities in its observations; at most 500 steps."""
    env = gymnasium.make("CartPole-v1")
    box = env.observation_space
    assert isinstance(box, gymnasium.spaces.Box)
    positions = gymnasium.spaces.Box(box.low[::2], box.high[::2], dtype=np.float32)
    return TransformObservation(env, lambda observation: observation[::2], positions)


CART_POLE = "PositionCartPole-v0"
gymnasium.register(CART_POLE, position_cart_pole)


class Setting(NamedTuple):
    """An environment, and the division of its rollouts into minibatches."""

    env_id: str
    lanes: int
    n_steps: int
    n_minibatches: int

    @property
    def rollout(self) -> int:
        """Steps of one rollout."""
        return self.lanes * self.n_steps


SETTINGS = {
    "CueChoice, minibatches of 128 steps": Setting("PlasticRNN/CueChoice-v0", 64, 24, 12),
    "CueChoice, whole rollouts": Setting("PlasticRNN/CueChoice-v0", 64, 24, 1),
    "CartPole, minibatches of 128 steps": Setting(CART_POLE, 8, 128, 8),
    "CartPole, whole rollouts": Setting(CART_POLE, 8, 128, 1),
}


def make_env(setting: Setting) -> VecEnv:
    """Make the environment of a setting."""
    return make_sb3_vec_env(setting.env_id, setting.lanes, seed=0)


def make_learners(setting: Setting) -> dict[str, BaseAlgorithm]:
    """Make a learner of each kind."""
    common: dict[str, Any] = {"n_steps": setting.n_steps, "n_epochs": 4, "seed": 0, "device": "cpu"}
    learners: dict[str, BaseAlgorithm] = {
        core: RecurrentPPO(
            "RecurrentPolicy",
            make_env(setting),
            batch_size=setting.rollout // setting.n_minibatches,
            policy_kwargs={"network": network},
            **common,
        )
        for core, network in CORES.items()
    }
    if sb3_contrib is not None:
        one_lstm = {"lstm_hidden_size": HIDDEN_SIZE, "shared_lstm": True, "enable_critic_lstm": False, "net_arch": []}
        for name, policy_kwargs in ((THEIRS, one_lstm), (THEIR_DEFAULT, {"lstm_hidden_size": HIDDEN_SIZE})):
            learners[name] = sb3_contrib.RecurrentPPO(
                "MlpLstmPolicy",
                make_env(setting),
                batch_size=setting.rollout // setting.n_minibatches,
                policy_kwargs=policy_kwargs,
                **common,
            )
    return learners


def steps_per_second(setting: Setting, rounds: int, at_least: float = 1.0) -> dict[str, float]:
    """Return the median environment steps per second over rounds, by learner."""
    learners = make_learners(setting)
    speeds: dict[str, list[float]] = {learner: [] for learner in learners}
    for round_number in range(rounds + 1):
        for learner, model in learners.items():
            steps, began = 0, time.perf_counter()
            while (seconds := time.perf_counter() - began) < at_least:
                model.learn(setting.rollout, reset_num_timesteps=False)
                steps += setting.rollout
            if round_number > 0:  # round 0 warms up
                speeds[learner].append(steps / seconds)
    return {learner: statistics.median(values) for learner, values in speeds.items()}


def peak_memory(n_steps: int) -> None:
    """Train with rollouts of ``n_steps`` steps and print the peak memory of this process, in bytes."""
    model = RecurrentPPO(
        "RecurrentPolicy",
        make_sb3_vec_env("PlasticRNN/SequenceReproduction-v0", 64, seed=0, env_kwargs={"delay": 7}),  # 47 steps
        n_steps=n_steps,
        sequence_length=24,
        batch_size=64 * 24,
        n_epochs=1,
        policy_kwargs={"network": CORES["Hebbian RNN"]},
    )
    model.learn(2 * 64 * n_steps)
    status = Path("/proc/self/status").read_text()  # on Linux, getrusage includes the peak of the parent process
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024)


def main() -> None:
    """Measure, print the results, and write them as JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--rounds", type=int, default=5, help="number of measured rounds")
    parser.add_argument("--threads", type=int, help="number of torch's threads")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        peak_memory(arguments.memory_of)
        return
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(machine.line())
    figures: dict[str, Any] = {"machine": machine.describe()}
    for name, setting in SETTINGS.items():
        figures[name] = steps_per_second(setting, arguments.rounds)
        print(f"\n{name}: environment steps/s ({torch.get_num_threads()} threads), and ratios to sb3-contrib's two")
        for learner, speed in figures[name].items():
            ratios = [
                f"{speed / figures[name][theirs]:5.1f}" for theirs in (THEIRS, THEIR_DEFAULT) if theirs in figures[name]
            ]
            print(f"  {learner:22} {speed:9.0f} {' '.join(ratios)}")
    print("\nPeak memory of training a Hebbian RNN, 64 lanes, sequences of 24 steps")
    fast_weights = 4 * 2 * HIDDEN_SIZE**2 * 64  # the two large layers, float32
    figures["memory"] = {}
    for n_steps in MEMORY_STEPS:
        command = [sys.executable, __file__, "--memory-of", str(n_steps)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        figures["memory"][n_steps] = peak
        of_every_step = fast_weights * n_steps
        print(
            f"  {n_steps:4} steps {peak / 1e6:6.0f} MB; the fast weights of every step: {of_every_step / 1e6:6.0f} MB"
        )
    if arguments.json:
        from plastic_agents import write_json

        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
