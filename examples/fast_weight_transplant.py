"""Give a network the fast weights of the episode's twin, so that it gives the twin's answers.

The twin of an episode has the same cues in the same order, with other rewards. Before the first query, the script
replaces the network's fast weights, and nothing else, by those after the twin's cues. It needs a trained network, for
example from ``make demo``: ``python examples/fast_weight_transplant.py runs/demo/gradient/checkpoint.pt``.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from plastic_agents import SupervisedLearner, held_out_rng, probe, report_table
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Arguments:
    """Transplant fast weights between twins.

    Attributes:
        checkpoint: checkpoint of a trained network with fast weights, on a task with Box actions.
        episodes: number of pairs of twins for the table.
        seed: seed of the episodes.
    """

    checkpoint: tyro.conf.Positional[Path]
    episodes: int = 500
    seed: int = 1


def main(arguments: Arguments) -> None:
    """Print the answers for one pair of twins step by step, then the errors over many pairs."""
    model = SupervisedLearner.load(arguments.checkpoint).agent
    task = model.task
    own, twin = task.sample_yoked(held_out_rng(arguments.seed), 1)

    donor = model.state_before(twin, task.query_start)
    intact, _ = model.play(own)
    # The hook keeps the hidden state and exchanges the fast weights.
    transplanted, _ = model.play(own, hooks={task.query_start: lambda state: state._replace(fast=donor.fast)})

    table = Table(title="One pair of twins: the network's answers at queries")
    for column in ("step", "own target", "intact", "with the twin's fast weights", "twin's target"):
        table.add_column(column, justify="right")
    for step in np.flatnonzero(own.scored[0]):
        values = (own.target, intact, transplanted, twin.target)
        table.add_row(str(step), *(f"{value[0, step, 0]:+.2f}" for value in values))
    Console().print(table)
    Console().print(
        report_table(probe(model, episodes=arguments.episodes, seed=arguments.seed), title="Over many pairs")
    )


if __name__ == "__main__":
    main(tyro.cli(Arguments))
