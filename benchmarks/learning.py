"""Policies in environments of other projects, with the same search for each learner.

    python benchmarks/learning.py [--tasks NAME ...] [--learners NAME ...] [--seeds 0 1 2] [--out FOLDER]

The environments are four of POPGym (Easy), CartPole without velocities, Pendulum, and two of NeuroGym; docs/evidence
says how to install the libraries. In a task, all learners have the same settings but for the learning rate. Each one
tries four rates for half of the steps, and has the rate with the best mean return on validation episodes in its final
runs. sb3-contrib's RecurrentPPO has an LSTM of the same width as ours, for actor and critic. The tasks whose names end
in "-defaults" have no search: each learner has its own defaults and one environment, and "sb3" is Stable-Baselines3's
PPO, without memory.

The script writes a file for each task and learner after each run, and skips the runs that it has.
docs/generate_learning.py makes the page of the results.
"""

from __future__ import annotations

import os

# The times are those of one core.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the script runs from a checkout, installed or not

import gymnasium as gym
import machine
import numpy as np
from actor_critic import CART_POLE
from plastic_agents import CosineSchedule, RecurrentPPO, make_sb3_vec_env, write_json
from plastic_agents.sweep.studies import METHODS
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.envs import IdentityEnv, IdentityEnvBox
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

THEIRS = "sb3-contrib"
WITHOUT_MEMORY = "sb3"
LEARNERS = ("hebbian", "gradient", "lstm", THEIRS)
RATES = (3e-4, 1e-3, 3e-3, 1e-2)
SEARCH_SEED = 100
VALIDATION_SEED, TEST_SEED = 2_000_003, 1_000_003
POINTS = 20


def popgym(name: str) -> gym.Env[Any, Any]:
    """Make an environment of POPGym, whose Tuple observations are flattened."""
    importlib.import_module("popgym")  # registers its environments
    env = gym.make(f"popgym-{name}-v0")
    return gym.wrappers.FlattenObservation(env) if isinstance(env.observation_space, gym.spaces.Tuple) else env


def neurogym(name: str) -> gym.Env[Any, Any]:
    """Make an environment of NeuroGym with steps of 100 ms, whose trials follow each other for 128 steps."""
    return gym.wrappers.TimeLimit(importlib.import_module("neurogym").make(f"{name}-v0", dt=100), 128)


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        env: id of an environment, or a function that makes one.
        steps: steps of training in all environments together.
        lanes: number of environments.
        episodes: number of validation or test episodes.
        settings: settings of all learners; with ``own_defaults``, other settings are a learner's defaults.
        normalised_observations: whether `VecNormalize` normalises observations, besides rewards.
        own_defaults: whether learners have their default settings and no search.
        learners: names of its learners.
    """

    env: str | Callable[[], gym.Env[Any, Any]]
    steps: int
    lanes: int
    episodes: int
    settings: dict[str, Any] = field(default_factory=dict)
    normalised_observations: bool = False
    own_defaults: bool = False
    learners: tuple[str, ...] = LEARNERS


def with_defaults(env: str | Callable[[], gym.Env[Any, Any]], steps: int) -> Task:
    """Make a task in which all kinds of networks and other libraries' learners have their default settings."""
    learners = ("hebbian", "gradient", "rnn", "gru", "lstm", THEIRS, WITHOUT_MEMORY)
    return Task(env, steps, 1, 128, own_defaults=True, learners=learners)


_IMMEDIATE = {"batch_size": 416, "n_epochs": 4, "gamma": 0.5, "gae_lambda": 0.95, "ent_coef": 0.01}
_TRIALS = {"batch_size": 512, "n_epochs": 4, "gamma": 0.9, "gae_lambda": 0.95, "ent_coef": 0.01, "n_steps": 128}
TASKS = {
    "RepeatFirstEasy": Task(partial(popgym, "RepeatFirstEasy"), 500_000, 32, 512, {**_IMMEDIATE, "n_steps": 51}),
    "RepeatPreviousEasy": Task(partial(popgym, "RepeatPreviousEasy"), 100_000, 32, 512, {**_IMMEDIATE, "n_steps": 51}),
    "AutoencodeEasy": Task(partial(popgym, "AutoencodeEasy"), 100_000, 32, 512, {**_IMMEDIATE, "n_steps": 103}),
    "HigherLowerEasy": Task(partial(popgym, "HigherLowerEasy"), 100_000, 32, 512, {**_IMMEDIATE, "n_steps": 51}),
    "PositionCartPole": Task(
        CART_POLE,
        100_000,
        16,
        256,
        {"batch_size": 512, "n_epochs": 4, "gamma": 0.98, "gae_lambda": 0.9, "n_steps": 128},
        normalised_observations=True,
    ),
    # The settings of RL Zoo, except for its exploration by the state.
    "Pendulum": Task(
        "Pendulum-v1",
        100_000,
        4,
        256,
        {"batch_size": 128, "n_epochs": 10, "gamma": 0.9, "gae_lambda": 0.95, "n_steps": 1024},
        learners=(*LEARNERS, WITHOUT_MEMORY),
    ),
    "PerceptualDecisionMaking": Task(partial(neurogym, "PerceptualDecisionMaking"), 100_000, 16, 256, _TRIALS),
    "DelayMatchSample": Task(partial(neurogym, "DelayMatchSample"), 100_000, 16, 256, _TRIALS),
    "Identity-defaults": with_defaults(partial(IdentityEnv, 4), 10_000),
    "IdentityBox-defaults": with_defaults(partial(IdentityEnvBox, eps=0.5), 10_000),
    "CartPole-defaults": with_defaults("CartPole-v1", 50_000),
    "PositionCartPole-defaults": with_defaults(CART_POLE, 50_000),
}


