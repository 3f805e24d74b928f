"""Learning curves of the scripts for other libraries, for the pages in docs/integrations.

    python benchmarks/libraries.py NAME [--seed 0] [--out docs/integrations/curves]

Each name of `RUNS` stands for a script of examples/integrations with options. The benchmark runs it in this process,
records the return of each training episode from the environment itself, in the same way for all libraries, and writes
NAME-SEED.json. RLlib and Tianshou need a Python of their own (see docs/integrations/README.md).
docs/generate_integrations.py makes the figures and the table from the files.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# The times are those of one core.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the script runs from a checkout, installed or not

import machine
import numpy as np
from plastic_agents import write_json

from plastic_envs import TaskEnv, TaskVectorEnv

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "examples" / "integrations"
POINTS = 50


@dataclass(frozen=True)
class Run:
    """A script with options, the library that it is for, and the steps of its training in all environments together."""

    script: str
    library: str
    steps: int
    network: str
    options: tuple[str, ...] = ()


RUNS = {
    "sb3": Run("sb3_ppo", "stable-baselines3", 500_736, "history"),
    "sb3-contrib": Run("sb3_contrib_recurrent_ppo", "sb3-contrib", 150_528, "LSTM"),
    "skrl": Run("skrl_ppo", "skrl", 153_600, "GRU"),
    "tianshou": Run("tianshou_ppo", "tianshou", 500_736, "history"),
    "torchrl": Run("torchrl_lstm_ppo", "torchrl", 153_600, "LSTM"),
    "torchrl-hebbian": Run("torchrl_plastic_ppo", "torchrl", 153_600, "Hebbian"),
    "cleanrl": Run("cleanrl_ppo", "torch", 153_600, "LSTM"),
    "rllib": Run("rllib_ppo", "ray", 76_800, "LSTM"),
    "rllib-hebbian": Run("rllib_ppo", "ray", 76_800, "Hebbian", ("--module", "hebbian")),
}


class Recorder:
    """Records the steps and returns of all environments of this process.

    Attributes:
        ends: number of steps so far at the end of each episode.
        returns: return of each episode.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.ends: list[int] = []
        self.returns: list[float] = []

    def watch(self, environment_class: Any) -> None:
        """Replace ``step`` and ``reset`` of a class of environments by methods that record."""
        step, reset = environment_class.step, environment_class.reset

        def recording_step(env: Any, action: Any) -> Any:
            result = step(env, action)
            rewards, terminated, truncated = (np.atleast_1d(part) for part in result[1:4])
            self.steps += len(rewards)
            env.recorded_return = getattr(env, "recorded_return", 0.0) + rewards
            ended = terminated | truncated
            self.ends += [self.steps] * int(ended.sum())
            self.returns += env.recorded_return[ended].tolist()
            env.recorded_return = np.where(ended, 0.0, env.recorded_return)
            return result

        def recording_reset(env: Any, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            if "reset_mask" not in (options or {}):
                env.recorded_return = 0.0
            return reset(env, seed=seed, options=options)

        environment_class.step, environment_class.reset = recording_step, recording_reset

    def curve(self, steps: int, points: int = POINTS) -> dict[str, list[Any]]:
        """Return the mean return of the episodes that end in each of equal parts of the first ``steps`` steps."""
        ends, returns = np.array(self.ends), np.array(self.returns)
        edges = np.linspace(0, steps, points + 1)
        part = np.searchsorted(edges[1:], ends)
        means = [float(returns[part == index].mean()) for index in range(points)]
        return {"steps": edges[1:].astype(int).tolist(), "returns": means}


def main() -> None:
    """Run a script and write its curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RUNS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "integrations" / "curves")
    arguments = parser.parse_args()
    run = RUNS[arguments.name]
    recorder = Recorder()
    for environment_class in (TaskEnv, TaskVectorEnv):
        recorder.watch(environment_class)
    sys.path.insert(0, str(SCRIPTS))  # as for a script that is run by its path
    sys.argv = [f"{run.script}.py", *run.options, "--seed", str(arguments.seed)]
    start = time.process_time()
    runpy.run_path(str(SCRIPTS / f"{run.script}.py"), run_name="__main__")
    content = {
        "script": f"{run.script}.py",
        "options": " ".join(run.options),
        "network": run.network,
        "library": f"{run.library} {version(run.library)}",
        "seed": arguments.seed,
        "processor_minutes": round((time.process_time() - start) / 60, 2),
        "processor": machine.describe()["CPU"],
        **recorder.curve(run.steps),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out / f"{arguments.name}-{arguments.seed}.json", content)


if __name__ == "__main__":
    main()
