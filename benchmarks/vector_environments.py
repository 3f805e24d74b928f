"""How fast stable-baselines3 can step environments: through `SB3VecEnv`, beside its own ways in the same run.

    python benchmarks/vector_environments.py [--lanes 64] [--json FILE] [--seconds 0.3] [--rounds 5]

Steps of all lanes a second, resets included; measured in turn, several rounds of them, and each way's best round
counts. `bare` is the vector environment inside the `SB3VecEnv`: CueReward's own, and a `SyncVectorEnv` for CartPole,
whose own vector form cannot reset in the step that ends an episode. `SubprocVecEnv`'s workers are forked, its quickest
start, and take what cores there are; the others use one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from environments import CUE_REWARD, repeat  # first: it keeps numpy on one core

# isort: split
import gymnasium
import machine
from gymnasium.vector.utils import batch_space
from plastic_agents import SB3VecEnv, make_sb3_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv


def ways(env_id: str, lanes: int) -> dict[str, Any]:
    """Return the environments of one id, by the way they are stepped."""
    single = [lambda: gymnasium.make(env_id)] * lanes
    bare, inside, told = (make_sb3_vec_env(env_id, lanes).unwrapped for _ in range(3))
    return {
        "bare": bare.env,
        "SB3VecEnv": inside,
        "SB3VecEnv(step_info=True)": SB3VecEnv(told.env, step_info=True),
        "make_sb3_vec_env": make_sb3_vec_env(env_id, lanes),
        "DummyVecEnv": DummyVecEnv(single),
        "SubprocVecEnv": SubprocVecEnv(single, start_method="fork"),
    }


def main() -> None:
    """Measure, print a table and, where asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lanes", type=int, default=64, help="number of lanes")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--seconds", type=float, default=0.3, help="time of each measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each way, of which the best counts")
    options = parser.parse_args()

    print(machine.line())
    figures = []
    for env_id in (CUE_REWARD, "CartPole-v1"):
        envs = ways(env_id, options.lanes)
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
            for way, env in envs.items():
                rate = repeat(lambda env=env: ten_steps(env), 10 * options.lanes)(options.seconds)
                best[way] = max(best[way], rate)
        print(f"\n{env_id}, {options.lanes} lanes, steps/s")
        for way, rate in best.items():
            print(f"  {way:28s} {rate:12,.0f}  {100 * rate / best['bare']:4.0f} % of bare")
            figures.append({"of": env_id, "way": way, "lanes": options.lanes, "rate": rate})
            envs[way].close()
    if options.json is not None:
        options.json.write_text(json.dumps({"machine": machine.describe(), "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
