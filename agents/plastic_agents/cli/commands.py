"""The commands of ``plastic-rnn``: a dataclass each, whose fields are its arguments."""

from __future__ import annotations

import ast
import contextlib
import inspect
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from plastic_agents.analysis.agent import Agent
from plastic_agents.analysis.probes import probe
from plastic_agents.analysis.tables import report_table, write_report, write_trace
from plastic_agents.analysis.traces import trace
from plastic_agents.checkpoint import checkpoint_kind
from plastic_agents.seeding import held_out_rng
from plastic_agents.sweep.results import sweep_table, write_results
from plastic_agents.sweep.run import plan, run
from plastic_agents.training.distributed import ProcessGroup
from plastic_agents.training.learner import CHECKPOINT
from plastic_agents.training.recipes import REINFORCEMENT_RECIPES, SUPERVISED_RECIPES
from plastic_agents.training.reinforcement import ReinforcementLearner
from plastic_agents.training.supervised import SupervisedLearner
from plastic_envs import make_task, registered_ids

Algo = Literal["supervised", "ppo", "a2c"]
RECIPES_BY_ALGO: dict[str, dict[str, Any]] = {
    "supervised": dict(SUPERVISED_RECIPES),
    **{
        algo: {
            name: replace(recipe, training=replace(recipe.training, algorithm=algo))
            for name, recipe in REINFORCEMENT_RECIPES.items()
        }
        for algo in ("ppo", "a2c")
    },
}
_WIDE = Console(width=300)  # for tables as wide as they need to be: a line each, whatever the terminal
_EMPTY = tyro.conf.arg(help_behavior_hint="(default: none)")


@dataclass(frozen=True)
class Envs:
    """List the environments, with the recipes there are for them."""

    def run(self) -> None:
        """Print the list."""
        width = shutil.get_terminal_size().columns
        for env_id in registered_ids():
            lines = [(inspect.getdoc(make_task(env_id)) or "").partition("\n")[0]]
            for algo, label in (("supervised", "recipes"), ("ppo", "recipes with --algo ppo or a2c")):
                if families := _families(RECIPES_BY_ALGO[algo], env_id):
                    lines.append(f"{label}: {families}")
            print(env_id)
            for line in lines:
                print(textwrap.fill(line, width, initial_indent="  ", subsequent_indent="    "))
            print()
        text = "A recipe's name ends with its rule: -hebbian, -gradient or -none, as in cue-reward-hebbian."
        print(textwrap.fill(text, width))


def _families(recipes: Mapping[str, Any], env_id: str) -> str:
    """Return the names of an environment's recipes without the rule at their end."""
    names = (name.partition(f"-{recipe.network.rule}")[0] for name, recipe in recipes.items() if recipe.task == env_id)
    return ", ".join(dict.fromkeys(names))


@dataclass(frozen=True)
class Train:
    """Train a network by a recipe, every setting of which can be changed.

    Attributes:
        recipe: what to train on what, and how.
        out: run folder, for the checkpoint and TensorBoard's files; a run that was interrupted there goes on.
        algo: supervised is shown the right answers; ppo and a2c learn from reward alone, by recipes of their own, which
            are listed with --algo ppo --help.
        task_arguments: arguments of the task that differ from the recipe's, such as delay=20 noise=0.2.
        device: where to train, such as cpu or cuda.
    """

    recipe: Any
    out: Path
    algo: Algo = "supervised"
    task_arguments: Annotated[tuple[str, ...], _EMPTY] = ()
    device: str = "cpu"

    def run(self) -> None:
        """Train and print the last evaluation."""
        learn: Any = SupervisedLearner if self.algo == "supervised" else ReinforcementLearner
        recipe = self.recipe
        learner = learn.start_or_resume(
            recipe.task,
            recipe.network,
            recipe.training,
            task_arguments={
                **recipe.task_arguments,
                **_once("--task-arguments", map(_read_pair, self.task_arguments)),
            },
            run_dir=self.out,
            device=self.device,
        )
        report = learner.learn()
        if ProcessGroup.from_env().is_main:
            Console().print(report_table(report, title=str(self.out)))