def training_env(task: Task, seed: int) -> Any:
    """Make the environments of training."""
    env = make_sb3_vec_env(task.env, task.lanes, seed=seed)
    if task.own_defaults:
        return env
    return VecNormalize(env, norm_obs=task.normalised_observations, gamma=task.settings["gamma"])


def evaluate(task: Task, model: BaseAlgorithm, seed: int) -> float:
    """Return the mean return of new episodes, with observations as in training and rewards as they are."""
    env = make_sb3_vec_env(task.env, 64, seed=seed)
    normalised = model.get_vec_normalize_env()
    if normalised is not None and normalised.norm_obs:
        env = VecNormalize(env, training=False, norm_reward=False)
        env.obs_rms = normalised.obs_rms
    score: Any = evaluate_policy(model, env, n_eval_episodes=task.episodes)[0]
    return float(score)


def make_model(task: Task, learner: str, rate: float | None, seed: int) -> BaseAlgorithm:
    """Make a learner with a learning rate, which falls to a twentieth, or with its own one if ``rate`` is None."""
    env, settings = training_env(task, seed), {"seed": seed, "device": "cpu", **task.settings}
    if rate is not None:
        settings["learning_rate"] = CosineSchedule(rate, rate / 20)
    if learner == WITHOUT_MEMORY:
        return PPO("MlpPolicy", env, **settings)
    if learner == THEIRS:
        kwargs = {
            "lstm_hidden_size": METHODS["lstm"].network.hidden_size,
            "shared_lstm": True,
            "enable_critic_lstm": False,
        }
        policy_kwargs = None if task.own_defaults else kwargs
        # No other learner needs the library.
        model: BaseAlgorithm = importlib.import_module("sb3_contrib").RecurrentPPO(
            "MlpLstmPolicy", env, policy_kwargs=policy_kwargs, **settings
        )
        return model
    network = learner if task.own_defaults else METHODS[learner].network
    return RecurrentPPO("MlpPolicy", env, policy_kwargs={"network": network}, **settings)


class Recorder(BaseCallback):
    """Records the return and the end of each training episode, in steps of all environments."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[int] = []
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        episodes = [info["episode"] for info in self.locals["infos"] if "episode" in info]
        self.ends += [self.num_timesteps] * len(episodes)
        self.returns += [float(episode["r"]) for episode in episodes]
        return True

    def curve(self, steps: int) -> dict[str, list[Any]]:
        """Return the mean return of the episodes that end in each of equal parts of the steps; None without one."""
        edges = np.linspace(0, steps, POINTS + 1)[1:]
        part = np.searchsorted(edges, self.ends)
        returns = [np.array(self.returns)[part == index] for index in range(POINTS)]
        return {
            "steps": edges.astype(int).tolist(),
            "returns": [float(some.mean()) if some.size else None for some in returns],
        }


def train(task: Task, learner: str, rate: float | None, steps: int, seed: int, test_seed: int) -> dict[str, Any]:
    """Train a learner and return what it reached."""
    model, recorder = make_model(task, learner, rate, seed), Recorder()
    start = time.process_time()
    model.learn(steps, callback=recorder)
    seconds = time.process_time() - start
    return {
        "seed": seed,
        "learning_rate": rate,
        "total_timesteps": steps,
        "score": evaluate(task, model, test_seed),
        "processor_seconds": round(seconds, 1),
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
        **recorder.curve(steps),
    }


def best_rate(search: Sequence[dict[str, Any]]) -> float:
    """Return the learning rate of the run of a search with the best score."""
    rate: float = max(search, key=lambda result: result["score"])["learning_rate"]
    return rate


def run(name: str, learner: str, seeds: Sequence[int], path: Path) -> None:
    """Make the runs that the file of a task and a learner lacks."""
    task = TASKS[name]
    content: dict[str, Any] = (
        json.loads(path.read_text())
        if path.exists()
        else {
            "task": name,
            "learner": learner,
            "settings": task.settings,
            "lanes": task.lanes,
            "episodes": task.episodes,
            "processor": machine.describe()["CPU"],
            "search": [],
            "finals": [],
        }
    )

    def add(part: str, *arguments: Any) -> None:
        content[part].append(train(task, learner, *arguments))
        write_json(path, content)
        result = content[part][-1]
        text = (f"{key} {result[key]}" for key in ("seed", "learning_rate", "score", "processor_seconds"))
        print(f"{name}, {learner}, {part}: {', '.join(text)}", flush=True)

    if not task.own_defaults:
        for rate in RATES[len(content["search"]) :]:
            add("search", rate, task.steps // 2, SEARCH_SEED, VALIDATION_SEED)
    rate = None if task.own_defaults else best_rate(content["search"])
    content["finals"] = [result for result in content["finals"] if result["learning_rate"] == rate]
    for seed in seeds:
        if seed not in [result["seed"] for result in content["finals"]]:
            add("finals", rate, task.steps, seed, TEST_SEED)


def main() -> None:
    """Make the missing runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="tasks to learn")
    learners = list(dict.fromkeys(learner for task in TASKS.values() for learner in task.learners))
    parser.add_argument("--learners", nargs="+", choices=learners, default=learners, help="learners to train")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="training seeds of the final runs")
    parser.add_argument("--out", type=Path, default=Path("docs/evidence/learning"), help="folder of the files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for task in arguments.tasks:
        for learner in TASKS[task].learners:
            if learner in arguments.learners:
                run(task, learner, arguments.seeds, arguments.out / f"{task}-{learner}.json")


if __name__ == "__main__":
    main()
