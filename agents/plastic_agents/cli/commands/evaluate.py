"""``plastic-rnn evaluate``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from plastic_agents.cli.commands.models import Split, load_agent
from plastic_agents.cli.commands.options import console


@dataclass(frozen=True)
class Evaluate:
    """Play held-out episodes and print the score, beside those of the memoryless baseline and the oracle.

    Attributes:
        model: run folder of train, the checkpoint.pt in it, a folder of save_pretrained, or the name of a network of
            plastic-rnn models.
        episodes: number of episodes.
        seed: seed of the episodes.
        split: test episodes for a figure to report, validation episodes to choose settings by.
        device: device to play on, such as cpu or cuda.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    episodes: int = 1000
    seed: int = 1
    split: Split = "test"
    device: str = "cpu"

    def __call__(self) -> None:
        """Play and print."""
        from plastic_agents.analysis.probes import probe
        from plastic_agents.analysis.tables import report_table

        agent = load_agent(self.model, self.device, self.split)
        report = probe(
            agent, episodes=self.episodes, seed=self.seed, interventions=("intact",), step=0, split=self.split
        )
        console().print(report_table(report, title=str(self.model)))
