"""Returns of plastic and non-plastic policies, compared with sb3-contrib's RecurrentPPO at equal environment steps.

    python benchmarks/learning.py [--tasks NAME ...] [--learners NAME ...] [--seeds 0 1 2] [--out runs/learning]

CueChoice and CueReward use this project's recipes (plastic_agents.training.recipes). POPGym's RepeatFirstEasy (needs
popgym) and CartPole without its velocities use RecurrentPPO with the settings below and VecNormalize. sb3-contrib's
RecurrentPPO has one LSTM of the same width as this project's, and the same settings in all tasks, but no auxiliary
loss. In the tasks whose names end in "-defaults", each learner has its own defaults and one environment. In pendulum,
which needs no memory, it has its own defaults but for the settings of RL Zoo below. In these tasks the learner "sb3" is
Stable-Baselines3's PPO without memory.

A result is the mean return of held-out episodes with deterministic actions. The script writes each result to a file
under ``--out``, skips results that exist, and prints a table of all results at the end.
"""

from __future__ import annotations

import os

# Waiting threads must not occupy the CPU. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import importlib
import json
import math
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the script runs from a checkout, installed or not

import numpy as np
import torch
from actor_critic import CART_POLE
from plastic_agents import (
    REINFORCEMENT_RECIPES,
    CosineSchedule,
    RecurrentPPO,
    ReinforcementLearner,
    make_sb3_vec_env,
    write_json,
)
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from plastic_envs import make_task

THEIRS = "sb3-contrib"
WITHOUT_MEMORY = "sb3"
LEARNERS = ("hebbian", "gradient", "lstm", THEIRS, WITHOUT_MEMORY)
HELD_OUT_SEED = 1_000_003
EPISODES = 4096


@dataclass(frozen=True)
class Setting:
    """A task: steps of training, parallel environments, minibatches of a rollout, and other settings of PPO.

    ``best`` and ``memoryless`` are the mean returns of the best agent and of the best one without memory, NaN where
    they are not known. Tasks with a recipe get their other settings from the recipe. With ``own_defaults``, learners
    have their defaults except for ``settings``.
    """

    env_id: str
    best: float
    memoryless: float
    episodes: int
    steps: int = 0
    lanes: int = 0
    batch_size: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    normalised_observations: bool = False
    own_defaults: bool = False


RATE = CosineSchedule(1e-3, 5e-5)
SETTINGS = {
    "cue-choice": Setting("PlasticRNN/CueChoice-v0", best=2.03, memoryless=0.0, episodes=EPISODES),
    "cue-reward": Setting("PlasticRNN/CueReward-v0", best=-0.37, memoryless=-3.33, episodes=EPISODES),
    "repeat-first": Setting(
        "popgym-RepeatFirstEasy-v0",
        best=1.0,
        memoryless=-0.5,
        episodes=512,
        steps=600_000,
        lanes=32,
        batch_size=416,
        settings={"n_steps": 52, "gamma": 0.5, "n_epochs": 4, "learning_rate": RATE},
    ),
    "cart-pole": Setting(
        CART_POLE,
        best=500.0,
        memoryless=math.nan,
        episodes=256,
        steps=100_000,
        lanes=16,
        batch_size=512,
        settings={"n_steps": 128, "gamma": 0.98, "gae_lambda": 0.9, "n_epochs": 4, "learning_rate": RATE},
        normalised_observations=True,
    ),
    "cart-pole-defaults": Setting("CartPole-v1", 500.0, 500.0, 128, 50_000, 1, own_defaults=True),
    "cart-pole-positions-defaults": Setting(CART_POLE, 500.0, math.nan, 128, 50_000, 1, own_defaults=True),
    "pendulum": Setting(
        "Pendulum-v1",
        best=math.nan,
        memoryless=math.nan,
        episodes=128,
        steps=100_000,
        lanes=4,
        settings={"n_steps": 1024, "gamma": 0.9, "gae_lambda": 0.95, "n_epochs": 10, "learning_rate": 1e-3},
        own_defaults=True,
    ),
}
BY_RECIPE = ("cue-choice", "cue-reward")


def learns(learner: str, task: str) -> bool:
    """Return whether a learner takes part in a task: the one without memory only in those with its own defaults."""
    return learner != WITHOUT_MEMORY or SETTINGS[task].own_defaults


def make_env(env_id: str, lanes: int, seed: int) -> Any:
    """Make a vector environment for Stable-Baselines3."""
    if env_id.startswith("popgym"):
        importlib.import_module("popgym")  # registers its environments
    return make_sb3_vec_env(env_id, lanes, seed=seed)


def training_env(setting: Setting, seed: int) -> Any:
    """Make the training environment of learners without a recipe: normalise rewards, and observations if set."""
    env = make_env(setting.env_id, setting.lanes, seed)
    if setting in SETTINGS.values():
        return VecNormalize(env, norm_obs=setting.normalised_observations, gamma=setting.settings["gamma"])
    return env


def held_out_env(setting: Setting, model: BaseAlgorithm) -> Any:
    """Make the evaluation environment, with observations as in training and unscaled rewards."""
    env = make_env(setting.env_id, 64, HELD_OUT_SEED)
    normalised = model.get_vec_normalize_env()
    if normalised is None or not normalised.norm_obs:
        return env
    env = VecNormalize(env, training=False, norm_reward=False)
    env.obs_rms = normalised.obs_rms
    return env


