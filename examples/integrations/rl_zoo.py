"""The commands of RL Zoo, with this project's recurrent PPO and A2C as further algorithms."""

import runpy
import sys

from plastic_agents import RecurrentA2C, RecurrentPPO
from rl_zoo3 import ALGOS

import plastic_envs  # noqa: F401 - registers the environments

ALGOS["plastic_ppo"] = RecurrentPPO
ALGOS["plastic_a2c"] = RecurrentA2C


def main() -> None:
    """Run a command of RL Zoo, such as `train` or `enjoy`, with the rest of the arguments."""
    if len(sys.argv) < 2:
        sys.exit("usage: rl_zoo.py {train,enjoy,...} [the arguments of python -m rl_zoo3.train and others]")
    runpy.run_module(f"rl_zoo3.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
