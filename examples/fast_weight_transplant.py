"""Give a network the fast weights of its episode's twin, and it answers its twin's answers.

Twins see the same cues in the same order, with other rewards. Half-way, before the first query, the fast weights (and
nothing else) of one are put into the other. Needs a trained network, such as ``make demo`` leaves:
``python examples/fast_weight_transplant.py runs/demo/gradient/checkpoint.pt``.
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
        checkpoint: a trained network with fast weights, on a task with Box actions.
        episodes: how many pairs for the table.
        seed: draws the twins.
    """

    checkpoint: tyro.conf.Positional[Path]
    episodes: int = 500
    seed: int = 1


def main(arguments: Arguments) -> None:
    """Show one pair of twins step by step, then the errors over many."""
    model = SupervisedLearner.load(arguments.checkpoint).agent
    task = model.task
    own, twin = task.sample_yoked(held_out_rng(arguments.seed), 1)

    donor = model.state_before(twin, task.query_start)
    intact, _ = model.play(own)
    # The hook: own hidden state, the twin's fast weights.
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
