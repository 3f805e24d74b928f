"""``plastic-rnn reproduce``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Reproduce:
    """Run the studies of this project: comparisons of methods on a task.

    For each method, a search of the same budget tries settings on validation episodes; then networks with the best ones
    are trained with several seeds, scored on test episodes and probed. Some studies take the settings of another one,
    or have the paper's settings. The results are in STUDY/METHOD.json in the folder, and in pages
    that are made from these files. The same command resumes an interrupted run, and keeps finished methods.

    Attributes:
        rows: studies, such as cue-reward, or methods of a study, such as cue-reward/hebbian; by default all studies,
            which takes days on two cores.
        out: folder of the results.
        concurrent: number of trials to train at the same time; by default, one for each core.
        threads: number of threads of each trial.
    """

    rows: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="ROW ...", help_behavior_hint="(default: all)"),
    ] = ()
    out: Path = Path("runs/reproduce")
    concurrent: int | None = None
    threads: int = 1

    def __call__(self) -> None:
        """Run the methods one after the other, and print the score of each; exit code 1 if a trial failed."""
        from plastic_agents.sweep.reproduce import read_rows, run_cell, score_line
        from plastic_agents.sweep.run import SweepOptions
        from plastic_agents.sweep.study_pages import write_pages

        options = SweepOptions(concurrent=self.concurrent, threads=self.threads)
        failed: list[str] = []
        refused: list[str] = []
        pairs = read_rows(self.rows)
        for number, (study, method) in enumerate(pairs, start=1):
            try:
                cell = run_cell(study, method, self.out, options)
            except ValueError as error:  # such as settings that all diverged, which other rows do not need
                print(f"plastic-rnn: {study}/{method}: {error}", file=sys.stderr)
                refused.append(f"{study}/{method}")
                continue
            print(f"{number} of {len(pairs)}: {study}/{method}: {score_line(cell) if cell else 'failed'}", flush=True)
            failed += [] if cell else [f"{study}/{method}"]
        print(f"wrote {', '.join(page.name for page in write_pages(self.out))} into {self.out}")
        if failed:
            print(f"plastic-rnn: {', '.join(failed)} failed: the same command resumes it", file=sys.stderr)
        if failed or refused:
            raise SystemExit(1)
