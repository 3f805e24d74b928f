"""How fast recurrent policies train, beside sb3-contrib's RecurrentPPO, and how much memory their rollouts take.

    python benchmarks/actor_critic.py [--json FILE] [--rounds 5] [--threads N]

Speed: environment steps a second of `learn`, rollouts and updates together, four epochs: on CueChoice (64 lanes, 24
steps a rollout) in minibatches of 128 steps, sb3-contrib's default, and of whole rollouts; and on CartPole-v1 without
its velocities, whose episodes end anywhere (8 lanes, 128 steps). sb3-contrib plays the same environments with LSTMs as
wide: with one for actor and critic, as ours has, and with its default, one for each and two layers behind. All
are measured in turn, round after round, and medians compared. Its rows are left out where it is not installed.

Memory: peak of a process of its own that trains a Hebbian RNN with 128 units on 64 lanes, by the length of the rollout,
with sequences of 24 steps; beside it what the fast weights of every step would take.
"""

from __future__ import annotations

import os

# Threads that wait would otherwise keep the processor from those that work. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout, installed or not

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
    """CartPole that shows positions without velocities; at most 500 steps."""
    env = gymnasium.make("CartPole-v1")
    box = env.observation_space
    assert isinstance(box, gymnasium.spaces.Box)
    seen = gymnasium.spaces.Box(box.low[::2], box.high[::2], dtype=np.float32)
    return TransformObservation(env, lambda observation: observation[::2], seen)


CART_POLE = "PositionCartPole-v0"
gymnasium.register(CART_POLE, position_cart_pole)


class Setting(NamedTuple):
    """Environments, and how their rollouts are taken apart."""

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
    "CartPole, whole rollouts": Setting(CART_POLE, 8, 128, 1),
}


def make_env(setting: Setting) -> VecEnv:
    """Make the environment of a setting."""
    return make_sb3_vec_env(setting.env_id, setting.lanes, seed=0)


def make_learners(setting: Setting) -> dict[str, BaseAlgorithm]:
    """One learner of each kind."""
    common: dict[str, Any] = {"n_steps": setting.n_steps, "n_epochs": 4, "seed": 0, "device": "cpu"}
    learners: dict[str, BaseAlgorithm] = {
        core: RecurrentPPO(
            "RecurrentPolicy",
            make_env(setting),
            n_minibatches=setting.n_minibatches,
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
    """Return the median over rounds, by learner."""
    learners = make_learners(setting)
    speeds: dict[str, list[float]] = {learner: [] for learner in learners}
    for counted in range(-1, rounds):
        for learner, model in learners.items():
            steps, began = 0, time.perf_counter()
            while (seconds := time.perf_counter() - began) < at_least:
                model.learn(setting.rollout, reset_num_timesteps=False)
                steps += setting.rollout
            if counted >= 0:
                speeds[learner].append(steps / seconds)
    return {learner: statistics.median(found) for learner, found in speeds.items()}


def peak_memory(n_steps: int) -> None:
    """Print the peak of this process, in bytes, once it has trained with rollouts of this length."""
    model = RecurrentPPO(
        "RecurrentPolicy",
        make_sb3_vec_env("PlasticRNN/SequenceReproduction-v0", 64, seed=0, env_arguments={"delay": 7}),  # 47 steps
        n_steps=n_steps,
        sequence_length=24,
        n_minibatches=n_steps // 24,
        n_epochs=1,
        policy_kwargs={"network": CORES["Hebbian RNN"]},
    )
    model.learn(2 * 64 * n_steps)
    status = Path("/proc/self/status").read_text()  # Linux: getrusage would begin with the parent's peak
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch's threads")
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
        print(f"\n{name}: environment steps a second ({torch.get_num_threads()} threads; times sb3-contrib's two)")
        for learner, speed in figures[name].items():
            beside = [
                f"{speed / figures[name][theirs]:5.1f}" for theirs in (THEIRS, THEIR_DEFAULT) if theirs in figures[name]
            ]
            print(f"  {learner:22} {speed:9.0f} {' '.join(beside)}")
    print("\nPeak memory of a Hebbian RNN's training, 64 lanes, sequences of 24 steps")
    fast_weights = 4 * 2 * HIDDEN_SIZE**2 * 64  # the two large layers, float32
    figures["memory"] = {}
    for n_steps in MEMORY_STEPS:
        command = [sys.executable, __file__, "--memory-of", str(n_steps)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        figures["memory"][n_steps] = peak
        every = fast_weights * n_steps
        print(f"  {n_steps:4} steps {peak / 1e6:6.0f} MB; every step's fast weights: {every / 1e6:6.0f} MB")
    if arguments.json:
        from plastic_agents import write_json

        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
