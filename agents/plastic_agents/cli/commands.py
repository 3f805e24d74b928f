"""The commands of ``plastic-rnn``: a dataclass for each, whose fields are its arguments.

The commands import what they run when they are called: torch takes seconds, and ``plastic-rnn --help`` does not need
it.
"""

from __future__ import annotations

import contextlib
import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from plastic_agents.analysis.agent import Agent
    from plastic_agents.sweep.search import Search

Algo = Literal["supervised", "ppo", "a2c"]
Split = Literal["validation", "test"]  # as in plastic_agents.seeding, which needs NumPy
ALGOS: tuple[str, ...] = get_args(Algo)
# Names of the recipes of each environment without the rule or the network at their end. A test compares them with the
# recipes, which need torch.
SUPERVISED_FAMILIES = {
    "PlasticRNN/CueReward-v0": ("cue-reward",),
    "PlasticRNN/FewShotClassification-v0": ("glyphs", "cifar-fs", "mini-imagenet"),
    "PlasticRNN/FewShotRegression-v0": ("regression",),
    "PlasticRNN/SequenceReproduction-v0": ("reproduction",),
}
REINFORCEMENT_FAMILIES = {
    "PlasticRNN/CueChoice-v0": ("cue-choice",),
    "PlasticRNN/CueReward-v0": ("cue-reward",),
    "PlasticRNN/FewShotClassification-v0": ("glyphs",),
}
_EMPTY = tyro.conf.arg(help_behavior_hint="(default: none)")


@cache
def recipes_by_algo() -> dict[str, dict[str, Any]]:
    """Return the recipes of each algorithm by name."""
    from plastic_agents.training.recipes import REINFORCEMENT_RECIPES, SUPERVISED_RECIPES

    return {
        "supervised": dict(SUPERVISED_RECIPES),
        **{
            algo: {
                name: replace(recipe, training=replace(recipe.training, algorithm=algo))
                for name, recipe in REINFORCEMENT_RECIPES.items()
            }
            for algo in ("ppo", "a2c")
        },
    }


def check_recipe(name: str, algo: str) -> None:
    """Check that an algorithm has a recipe of this name.

    Raises:
        ValueError: the algorithm has no such recipe.
    """
    recipes = recipes_by_algo()
    if name not in recipes[algo]:
        algos = [candidate for candidate in recipes if name in recipes[candidate]]
        is_for = f"is for --algo {' or '.join(algos)}, not {algo}," if algos else f"is unknown to --algo {algo},"
        raise ValueError(f"recipe {name!r} {is_for} which has {', '.join(recipes[algo])}")


def _console(width: int | None = None) -> Console:
    from rich.console import Console

    return Console(width=width)


@dataclass(frozen=True)
class Envs:
    """List the environments and their recipes."""

    def __call__(self) -> None:
        """Print the list."""
        from plastic_envs import make_task, registered_ids

        width = shutil.get_terminal_size().columns
        for env_id in registered_ids():
            lines = [(inspect.getdoc(make_task(env_id)) or "").partition("\n")[0]]
            for families, label in (
                (SUPERVISED_FAMILIES, "recipes"),
                (REINFORCEMENT_FAMILIES, "recipes with --algo ppo or a2c"),
            ):
                if env_id in families:
                    lines.append(f"{label}: {', '.join(families[env_id])}")
            print(env_id)
            for line in lines:
                print(textwrap.fill(line, width, initial_indent="  ", subsequent_indent="    "))
            print()
        text = (
            "A recipe's name ends with its plasticity rule, as in cue-reward-hebbian, or with the network without "
            "plasticity: -lstm, -gru, -rnn or -attention, a transformer. The options --network.rule and --network.cell "
            "change rule and cell; plastic-rnn train --help lists them."
        )
        print(textwrap.fill(text, width))


