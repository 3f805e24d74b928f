"""Give a network the fast weights of the episode's twin, so that it gives the twin's answers.

The twin of an episode has the same cues in the same order, with other rewards. Before the first query, the script
replaces the network's fast weights, and nothing else, by those after the twin's cues. By default it takes a trained
network of the package. ``python examples/fast_weight_transplant.py runs/demo/gradient`` takes one of ``make demo``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from gymnasium import spaces
from plastic_agents import held_out_rng, probe, report_table
from plastic_agents.cli.commands.models import load_agent
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Arguments:
    """Transplant fast weights between twins.

    Attributes:
        model: run folder or checkpoint of a network with fast weights, on a task with Box actions, or the name of such
            a network of plastic-rnn models.
        episodes: number of pairs of twins for the table.
        seed: seed of the episodes.
    """

    model: tyro.conf.Positional[Path] = Path("cue-reward-gradient")
    episodes: int = 500
    seed: int = 1


def main(arguments: Arguments) -> None:
    """Print the answers for one pair of twins step by step, then the errors over many pairs."""
    agent = load_agent(arguments.model, "cpu", "test")
    task = agent.task
    if not isinstance(task.action_space, spaces.Box):
        raise ValueError(f"model must be on a task with Box actions, got {arguments.model} on {task!r}")
    if agent.core.initial_state(1).fast is None:
        raise ValueError(
            f"model must have fast weights, got {arguments.model}, a {type(agent.core).__name__} without any"
        )
    own, twin = task.sample_yoked(held_out_rng(arguments.seed), 1)

    donor = agent.state_before(twin, task.query_start)
    intact, _ = agent.play(own)
    # The hook keeps the hidden state and exchanges the fast weights.
    transplanted, _ = agent.play(own, hooks={task.query_start: lambda state: state._replace(fast=donor.fast)})

    table = Table(title="One pair of twins: the network's answers at queries")
    for column in ("step", "own target", "intact", "with the twin's fast weights", "twin's target"):
        table.add_column(column, justify="right")
    for step in np.flatnonzero(own.scored[0]):
        values = (own.target, intact, transplanted, twin.target)
        table.add_row(str(step), *(f"{value[0, step, 0]:+.2f}" for value in values))
    Console().print(table)
    Console().print(
        report_table(probe(agent, episodes=arguments.episodes, seed=arguments.seed), title="Over many pairs")
    )


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"fast_weight_transplant: {error}") from None
