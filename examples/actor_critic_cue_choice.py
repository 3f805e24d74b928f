"""Train a plastic policy from reward alone, then show by intervening where it keeps what it found out.

Nobody tells the policy which cues are good: it has to try them, remember what came of it, and use that later in the
episode. ``python examples/actor_critic_cue_choice.py --help`` shows what can be changed; watch with ``tensorboard
--logdir runs``. A run that was interrupted goes on where it was.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from plastic_agents import (
    NetworkConfig,
    Plasticity,
    ReinforcementConfig,
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
        rule: how its fast weights change.
        hidden_size: number of hidden units.
        timesteps: steps of all environments together.
        n_envs: how many are played at the same time.
        episodes: how many held-out episodes are played at the end.
        seed: of parameters, episodes and actions.
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
    """Train and probe."""
    learner = ReinforcementLearner.start_or_resume(
        "PlasticRNN/CueChoice-v0",
        NetworkConfig(arguments.rule, hidden_size=arguments.hidden_size, plasticity=Plasticity(max_norm=10.0)),
        ReinforcementConfig(
            total_timesteps=arguments.timesteps,
            n_envs=arguments.n_envs,
            evaluation_episodes=min(arguments.episodes, 500),
            reward_prediction_coef=10.0,
            seed=arguments.seed,
        ),
        run_dir=arguments.out,
    )
    learner.learn()
    # Half-way through the episode the policy is interrupted; what it earns from there on shows what it had remembered.
    report = probe(learner.evaluation_agent, episodes=arguments.episodes, seed=1)
    write_report(arguments.out, {arguments.rule: report}, title="CueChoice, from reward alone")
    Console().print(report_table(report, title=f"CueChoice from reward alone, rule {arguments.rule}"))


if __name__ == "__main__":
    main(tyro.cli(Arguments))