@dataclass(frozen=True)
class Train:
    """Train a network by a recipe; options change any of its settings.

    Attributes:
        recipe: the task, the network and the settings of training.
        out: run folder, for the checkpoint and TensorBoard's files; the command resumes an interrupted run there.
        algo: supervised learning from the targets, or reinforcement learning from the reward with ppo or a2c; --algo
            ppo --help lists the recipes of ppo.
        task_arguments: arguments of the task that differ from the recipe's, such as delay=20 noise=0.2.
        device: device to train on, such as cpu or cuda.
    """

    recipe: Any
    out: Path
    algo: Algo = "supervised"
    task_arguments: Annotated[tuple[str, ...], _EMPTY] = ()
    device: str = "cpu"

    def __call__(self) -> None:
        """Train and print the score on test episodes."""
        from plastic_agents.analysis.tables import report_table
        from plastic_agents.training.distributed import ProcessGroup

        task_arguments = _unique("--task-arguments", map(_read_pair, self.task_arguments))
        learner = _learner_class(self.algo).start_or_resume(
            self.recipe.task,
            self.recipe.network,
            self.recipe.training,
            task_arguments={**self.recipe.task_arguments, **task_arguments},
            run_dir=self.out,
            device=self.device,
        )
        learner.learn()
        if ProcessGroup.from_env().is_main:
            _console().print(report_table(learner.evaluate("test"), title=str(self.out)))


def _learner_class(algo: str) -> Any:
    if algo == "supervised":
        from plastic_agents.training.supervised import SupervisedLearner

        return SupervisedLearner
    from plastic_agents.training.reinforcement import ReinforcementLearner

    return ReinforcementLearner


def _read_pair(pair: str, option: str = "--task-arguments", example: str = "delay=20") -> tuple[str, Any]:
    from plastic_agents.sweep.search import read_value

    name, value = _split_pair(pair, option, example)
    return name, read_value(value)