def _read_pair(pair: str, option: str = "--task-arguments", example: str = "delay=20") -> tuple[str, Any]:
    name, equals, value = pair.partition("=")
    if not equals:
        raise ValueError(f"{option} must be pairs such as {example}, got {pair!r}")
    return name, _read_value(value)


def _read_value(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value  # words, such as names and paths, need no quotes


@dataclass(frozen=True)
class Sweep:
    """Train by many recipes, settings and seeds: on all processors, or on a Ray cluster.

    Writes results.csv, results.json and results.png into the folder, and a run folder for each trial under trials. The
    same command goes on where it was interrupted, and tries again what failed.

    Attributes:
        recipes: names of recipes, such as cue-reward-hebbian cue-reward-none.
        out: folder of the sweep; on a cluster, one that all machines share.
        seeds: each recipe is trained with each of them.
        set: settings of all trials, such as training.steps=2000 network.hidden_size=64 task.n_cues=4.
        grid: settings with several values, such as training.learning_rate=1e-3,3e-3 task.n_cues=4,8; all combinations
            are tried.
        algo: supervised, or from reward alone ppo or a2c; each has recipes of its own.
        concurrent: trials at a time; by default as many as there are processors.
        threads: of each trial.
        gpus_per_trial: may be a part of one, such as 0.25, which trials then share.
        retries: how often a trial that fails is tried again.
        address: of a Ray cluster, such as auto on one of its machines; by default this machine alone.
        device: where trials train; by default cuda if they have GPUs, otherwise cpu.
    """

    recipes: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="RECIPE ...", help_behavior_hint="(required)"),
    ]
    out: Path
    seeds: tuple[int, ...] = (0,)
    set: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    grid: tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]] = ()
    algo: Algo = "supervised"
    concurrent: int | None = None
    threads: int = 1
    gpus_per_trial: float = 0.0
    retries: int = 1
    address: str | None = None
    device: str | None = None

    def run(self) -> None:
        """Train what is not done yet, write the results and print them; exit code 1 where not all went well."""
        for name in self.recipes:
            check_recipe(name, self.algo)
        trials = plan(
            {name: RECIPES_BY_ALGO[self.algo][name] for name in self.recipes},
            seeds=self.seeds,
            settings=_once(
                "--set", (_read_pair(pair, "--set", "training.steps=2000") for pairs in self.set for pair in pairs)
            ),
            grid=_once("--grid", (_read_grid(pair) for pairs in self.grid for pair in pairs)),
        )
        try:
            run(
                trials,
                self.out,
                concurrent=self.concurrent,
                threads=self.threads,
                gpus_per_trial=self.gpus_per_trial,
                retries=self.retries,
                address=self.address,
                device=self.device,
            )
        except (KeyboardInterrupt, SystemExit):
            with contextlib.suppress(FileNotFoundError):  # it had not yet begun
                write_results(self.out)
            raise
        rows = write_results(self.out)
        _WIDE.print(sweep_table(rows, title=str(self.out)))
        written = [name for name in ("results.csv", "results.json", "results.png") if (self.out / name).exists()]
        print(f"wrote {', '.join(written)} into {self.out}")
        bad = [row for row in rows if row["status"] != "finished"]
        for row in bad:
            print(f"plastic-rnn: {row['trial']} {row['status']}: {row['error']}", file=sys.stderr)
        if bad:
            raise SystemExit(1)


