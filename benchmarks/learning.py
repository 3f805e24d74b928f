"""What policies learn from reward alone, plastic and not, beside sb3-contrib's RecurrentPPO at equal environment steps.

    python benchmarks/learning.py [--tasks NAME ...] [--learners NAME ...] [--seeds 0 1 2] [--out runs/learning]

Tasks: CueChoice and CueReward from reward alone, POPGym's RepeatFirstEasy (needs popgym), and CartPole without its
velocities. Learners: RNNs with 128 plastic units, and an LSTM with about as many parameters, all by this project's
RecurrentPPO with the settings below; sb3-contrib's RecurrentPPO with an LSTM as wide as ours, at its own settings but
for learning rate, discount, rollout and environments, which are as ours (it has no auxiliary loss).

A run's score is the mean return of held-out episodes played greedily. Each is kept in a file of its own under ``--out``
and not made again; at the end there is a table of all that are there: means and ranges over seeds.
"""

from __future__ import annotations

import os

# Threads that wait would otherwise keep the processor from those that work. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import importlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout, installed or not

import gymnasium
import numpy as np
import torch
from actor_critic import position_cart_pole
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

from agents import CosineSchedule, NetworkConfig, Plasticity, RecurrentPPO, make_sb3_vec_env, write_json

THEIRS = "sb3-contrib LSTM"
HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class Setting:
    """A task, how long it is trained, and the settings of this project's PPO.

    ``shared`` are those that sb3-contrib's gets too; ``best`` and ``without`` are the mean returns of the best player
    and of the best one without memory.
    """

    env_id: str
    steps: int
    lanes: int
    best: float
    without: float
    shared: dict[str, Any]
    ours: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)


def linear_to_zero(first: float) -> Any:
    """A schedule."""
    return lambda progress_remaining: first * progress_remaining


SETTINGS = {
    "cue-choice": Setting(
        "PlasticRNN/CueChoice-v0",
        steps=2_000_000,
        lanes=64,
        best=2.02,
        without=0.0,
        shared={"n_steps": 24, "gamma": 0.9, "learning_rate": CosineSchedule(3e-3, 1.5e-4)},
        ours={"n_epochs": 1, "max_grad_norm": 5.0, "ent_coef": linear_to_zero(0.1), "reward_prediction_coef": 10.0},
    ),
    "cue-reward": Setting(
        "PlasticRNN/CueReward-v0",
        steps=2_000_000,
        lanes=64,
        best=-0.37,
        without=-3.33,
        shared={"n_steps": 20, "gamma": 0.0, "learning_rate": CosineSchedule(3e-3, 1.5e-4)},
        ours={"n_epochs": 1, "max_grad_norm": 5.0},
        policy={"log_std_init": -1.0},
    ),
    "repeat-first": Setting(
        "popgym-RepeatFirstEasy-v0",
        steps=1_000_000,
        lanes=32,
        best=1.0,
        without=-0.5,
        shared={"n_steps": 52, "gamma": 0.99, "learning_rate": CosineSchedule(1e-3, 5e-5)},
        ours={"n_epochs": 2, "max_grad_norm": 5.0},
    ),
    "cart-pole": Setting(
        "PositionCartPole-v0",
        steps=500_000,
        lanes=16,
        best=500.0,
        without=float("nan"),
        shared={"n_steps": 128, "gamma": 0.99, "learning_rate": CosineSchedule(1e-3, 5e-5)},
        ours={"n_epochs": 4, "n_minibatches": 2},
    ),
}
STRONG = Plasticity(max_norm=10.0)
NETWORKS = {
    "hebbian": NetworkConfig("hebbian", plasticity=STRONG),
    "gradient": NetworkConfig("gradient", plasticity=STRONG),
    # About as many parameters: slow weights and coefficients there, four gates here.
    "LSTM": NetworkConfig("none", "lstm", hidden_size=92),
}


def make_env(setting: Setting, lanes: int, seed: int) -> Any:
    """For Stable-Baselines3."""
    if setting.env_id.startswith("popgym"):
        importlib.import_module("popgym")  # registers its environments
    if setting.env_id.startswith("Position") and setting.env_id not in gymnasium.registry:
        gymnasium.register(setting.env_id, position_cart_pole)
    return make_sb3_vec_env(setting.env_id, lanes, seed=seed)


