"""Speed of environments in stable-baselines3: `SB3VecEnv`, compared with its own vector environments in the same run.

    python benchmarks/vector_environments.py [--lanes 64] [--json FILE] [--seconds 0.3] [--rounds 5]

Rates are steps of all lanes per second, including resets. Every round measures all vector environments in turn, and the
best round of each counts. `bare` is the vector environment inside the `SB3VecEnv`: the native one for CueReward, and a
`SyncVectorEnv` for CartPole, whose native one cannot reset in the step that ends an episode. The script forks the
workers of `SubprocVecEnv`, which is the fastest start. They use all cores; the other vector environments use one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from environments import CUE_REWARD, repeat  # imported first, because it limits numpy to one core

# isort: split
import gymnasium
import machine
from gymnasium.vector.utils import batch_space
from plastic_agents import SB3VecEnv, make_sb3_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv


def vector_envs(env_id: str, lanes: int) -> dict[str, Any]:
    """Return vector environments of one id, by name."""
    single = [lambda: gymnasium.make(env_id)] * lanes
    bare, wrapped, with_step_info = (make_sb3_vec_env(env_id, lanes).unwrapped for _ in range(3))
    return {
        "bare": bare.env,
        "SB3VecEnv": wrapped,
        "SB3VecEnv(step_info=True)": SB3VecEnv(with_step_info.env, step_info=True),
        "make_sb3_vec_env": make_sb3_vec_env(env_id, lanes),
        "DummyVecEnv": DummyVecEnv(single),
        "SubprocVecEnv": SubprocVecEnv(single, start_method="fork"),
    }


def main() -> None:
    """Measure, print a table, and write JSON if requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=64, help="number of lanes")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    parser.add_argument("--seconds", type=float, default=0.3, help="duration of each measurement")
    parser.add_argument(
        "--rounds", type=int, default=5, help="measurements of each vector environment; the best counts"
    )
    options = parser.parse_args()

    print(machine.line())
    figures = []
    for env_id in (CUE_REWARD, "CartPole-v1"):
        envs = vector_envs(env_id, options.lanes)
        space = batch_space(envs["DummyVecEnv"].action_space, options.lanes)
        space.seed(0)
        actions = [space.sample() for _ in range(10)]

        def ten_steps(env: Any, actions: list[Any] = actions) -> None:
            for array in actions:
                env.step(array)

        for env in envs.values():
            env.reset()
        best = dict.fromkeys(envs, 0.0)
        for _ in range(options.rounds):
            for name, env in envs.items():
                rate = repeat(lambda env=env: ten_steps(env), 10 * options.lanes)(options.seconds)
                best[name] = max(best[name], rate)
        print(f"\n{env_id}, {options.lanes} lanes, steps/s")
        for name, rate in best.items():
            print(f"  {name:28s} {rate:12,.0f}  {100 * rate / best['bare']:4.0f} % of bare")
            figures.append({"of": env_id, "vector_env": name, "lanes": options.lanes, "rate": rate})
            envs[name].close()
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine.describe(), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