def make_learner(setting: Setting, learner: str, seed: int) -> BaseAlgorithm:
    """Make a learner for a task without a recipe."""
    if setting.own_defaults:
        return default_learner(setting, learner, seed)
    env = training_env(setting, seed)
    common: dict[str, Any] = {"batch_size": setting.batch_size, "seed": seed, "device": "cpu", **setting.settings}
    if learner == THEIRS:
        policy_kwargs = {
            "lstm_hidden_size": REINFORCEMENT_RECIPES["cue-reward-lstm"].network.hidden_size,
            "shared_lstm": True,
            "enable_critic_lstm": False,
        }
        return contrib_ppo("MlpLstmPolicy", env, policy_kwargs=policy_kwargs, **common)
    network = REINFORCEMENT_RECIPES[f"cue-reward-{learner}"].network
    return RecurrentPPO("RecurrentPolicy", env, policy_kwargs={"network": network}, **common)


def default_learner(setting: Setting, learner: str, seed: int) -> BaseAlgorithm:
    """Make a learner with its own default settings, except for those of the task."""
    env = make_env(setting.env_id, setting.lanes, seed)
    common: dict[str, Any] = {"seed": seed, "device": "cpu", **setting.settings}
    if learner == WITHOUT_MEMORY:
        return PPO("MlpPolicy", env, **common)
    if learner == THEIRS:
        return contrib_ppo("MlpLstmPolicy", env, **common)
    return RecurrentPPO("MlpPolicy", env, policy_kwargs={"network": learner}, **common)


def contrib_ppo(*arguments: Any, **settings: Any) -> BaseAlgorithm:
    """Make sb3-contrib's RecurrentPPO; no other learner needs the library."""
    model: BaseAlgorithm = importlib.import_module("sb3_contrib").RecurrentPPO(*arguments, **settings)
    return model


def by_recipe(task: str, rule: str, seed: int, out: Path) -> tuple[BaseAlgorithm, float]:
    """Return the model that the recipe makes, and its seconds of training."""
    recipe = REINFORCEMENT_RECIPES[f"{task}-{rule}"]
    learner = ReinforcementLearner.start_or_resume(
        recipe.task,
        recipe.network,
        replace(recipe.training, seed=seed),
        run_dir=out / "runs" / f"{task}-from-reward-{rule}-seed{seed}",
    )
    learner.learn()
    return learner.model, learner.progress.seconds


def as_recipe(task: str) -> Setting:
    """Return the recipe's settings for a learner without a schedule of ``ent_coef``: the mean replaces the schedule."""
    training = REINFORCEMENT_RECIPES[f"{task}-hebbian"].training
    rate = training.learning_rate
    return replace(
        SETTINGS[task],
        steps=training.total_timesteps,
        lanes=training.n_envs,
        batch_size=training.batch_size,
        settings={
            "n_steps": training.rollout_episodes * make_task(SETTINGS[task].env_id).episode_length,
            "gamma": training.gamma,
            "gae_lambda": training.gae_lambda,
            "n_epochs": training.n_epochs,
            "learning_rate": CosineSchedule(rate, rate * training.final_learning_rate),
            "max_grad_norm": training.max_grad_norm,
            "ent_coef": training.ent_coef / 2,
        },
    )


def run(task: str, learner: str, seed: int, out: Path) -> None:
    """Train, evaluate and write the result."""
    setting = as_recipe(task) if task in BY_RECIPE else SETTINGS[task]
    if task in BY_RECIPE and learner != THEIRS:
        model, seconds = by_recipe(task, learner, seed, out)
    else:
        model = make_learner(setting, learner, seed)
        began = time.perf_counter()
        model.learn(setting.steps)
        seconds = time.perf_counter() - began
    score: Any
    score, _ = evaluate_policy(model, held_out_env(setting, model), n_eval_episodes=setting.episodes)
    parameters = sum(parameter.numel() for parameter in model.policy.parameters())
    result = {"score": float(score), "seconds": seconds, "parameters": parameters}
    write_json(result_path(out, task, learner, seed), result)
    print(f"{task}, {learner}, seed {seed}: {score:.3f}, {seconds:.0f} s, {parameters} parameters", flush=True)


def result_path(out: Path, task: str, learner: str, seed: int | str) -> Path:
    """Return the file of a result."""
    return out / "learning" / f"{task}-{learner}-{seed}.json"


def results_table(out: Path) -> Table:
    """Return a table of the results under ``out``."""
    table = Table(
        title="Mean return of held-out episodes",
        caption="mean over seeds (lowest to highest); number of seeds, seconds of training",
    )
    for column in ("task", *LEARNERS, "best", "without memory"):
        table.add_column(column)
    for task, setting in SETTINGS.items():
        cells = []
        for learner in LEARNERS:
            paths = sorted(result_path(out, task, learner, 0).parent.glob(result_path(out, task, learner, "*").name))
            results = [json.loads(path.read_text()) for path in paths]
            scores = [result["score"] for result in results]
            cells.append(
                f"{np.mean(scores):.3g} ({min(scores):.3g} to {max(scores):.3g})\n"
                f"{len(scores)}, {np.mean([result['seconds'] for result in results]):.0f} s"
                if results
                else "-"
            )
        table.add_row(task, *cells, f"{setting.best:g}", f"{setting.memoryless:g}")
    return table


def main() -> None:
    """Make the missing runs, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="tasks to learn")
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=LEARNERS, help="learners to train")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="folder for runs and results")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        help="number of torch's threads; to use two cores, start two runs with one thread each",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for seed in arguments.seeds:
        for task in arguments.tasks:
            for learner in arguments.learners:
                if learns(learner, task) and not result_path(arguments.out, task, learner, seed).exists():
                    run(task, learner, seed, arguments.out)
    Console(width=120).print(results_table(arguments.out))


if __name__ == "__main__":
    main()