def make_learner(setting: Setting, learner: str, seed: int) -> BaseAlgorithm:
    """A fresh one."""
    env = make_env(setting, setting.lanes, seed)
    if learner == THEIRS:
        import sb3_contrib

        lstm = {"lstm_hidden_size": NETWORKS["LSTM"].hidden_size}
        return sb3_contrib.RecurrentPPO(
            "MlpLstmPolicy",
            env,
            batch_size=setting.lanes * setting.shared["n_steps"] // 4,
            policy_kwargs={**lstm, **setting.policy},
            seed=seed,
            device="cpu",
            **setting.shared,
        )
    return RecurrentPPO(
        "RecurrentPolicy",
        env,
        policy_kwargs={"network": NETWORKS[learner], **setting.policy},
        seed=seed,
        device="cpu",
        **setting.shared,
        **setting.ours,
    )


class Curve(BaseCallback):
    """Evaluates a few times on the way; the last time on more episodes, for the result."""

    def __init__(self, name: str, setting: Setting, points: int = 5) -> None:
        super().__init__()
        self.name, self.setting, self.points = name, setting, points
        self.scores: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # The update that follows a rollout is not yet made; of hundreds, one matters little.
        if self.num_timesteps >= self.setting.steps * (len(self.scores) + 1) / self.points:
            self.evaluate(1024)

    def evaluate(self, episodes: int) -> None:
        """Play held-out episodes greedily."""
        score, _ = evaluate_policy(self.model, make_env(self.setting, 64, HELD_OUT_SEED), n_eval_episodes=episodes)
        self.scores.append((self.num_timesteps, float(score)))
        print(f"{self.name}: {score:.3f} after {self.num_timesteps} steps", flush=True)


def run(task: str, learner: str, seed: int, path: Path) -> None:
    """Train, evaluate and write the result."""
    setting = SETTINGS[task]
    model = make_learner(setting, learner, seed)
    curve = Curve(f"{task}, {learner}, seed {seed}", setting)
    began = time.perf_counter()
    model.learn(setting.steps, callback=curve)
    seconds = time.perf_counter() - began
    curve.evaluate(4096)
    parameters = sum(parameter.numel() for parameter in model.policy.parameters())
    write_json(
        path, {"score": curve.scores[-1][1], "curve": curve.scores, "seconds": seconds, "parameters": parameters}
    )


def results_table(out: Path, tasks: list[str], learners: list[str]) -> Table:
    """What there is under ``out``."""
    table = Table(
        title="Mean return of held-out episodes",
        caption="mean over seeds [lowest, highest]; seconds of training in one run",
    )
    for column in ("task, steps", *learners, "best", "without memory"):
        table.add_column(column)
    for task in tasks:
        setting, cells = SETTINGS[task], []
        for learner in learners:
            found = [json.loads(path.read_text()) for path in sorted(out.glob(f"{task}-{learner}-*.json"))]
            scores = [result["score"] for result in found]
            cells.append(
                f"{np.mean(scores):.3g} [{min(scores):.3g}, {max(scores):.3g}]\n"
                f"{len(scores)} seeds, {np.mean([result['seconds'] for result in found]):.0f} s"
                if found
                else "-"
            )
        table.add_row(f"{task}\n{setting.steps:,}", *cells, f"{setting.best:g}", f"{setting.without:g}")
    return table


def main() -> None:
    """Make the runs that are not there, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--learners", nargs="+", choices=[*NETWORKS, THEIRS], default=[*NETWORKS, THEIRS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument(
        "--threads", type=int, default=1, help="torch's threads: two runs side by side use two cores best"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        for task in arguments.tasks:
            for learner in arguments.learners:
                path = arguments.out / f"{task}-{learner}-{seed}.json"
                if not path.exists():
                    run(task, learner, seed, path)
    Console().print(results_table(arguments.out, arguments.tasks, arguments.learners))


if __name__ == "__main__":
    main()