def _once(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, value in pairs:
        if path in found:
            raise ValueError(f"{option} must give {path} once, got {found[path]!r} and {value!r}")
        found[path] = value
    return found


def _read_grid(pair: str) -> tuple[str, list[Any]]:
    name, values = _read_pair(pair, "--grid", "training.learning_rate=1e-3,3e-3")
    if isinstance(values, str):  # words, perhaps with numbers among them
        return name, [_read_value(value) for value in values.split(",")]
    return name, list(values) if isinstance(values, tuple) else [values]


def _checkpoint_at(path: Path) -> Path:
    """The checkpoint at ``path``, which may be that of its run folder."""
    return path / CHECKPOINT if path.is_dir() else path


def _load_player(checkpoint: Path, device: str) -> Agent:
    """Return the model that a run trained, by supervision or reinforcement learning."""
    kind = checkpoint_kind(checkpoint)
    if kind == "policy":
        return ReinforcementLearner.load(checkpoint, device=device).evaluation_agent
    if kind == "supervised":
        return SupervisedLearner.load(checkpoint, device=device).evaluation_agent
    raise ValueError(f"{checkpoint} is a checkpoint of kind {kind!r}, wanted one that plastic-rnn train wrote")


@dataclass(frozen=True)
class Evaluate:
    """Play held-out episodes and print the score, with the memoryless player's and the oracle's.

    Attributes:
        checkpoint: what train wrote: its run folder, or the checkpoint.pt in it.
        episodes: how many episodes.
        seed: draws the episodes.
        device: where to play, such as cpu or cuda.
    """

    checkpoint: tyro.conf.Positional[Path]
    episodes: int = 1000
    seed: int = 1
    device: str = "cpu"

    def run(self) -> None:
        """Play and print."""
        model = _load_player(_checkpoint_at(self.checkpoint), self.device)
        report = probe(model, episodes=self.episodes, seed=self.seed, interventions=("intact",), step=0)
        Console().print(report_table(report, title=str(self.checkpoint)))


@dataclass(frozen=True)
class Probe:
    """Intervene on hidden state and fast weights to show where a network keeps what it learns in an episode.

    Prints a table and writes report.json and adaptation.png; with fast weights also trace.json and trace.png, which
    show how they and the rate eta move over an episode.

    Attributes:
        checkpoint: what train wrote: its run folder, or the checkpoint.pt in it.
        episodes: how many held-out episodes each intervention is played on.
        seed: draws the episodes.
        step: intervene before this step; by default just before the first query.
        out: folder for the files; by default that of the checkpoint.
        device: where to play, such as cpu or cuda.
    """

    checkpoint: tyro.conf.Positional[Path]
    episodes: int = 1000
    seed: int = 1
    step: int | None = None
    out: Path | None = None
    device: str = "cpu"

    def run(self) -> None:
        """Play, print and write."""
        checkpoint = _checkpoint_at(self.checkpoint)
        model = _load_player(checkpoint, self.device)
        report = probe(model, episodes=self.episodes, seed=self.seed, step=self.step)
        folder = checkpoint.parent if self.out is None else self.out
        write_report(
            folder, {checkpoint.resolve().parent.name or checkpoint.stem: report}, title=report.task.partition("(")[0]
        )
        files = ["report.json", "adaptation.png"]
        followed = trace(model, model.task.sample(held_out_rng(self.seed), 32))
        if not followed.is_empty:
            write_trace(folder, followed, model.task.query_start)
            files += ["trace.json", "trace.png"]
        Console().print(report_table(report, title=str(self.checkpoint)))
        print(f"wrote {', '.join(files)} into {folder}")


COMMANDS = {"envs": Envs, "train": Train, "sweep": Sweep, "evaluate": Evaluate, "probe": Probe}


def check_recipe(name: str, algo: str) -> None:
    """Check that an algorithm has a recipe of this name.

    Raises:
        ValueError: it has not.
    """
    if name not in RECIPES_BY_ALGO[algo]:
        others = [other for other in RECIPES_BY_ALGO if name in RECIPES_BY_ALGO[other]]
        is_for = f"is for --algo {' or '.join(others)}, not {algo}," if others else f"is unknown to --algo {algo},"
        raise ValueError(f"recipe {name!r} {is_for} which has {', '.join(RECIPES_BY_ALGO[algo])}")
