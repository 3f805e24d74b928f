"""``plastic-rnn sweep``."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from plastic_agents.cli.commands.options import EMPTY, console, read_pair, split_pair, unique
from plastic_agents.cli.commands.recipes import Algo, check_recipe, recipes_by_algo

if TYPE_CHECKING:
    from plastic_agents.sweep.search import Search


@dataclass(frozen=True)
class Sweep:
    """Train by many recipes, settings and seeds: on all cores, or on a Ray cluster.

    Writes results.md, results.csv, results.json, comparison.json and results.png into the folder, and a run folder for
    each trial under trials. The same command resumes an interrupted sweep and retries its failed trials. Scores are
    those on validation episodes. With --final-seeds, the command then trains each recipe with its best settings and
    scores it on test episodes.

    Attributes:
        recipes: names of recipes, such as cue-reward-hebbian cue-reward-rnn.
        out: folder of the sweep; on a cluster, all machines must share it.
        seeds: training seeds; the sweep trains each recipe with each seed.
        set: settings of all trials, such as training.steps=2000 network.hidden_size=64 task.n_cues=4.
        grid: settings with several values, such as training.learning_rate=1e-3,3e-3 task.n_cues=4,8; the sweep tries
            all combinations.
        search: settings to draw at random, each from log:LOW,HIGH, uniform:LOW,HIGH, int:LOW,HIGH or choice:A,B,C, such
            as training.learning_rate=log:1e-3,1e-2 network.plasticity.decay=choice:0.0,0.02,0.05; needs --trials.
        trials: number of settings that --search draws for each recipe.
        search_seed: seed of the draws.
        final_seeds: training seeds for the settings with the best mean validation score of each recipe, such as 0 1 2 3
            4; without them, the sweep ends with the validation scores.
        algo: supervised learning, or reinforcement learning with ppo or a2c; each has recipes of its own.
        concurrent: number of trials to train at the same time; by default, one for each core.
        threads: number of threads of each trial.
        gpus_per_trial: GPUs of each trial; with a fraction, such as 0.25, trials share a GPU.
        retries: number of times that a failed trial is tried again.
        address: address of a Ray cluster, such as auto on one of its machines; by default, this machine alone.
        device: device that trials train on; by default, cuda if they have GPUs, and cpu otherwise.
    """

    recipes: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="RECIPE ...", help_behavior_hint="(required)"),
    ]
    out: Path
    seeds: tuple[int, ...] = (0,)
    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    grid: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    search: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    trials: int | None = None
    search_seed: int = 0
    final_seeds: Annotated[tuple[int, ...], EMPTY] = ()
    algo: Algo = "supervised"
    concurrent: int | None = None
    threads: int = 1
    gpus_per_trial: float = 0.0
    retries: int = 1
    address: str | None = None
    device: str | None = None

    def __call__(self) -> None:
        """Train the unfinished trials, write and print the results; exit code 1 unless all trials finished."""
        from plastic_agents.sweep.choice import run_search
        from plastic_agents.sweep.plan import check_choice, plan_sweep
        from plastic_agents.sweep.results import write_results
        from plastic_agents.sweep.run import SweepOptions, run_sweep

        if not self.recipes:
            raise ValueError("RECIPE must be one or more names, before options of several values like --set, got none")
        for name in self.recipes:
            check_recipe(name, self.algo)
        settings = [read_pair(pair, "--set", "training.steps=2000") for pairs in self.set for pair in pairs]
        grid = [_read_grid(pair) for pairs in self.grid for pair in pairs]
        trials = plan_sweep(
            {name: recipes_by_algo()[self.algo][name] for name in self.recipes},
            seeds=self.seeds,
            settings=unique("--set", settings),
            grid=unique("--grid", grid),
            search=self._search(),
        )
        if self.final_seeds:
            check_choice(trials, self.final_seeds)
        options = SweepOptions(
            concurrent=self.concurrent,
            threads=self.threads,
            gpus_per_trial=self.gpus_per_trial,
            retries=self.retries,
            address=self.address,
            device=self.device,
        )
        try:
            if self.final_seeds:
                run_search(trials, self.final_seeds, self.out, options)
            else:
                run_sweep(trials, self.out, options)
        except (KeyboardInterrupt, SystemExit):
            with contextlib.suppress(FileNotFoundError):  # the interrupt came before the plan was written
                write_results(self.out)
            raise
        rows = write_results(self.out)
        self._print_tables(rows)
        names = ("results.md", "results.csv", "results.json", "comparison.json", "results.png")
        print(f"wrote {', '.join(name for name in names if (self.out / name).exists())} into {self.out}")
        unfinished = [row for row in rows if row["status"] != "finished"]
        for row in unfinished:
            print(f"plastic-rnn: {row['trial']} {row['status']}: {row['error']}", file=sys.stderr)
        has_choice = any(row["split"] == "test" for row in rows)
        if self.final_seeds and not has_choice:
            print("plastic-rnn: no final trials: the same command resumes the failed trials above", file=sys.stderr)
        if any(row["status"] != "diverged" or row["split"] == "test" or not has_choice for row in unfinished):
            raise SystemExit(1)

    def _search(self) -> Search | None:
        """Return the search of the arguments."""
        from plastic_agents.sweep.search import Search

        example = "training.learning_rate=log:1e-3,1e-2"
        space = unique("--search", [split_pair(pair, "--search", example) for pairs in self.search for pair in pairs])
        if not space:
            if self.trials is not None:
                raise ValueError(f"--trials must be given with --search, such as {example}, got {self.trials}")
            return None
        if self.trials is None:
            raise ValueError("--trials must be the number of settings that --search draws, at least 1, got none")
        return Search(space, self.trials, self.search_seed)

    def _print_tables(self, rows: list[dict[str, Any]]) -> None:
        """Print the comparison on test episodes, or the validation scores without final trials."""
        from plastic_agents.sweep.comparison import compare, comparison_tables
        from plastic_agents.sweep.results import sweep_table

        # Each row of a table is one line, even in a narrow terminal.
        wide_console = console(width=300)
        if any(row["split"] == "test" for row in rows):
            for table in comparison_tables(compare(self.out), title=str(self.out)):
                wide_console.print(table)
        else:
            wide_console.print(sweep_table(rows, title=str(self.out)))


def _read_grid(pair: str) -> tuple[str, list[Any]]:
    from plastic_agents.sweep.search import read_values

    name, values = split_pair(pair, "--grid", "training.learning_rate=1e-3,3e-3")
    return name, read_values(values)
