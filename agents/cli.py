"""The command ``plastic-rnn``: list environments, train by a recipe or by many, evaluate and probe what was trained."""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import tyro
from rich.console import Console
from rich.table import Table

from agents.actor_critic.training import PolicyLearner
from agents.checkpoint import checkpoint_kind
from agents.distributed import Processes
from agents.player import Player
from agents.probes import INTERVENTIONS, held_out_rng, probe
from agents.recipes import POLICY_RECIPES, RECIPES, PolicyRecipe, Recipe
from agents.report import report_table, write_report, write_trace
from agents.supervised import SupervisedLearner
from agents.sweep import plan, run
from agents.sweep_results import sweep_table, write_results
from agents.traces import trace
from plastic_envs import make_task, registered_ids

Algo = Literal["supervised", "ppo", "a2c"]
_RECIPES: dict[str, dict[str, Any]] = {
    "supervised": dict(RECIPES),
    **{
        algo: {
            name: replace(recipe, training=replace(recipe.training, algorithm=algo))
            for name, recipe in POLICY_RECIPES.items()
        }
        for algo in ("ppo", "a2c")
    },
}
_WIDE = Console(width=300)  # for tables as wide as they need to be: a line each, whatever the terminal


@dataclass(frozen=True)
class Envs:
    """List the environments, a line each, with the recipes there are for them."""

    def run(self) -> None:
        """Print the list."""
        table = Table(box=None, pad_edge=False)
        for column in ("id", "what it asks", "recipes", "from reward"):
            table.add_column(column, no_wrap=True)
        for env_id in registered_ids():
            summary = (inspect.getdoc(make_task(env_id)) or "").partition("\n")[0]
            table.add_row(env_id, summary, *(_families(_RECIPES[algo], env_id) for algo in ("supervised", "ppo")))
        _WIDE.print(table)
        print("\nA recipe's name goes on with its rule, -hebbian, -gradient or -none; from reward: --algo ppo.")


