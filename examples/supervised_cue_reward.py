"""Train one plastic network by supervised learning, then probe where its memory is.

See ``python examples/supervised_cue_reward.py --help`` for the options, and ``tensorboard --logdir runs`` for the
learning curves. An interrupted run resumes from its checkpoint.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from plastic_agents import NetworkConfig, Plasticity, SupervisedConfig, SupervisedLearner, probe, report_table
from rich.console import Console


@dataclass(frozen=True)
class Arguments:
    """Train one network on CueReward.

    Attributes:
        rule: the plasticity rule of the fast weights.
        hidden_size: number of hidden units.
        steps: optimiser steps.
        seed: seed of parameters and training episodes.
        out: run folder.
    """

    rule: Literal["hebbian", "gradient", "none"] = "gradient"
    hidden_size: int = 128
    steps: int = 2500
    seed: int = 0
    out: Path = Path("runs/supervised_cue_reward")


def main(arguments: Arguments) -> None:
    """Train and probe the network."""
    learner = SupervisedLearner.start_or_resume(
        "PlasticRNN/CueReward-v0",
        NetworkConfig(arguments.rule, hidden_size=arguments.hidden_size, plasticity=Plasticity(max_norm=10.0)),
        SupervisedConfig(steps=arguments.steps, seed=arguments.seed),
        task_arguments={"n_cues": 5, "noise": 0.1},
        run_dir=arguments.out,
    )
    learner.learn()
    Console().print(report_table(probe(learner.agent, episodes=500, seed=1), title=f"CueReward, rule {arguments.rule}"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