def _split_pair(pair: str, option: str, example: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals:
        raise ValueError(f"{option} must be pairs such as {example}, got {pair!r}")
    return name, value


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
    final_seeds: Annotated[tuple[int, ...], _EMPTY] = ()
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

        for name in self.recipes:
            check_recipe(name, self.algo)
        settings = [_read_pair(pair, "--set", "training.steps=2000") for pairs in self.set for pair in pairs]
        grid = [_read_grid(pair) for pairs in self.grid for pair in pairs]
        trials = plan_sweep(
            {name: recipes_by_algo()[self.algo][name] for name in self.recipes},
            seeds=self.seeds,
            settings=_unique("--set", settings),
            grid=_unique("--grid", grid),
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
        space = _unique("--search", [_split_pair(pair, "--search", example) for pairs in self.search for pair in pairs])
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
        console = _console(width=300)
        if any(row["split"] == "test" for row in rows):
            for table in comparison_tables(compare(self.out), title=str(self.out)):
                console.print(table)
        else:
            console.print(sweep_table(rows, title=str(self.out)))


def _unique(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs as a dict.

    Raises:
        ValueError: a name occurs twice.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{option} must give {name} once, got {values[name]!r} and {value!r}")
        values[name] = value
    return values


def _read_grid(pair: str) -> tuple[str, list[Any]]:
    from plastic_agents.sweep.search import read_values

    name, values = _split_pair(pair, "--grid", "training.learning_rate=1e-3,3e-3")
    return name, read_values(values)


def _checkpoint_path(path: Path) -> Path:
    """Return the path of a checkpoint, given that path or the run folder."""
    from plastic_agents.training.learner import CHECKPOINT

    return path / CHECKPOINT if path.is_dir() else path


def _load_agent(checkpoint: Path, device: str, split: Split) -> Agent:
    """Return the agent that a run trained, by supervised or reinforcement learning, on the task of a split."""
    from plastic_agents.checkpoint import checkpoint_kind

    algos = {"supervised": "supervised", "policy": "ppo"}  # by the kind of the checkpoint
    kind = checkpoint_kind(checkpoint)
    if kind not in algos:
        raise ValueError(f"{checkpoint} must be a checkpoint from plastic-rnn train, got one of kind {kind!r}")
    learner = _learner_class(algos[kind]).load(checkpoint, device=device)
    agent: Agent = learner.evaluation_agent if split == "test" else learner.validation_agent
    return agent


@dataclass(frozen=True)
class Evaluate:
    """Play held-out episodes and print the score, beside those of the memoryless baseline and the oracle.

    Attributes:
        checkpoint: run folder of train, or the checkpoint.pt in it.
        episodes: number of episodes.
        seed: seed of the episodes.
        split: test episodes for a figure to report, validation episodes to choose settings by.
        device: device to play on, such as cpu or cuda.
    """

    checkpoint: tyro.conf.Positional[Path]
    episodes: int = 1000
    seed: int = 1
    split: Split = "test"
    device: str = "cpu"

    def __call__(self) -> None:
        """Play and print."""
        from plastic_agents.analysis.probes import probe
        from plastic_agents.analysis.tables import report_table

        agent = _load_agent(_checkpoint_path(self.checkpoint), self.device, self.split)
        report = probe(
            agent, episodes=self.episodes, seed=self.seed, interventions=("intact",), step=0, split=self.split
        )
        _console().print(report_table(report, title=str(self.checkpoint)))


@dataclass(frozen=True)
class Probe:
    """Intervene on hidden state and fast weights to show where a network stores what it learns in an episode.

    Prints a table and writes report.json and adaptation.png; for fast weights also trace.json and trace.png, which
    show the fast weights and the rate eta over an episode.

    Attributes:
        checkpoint: run folder of train, or the checkpoint.pt in it.
        episodes: number of held-out episodes for each intervention.
        seed: seed of the episodes.
        split: test episodes for a figure to report, validation episodes to choose settings by.
        step: intervene before this step; by default, before the first query.
        controls: also play controls, such as the fast weights of another episode, or noise in their place.
        by_layer: also intervene on the fast weights of one layer at a time.
        out: folder for the files; by default, the checkpoint's.
        device: device to play on, such as cpu or cuda.
    """

    checkpoint: tyro.conf.Positional[Path]
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

        checkpoint = _checkpoint_path(self.checkpoint)
        agent = _load_agent(checkpoint, self.device, self.split)
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
        folder = checkpoint.parent if self.out is None else self.out
        name = checkpoint.resolve().parent.name or checkpoint.stem
        write_report(folder, {name: report}, title=report.task.partition("(")[0])
        files = ["report.json", "adaptation.png"]
        agent_trace = trace(agent, agent.task.sample(held_out_rng(self.seed, self.split), 32))
        if not agent_trace.is_empty:
            write_trace(folder, agent_trace, agent.task.query_start)
            files += ["trace.json", "trace.png"]
        _console().print(report_table(report, title=str(self.checkpoint)))
        print(f"wrote {', '.join(files)} into {folder}")


@dataclass(frozen=True)
class Reproduce:
    """Run the studies of this project: comparisons of methods on a task, with the same search budget for each.

    For each method, a search tries settings on validation episodes; then networks with the best ones are trained with
    five seeds, scored on test episodes and probed. The results are in STUDY/METHOD.json in the folder, and in pages
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
        failed = []
        pairs = read_rows(self.rows)
        for number, (study, method) in enumerate(pairs, start=1):
            cell = run_cell(study, method, self.out, options)
            print(f"{number} of {len(pairs)}: {study}/{method}: {score_line(cell) if cell else 'failed'}", flush=True)
            failed += [] if cell else [f"{study}/{method}"]
        print(f"wrote {', '.join(page.name for page in write_pages(self.out))} into {self.out}")
        if failed:
            print(f"plastic-rnn: {', '.join(failed)} failed: the same command resumes it", file=sys.stderr)
            raise SystemExit(1)


COMMANDS = {
    "envs": Envs,
    "train": Train,
    "sweep": Sweep,
    "reproduce": Reproduce,
    "evaluate": Evaluate,
    "probe": Probe,
}