def _families(recipes: Mapping[str, Any], env_id: str) -> str:
    """What the names of an environment's recipes begin with, before the rule."""
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
    task_arguments: tuple[str, ...] = ()
    device: str = "cpu"

    def run(self) -> None:
        """Train and print the last evaluation."""
        learn: Any = SupervisedLearner if self.algo == "supervised" else PolicyLearner
        recipe = self.recipe
        learner = learn.start_or_resume(
            recipe.task,
            recipe.network,
            recipe.training,
            task_arguments={**recipe.task_arguments, **dict(map(_read_pair, self.task_arguments))},
            run_dir=self.out,
            device=self.device,
        )
        report = learner.learn()
        if Processes.here().first:
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

    recipes: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RECIPE ...")]
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
            _check_recipe(name, self.algo)
        trials = plan(
            {name: _RECIPES[self.algo][name] for name in self.recipes},
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
        except KeyboardInterrupt:
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


def _load_player(checkpoint: Path, device: str) -> Player:
    """What a run trained, whichever way."""
    kind = checkpoint_kind(checkpoint)
    if kind == "policy":
        return PolicyLearner.load(checkpoint, device=device).player
    if kind == "supervised":
        return SupervisedLearner.load(checkpoint, device=device).player
    raise ValueError(f"{checkpoint} is a checkpoint of kind {kind!r}, wanted one that plastic-rnn train wrote")


@dataclass(frozen=True)
class Evaluate:
    """Play held-out episodes and print the score, with the memoryless player's and the oracle's.

    Attributes:
        checkpoint: what train wrote: checkpoint.pt in its run folder.
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
        model = _load_player(self.checkpoint, self.device)
        report = probe(model, episodes=self.episodes, seed=self.seed, interventions=("intact",), step=0)
        Console().print(report_table(report, title=str(self.checkpoint)))


@dataclass(frozen=True)
class Probe:
    """Intervene on hidden state and fast weights to show where a network keeps what it learns in an episode.

    Prints a table and writes report.json and adaptation.png; with fast weights also trace.json and trace.png, which
    show how they and the rate eta move over an episode.

    Attributes:
        checkpoint: what train wrote: checkpoint.pt in its run folder.
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
        model = _load_player(self.checkpoint, self.device)
        report = probe(model, episodes=self.episodes, seed=self.seed, step=self.step, interventions=INTERVENTIONS)
        folder = self.checkpoint.parent if self.out is None else self.out
        write_report(folder, {self.checkpoint.parent.name: report}, title=report.task.partition("(")[0])
        files = ["report.json", "adaptation.png"]
        followed = trace(model, model.task.sample(held_out_rng(self.seed), 32))
        if followed is not None:
            write_trace(folder, followed, model.task.query_start)
            files += ["trace.json", "trace.png"]
        Console().print(report_table(report, title=str(self.checkpoint)))
        print(f"wrote {', '.join(files)} into {folder}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad arguments end with one line on standard error and exit code 2.

    A run that diverges ends with code 1, an interrupted one with 130.
    """
    try:
        _parse(arguments).run()
    except KeyboardInterrupt:
        print("plastic-rnn: interrupted; the same command goes on where it was", file=sys.stderr)
        raise SystemExit(130) from None
    except FloatingPointError as error:
        print(f"plastic-rnn: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        _refuse(str(error))


def _parse(arguments: Sequence[str] | None) -> Envs | Train | Sweep | Evaluate | Probe:
    arguments = sys.argv[1:] if arguments is None else arguments
    algo = _chosen_algo(arguments)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            # Cascading lets options stand before or after the name of the recipe.
            command: Envs | Train | Sweep | Evaluate | Probe = tyro.cli(
                _command(algo),
                prog="plastic-rnn",
                description="List environments, train networks by recipe, one or many, evaluate and probe them.",
                args=arguments,
                config=(tyro.conf.CascadeSubcommandArgs,),
            )
            return command
    except SystemExit:
        if not complaint.getvalue():  # asked for help
            raise
        _refuse(_first_paragraph(complaint.getvalue()))


def _chosen_algo(arguments: Sequence[str]) -> str:
    """What ``--algo`` says, which decides what recipes there are; refuses a recipe of other algorithms."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algo", nargs="?")
    algo = parser.parse_known_args(arguments)[0].algo or "supervised"
    if algo not in _RECIPES:
        return "supervised"  # the parser proper says what is wrong
    for before, word in pairwise(arguments if arguments[:1] == ["train"] else ()):
        # A folder may be named like a recipe.
        if any(word in recipes for recipes in _RECIPES.values()) and not before.startswith("--"):
            try:
                _check_recipe(word, algo)
            except ValueError as error:
                _refuse(str(error))
    return algo


def _check_recipe(name: str, algo: str) -> None:
    if name not in _RECIPES[algo]:
        others = [other for other in _RECIPES if name in _RECIPES[other]]
        is_for = f"is for --algo {' or '.join(others)}, not {algo}," if others else f"is unknown to --algo {algo},"
        raise ValueError(f"recipe {name!r} {is_for} which has {', '.join(_RECIPES[algo])}")


def _command(algo: str) -> Any:
    """The commands, ``train`` with the recipes of an algorithm."""
    recipes = _RECIPES[algo]
    by_name: Any = tyro.extras.subcommand_type_from_defaults(
        recipes, descriptions={name: f"{recipe.task}, rule {recipe.network.rule}" for name, recipe in recipes.items()}
    )
    kind: Any = Recipe if algo == "supervised" else PolicyRecipe
    recipe = Annotated[kind, tyro.conf.arg(constructor=by_name, name="")]
    train = make_dataclass(
        "Train", [("recipe", recipe)], bases=(Train,), frozen=True, namespace={"__doc__": Train.__doc__}
    )
    return (
        Annotated[Envs, tyro.conf.subcommand("envs")]
        | Annotated[train, tyro.conf.subcommand("train")]
        | Annotated[Sweep, tyro.conf.subcommand("sweep")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Probe, tyro.conf.subcommand("probe")]
    )


def _first_paragraph(box: str) -> str:
    """What a framed message of tyro's says, up to its first rule, in one line."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    first = [
        line for line in lines[: next((i for i, line in enumerate(lines) if set(line) <= set("─╰╯")), None)] if line
    ]
    return " ".join(first)


def _refuse(message: str) -> NoReturn:
    # tyro shows a prefix of its own in the names of values that a constructor refused.
    message = " ".join(message.split()).replace("__tyro-dummy-inner__.recipe.", "--")
    print(f"plastic-rnn: {message} (see plastic-rnn --help)", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
