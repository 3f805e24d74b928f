"""Speed of environment steps and of sampling batches, compared with other environments in the same run.

    python benchmarks/environments.py [--json FILE] [--seconds 0.2] [--rounds 5]

Rates include resets. Every round measures all rows in turn, and the best round of each row counts, so that other load
on the machine affects all rows alike. POPGym's rows need `pip install --no-deps popgym`; the script leaves them out
without it. It uses one core.
"""

# ruff: noqa: E402 - numpy reads the variables below when it is imported

from __future__ import annotations

import os

# Matrix products must use one core only.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import machine
import numpy as np
from gymnasium.vector import SyncVectorEnv

from plastic_envs import make_task, registered_ids
from plastic_envs.env import TaskEnv
from plastic_envs.stream import episodes_ahead
from plastic_envs.vector_env import TaskVectorEnv

# A measurement repeats its work for about the given number of seconds and returns the rate per second.
Measurement = Callable[[float], float]

CUE_REWARD = "PlasticRNN/CueReward-v0"
TARGETS = {
    ("single, steps/s", CUE_REWARD): 300_000,
    ("1024 lanes, steps/s", CUE_REWARD): 5_000_000,
    **{("batch of 64, per s", env_id): 2_000 for env_id in registered_ids()},
}


def repeat(function: Callable[[], Any], per_call: int) -> Measurement:
    """Return a measurement of `function`, each call of which counts `per_call` times."""

    def measure(seconds: float) -> float:
        calls = 0
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds:
            function()
            calls += 1
        return calls * per_call / elapsed

    return measure


def single(env: gymnasium.Env[Any, Any]) -> Measurement:
    """Measure steps of one environment, including resets."""
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(1000)]

    def thousand_steps() -> None:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()

    return repeat(thousand_steps, 1000)


def vector(envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> Measurement:
    """Measure steps of all lanes of a vector environment, including automatic resets."""
    envs.reset(seed=0)
    envs.action_space.seed(0)
    actions = [envs.action_space.sample() for _ in range(10)]

    def ten_steps() -> None:
        for action in actions:
            envs.step(action)

    return repeat(ten_steps, 10 * envs.num_envs)


def batch(env_id: str) -> Measurement:
    """Measure supervised batches of 64 episodes."""
    task, rng = make_task(env_id), np.random.default_rng(0)
    return repeat(lambda: task.sample(rng, 64), 1)


def random_numbers(env_id: str, lanes: int, *, per_batch: bool = False) -> Measurement:
    """Measure the drawing of random numbers alone: an upper bound of steps (or batches) per second."""
    task, rng = make_task(env_id), np.random.default_rng(0)
    per_call = 1 if per_batch else lanes * task.episode_length
    return repeat(lambda: (task.sample_stimuli(rng, lanes), task.sample_memoranda(rng, lanes)), per_call)


def peers() -> dict[tuple[str, str], Measurement]:
    """Return the rows of other packages' environments."""
    rows = {
        ("single, steps/s", "CartPole-v1"): single(gymnasium.make("CartPole-v1").unwrapped),
        ("64 lanes, steps/s", "CartPole-v1"): vector(gymnasium.make_vec("CartPole-v1", num_envs=64)),
        ("1024 lanes, steps/s", "CartPole-v1"): vector(gymnasium.make_vec("CartPole-v1", num_envs=1024)),
    }
    try:
        from popgym.envs.autoencode import AutoencodeEasy
        from popgym.envs.repeat_first import RepeatFirstEasy
    except ImportError as error:
        print(f"POPGym's rows are left out: {error}. Run `pip install --no-deps popgym` to include them.")
        return rows
    for make in (RepeatFirstEasy, AutoencodeEasy):
        rows["single, steps/s", f"POPGym {make.__name__}"] = single(make())
        rows["64 lanes, steps/s", f"POPGym {make.__name__} (SyncVectorEnv)"] = vector(SyncVectorEnv([make] * 64))
    return rows


def rows() -> dict[tuple[str, str], Measurement]:
    """Return all rows, by quantity and environment."""
    ours: dict[tuple[str, str], Measurement] = {}
    for env_id in registered_ids():
        ours["single, steps/s", env_id] = single(TaskEnv(env_id))
        ours["64 lanes, steps/s", env_id] = vector(TaskVectorEnv(env_id, 64, autoreset_mode="SameStep"))
        ours["1024 lanes, steps/s", env_id] = vector(TaskVectorEnv(env_id, 1024, autoreset_mode="SameStep"))
        ours["batch of 64, per s", env_id] = batch(env_id)
        # A single environment draws this many episodes at once. The unit of the last row is a batch, not a step.
        ahead = episodes_ahead(make_task(env_id), lanes=1)
        ours["random numbers of single, steps/s", env_id] = random_numbers(env_id, ahead)
        ours["random numbers of 64 lanes, steps/s", env_id] = random_numbers(env_id, 64)
        ours["random numbers of 1024 lanes, steps/s", env_id] = random_numbers(env_id, 1024)
        ours["random numbers of batch of 64, per s", env_id] = random_numbers(env_id, 64, per_batch=True)
    ours["64 lanes, steps/s", f"{CUE_REWARD} (SyncVectorEnv)"] = vector(
        SyncVectorEnv([lambda: TaskEnv(CUE_REWARD)] * 64)
    )
    return dict(sorted({**ours, **peers()}.items(), key=lambda row: row[0][0]))


def main() -> None:
    """Measure, print a table, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--seconds", type=float, default=0.2, help="duration of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each row; the best counts")
    options = parser.parse_args()

    print(machine.line())
    measurements = rows()
    best = dict.fromkeys(measurements, 0.0)
    for _ in range(options.rounds):
        for row, measure in measurements.items():
            best[row] = max(best[row], measure(options.seconds))

    last = None
    for (what, of), rate in best.items():
        if what != last:
            print(f"\n{what}")
            last = what
        notes = []
        if (what, of) in TARGETS:
            target = TARGETS[what, of]
            notes.append(f"{'reaches' if rate >= target else 'MISSES'} {target:,}")
        if what.startswith("batch"):
            notes.append(f"{1000 / rate:.3f} ms each")
        floor = best.get((f"random numbers of {what}", of))
        if floor:
            notes.append(f"{100 * rate / floor:.0f} % of the rate of the random numbers alone")
        print(f"  {of:52s} {rate:14,.0f}  {', '.join(notes)}".rstrip())
    if options.json is not None:
        figures = [{"what": what, "of": of, "rate": rate} for (what, of), rate in best.items()]
        options.json.write_text(json.dumps({"machine": machine.describe(), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
