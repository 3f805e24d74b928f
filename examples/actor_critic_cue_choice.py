"""Train a plastic policy by reinforcement learning, then probe where its memory is.

The policy has to try the cues, remember their values, and use them later in the episode. See ``python
examples/actor_critic_cue_choice.py --help`` for the options, and ``tensorboard --logdir runs`` for the learning curves.
An interrupted run resumes from its checkpoint.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro
from plastic_agents import (
    REINFORCEMENT_RECIPES,
    NetworkConfig,
    Plasticity,
    ReinforcementLearner,
    probe,
    report_table,
    write_report,
)
from rich.console import Console


@dataclass(frozen=True)
class Arguments:
    """Train a policy on CueChoice.

    Attributes:
        rule: the plasticity rule of the fast weights.
        hidden_size: number of hidden units.
        timesteps: steps of all environments together.
        n_envs: number of parallel environments.
        episodes: number of held-out episodes of the probe.
        seed: seed of parameters, episodes and actions.
        out: run folder.
    """

    rule: Literal["hebbian", "gradient", "none"] = "hebbian"
    hidden_size: int = 128
    timesteps: int = 2_000_000
    n_envs: int = 64
    episodes: int = 1000
    seed: int = 0
    out: Path = Path("runs/actor_critic_cue_choice")


def main(arguments: Arguments) -> None:
    """Train and probe the policy."""
    learner = ReinforcementLearner.start_or_resume(
        "PlasticRNN/CueChoice-v0",
        NetworkConfig(arguments.rule, hidden_size=arguments.hidden_size, plasticity=Plasticity(max_norm=10.0)),
        replace(
            REINFORCEMENT_RECIPES["cue-choice-hebbian"].training,
            total_timesteps=arguments.timesteps,
            n_envs=arguments.n_envs,
            evaluation_episodes=min(arguments.episodes, 500),
            seed=arguments.seed,
        ),
        run_dir=arguments.out,
    )
    learner.learn()
    # The probe intervenes half-way through the episode; the later rewards depend on what the policy still remembers.
    report = probe(learner.evaluation_agent, episodes=arguments.episodes, seed=1)
    write_report(arguments.out, {arguments.rule: report}, title="CueChoice, reinforcement learning")
    Console().print(report_table(report, title=f"CueChoice, reinforcement learning, rule {arguments.rule}"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
