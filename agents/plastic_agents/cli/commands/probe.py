"""``plastic-rnn probe``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from plastic_agents.cli.commands.models import Split, checkpoint_path, is_pretrained, is_shared, load_agent, model_name
from plastic_agents.cli.commands.options import console

_TRACED = 32  # episodes


@dataclass(frozen=True)
class Probe:
    """Intervene on hidden state and fast weights to show where a network stores what it learns in an episode.

    Prints a table and writes report.json and adaptation.png; for fast weights also trace.json and trace.png, which
    show the fast weights and the rate eta over an episode.

    Attributes:
        model: run folder of train, the checkpoint.pt in it, a folder of save_pretrained, or the name of a network of
            plastic-rnn models.
        episodes: number of held-out episodes for each intervention.
        seed: seed of the episodes.
        split: test episodes for a figure to report, validation episodes to choose settings by.
        step: intervene before this step; by default, before the first query.
        controls: also play controls, such as the fast weights of another episode, or noise in their place.
        by_layer: also intervene on the fast weights of one layer at a time.
        out: folder for the files; by default the run folder, or runs/probe/NAME for a network of plastic-rnn models and
            for a folder of save_pretrained.
        device: device to play on, such as cpu or cuda.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    episodes: int = 1000
    seed: int = 1
    split: Split = "test"
    step: int | None = None
    controls: bool = False
    by_layer: bool = False
    out: Path | None = None
    device: str = "cpu"

    def __call__(self) -> None:
        """Play, print and write."""
        from plastic_agents.analysis.controls import CONTROLS, layer_interventions
        from plastic_agents.analysis.interventions import INTERVENTIONS
        from plastic_agents.analysis.probes import probe
        from plastic_agents.analysis.tables import report_table, write_report, write_trace
        from plastic_agents.analysis.traces import trace
        from plastic_agents.seeding import held_out_rng

        agent = load_agent(self.model, self.device, self.split)
        report = probe(
            agent,
            episodes=self.episodes,
            seed=self.seed,
            interventions=[
                *INTERVENTIONS,
                *(CONTROLS if self.controls else ()),
                *(layer_interventions(agent.core) if self.by_layer else ()),
            ],
            step=self.step,
            split=self.split,
        )
        name = model_name(self.model)
        is_run = not is_pretrained(self.model) and not is_shared(self.model)
        default = checkpoint_path(self.model).parent if is_run else Path("runs/probe") / name
        folder = default if self.out is None else self.out
        task = report.task.partition("(")[0]
        write_report(folder, {name: report}, title=task)
        files = ["report.json", "adaptation.png"]
        agent_trace = trace(agent, agent.task.sample(held_out_rng(self.seed, self.split), _TRACED))
        if not agent_trace.is_empty:
            title = f"{task}, {name}: mean of {_TRACED} {self.split} episodes"
            write_trace(folder, agent_trace, agent.task.query_start, title)
            files += ["trace.json", "trace.png"]
        console().print(report_table(report, title=str(self.model)))
        print(f"wrote {', '.join(files)} into {folder}")
