"""The command line ``plastic-rnn``: what is typed, as a command to run, and errors in one line."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import io
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields, make_dataclass, replace
from functools import reduce
from itertools import pairwise
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from plastic_agents.cli.commands import COMMANDS, RECIPES_BY_ALGO, Train, check_recipe
from plastic_agents.cli.texts import complaint, help_page
from plastic_agents.training.interrupt import TERMINATED
from plastic_agents.training.recipes import ReinforcementRecipe, SupervisedRecipe
from plastic_agents.training.reinforcement_config import ReinforcementConfig
from plastic_agents.training.supervised_config import SupervisedConfig
from plastic_envs import __version__

# Fields that are not options of their own: ``train`` has --algo and --task-arguments.
_SUPPRESSED: dict[type, tuple[str, ...]] = {
    SupervisedRecipe: ("task_arguments",),
    ReinforcementRecipe: ("task_arguments",),
    SupervisedConfig: ("evaluation_arguments",),
    ReinforcementConfig: ("algorithm", "evaluation_arguments"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; a mistake in its arguments ends with one line on standard error and exit code 2.

    A run that diverges or finds the disk full ends with code 1, one that Ctrl-C interrupts with 130, one that SIGTERM
    stops with 143.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments:
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
            _parse(["--help"])
        raise SystemExit(2)
    command = None
    try:
        if arguments == ["--version"]:
            print(f"plastic-rnn {__version__}")
            return
        command = _parse(arguments)
        with _messages_of_one_line():
            command.run()
    except KeyboardInterrupt:
        print("plastic-rnn: interrupted; the same command resumes the run", file=sys.stderr)
        raise SystemExit(130) from None
    except SystemExit as stop:
        if stop.code == TERMINATED:
            print("plastic-rnn: terminated; the same command resumes the run", file=sys.stderr)
        raise
    except (FloatingPointError, ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        failed = isinstance(error, FloatingPointError) or _is_disk_full(error)
        message = _file_error(error, command) if isinstance(error, OSError) else str(error)
        hint = "" if failed or isinstance(error, OSError) else f" (see {_help_command(arguments)})"
        print(f"plastic-rnn: {' '.join(message.split())}{hint}", file=sys.stderr)
        raise SystemExit(1 if failed else 2) from None


@contextlib.contextmanager
def _messages_of_one_line() -> Iterator[None]:
    """Print warnings in one line, and no traceback of a thread that finds the disk full.

    TensorBoard's thread hands that error on to the main one.
    """
    show_warning, show_error = warnings.showwarning, threading.excepthook
    warnings.showwarning = lambda message, *place, **more: print(f"plastic-rnn: {message}", file=sys.stderr)
    threading.excepthook = lambda raised: None if _is_disk_full(raised.exc_value) else show_error(raised)
    try:
        yield
    finally:
        warnings.showwarning, threading.excepthook = show_warning, show_error


def _is_disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _file_error(error: OSError, command: Any) -> str:
    """Return the system's message about a file, with the argument that named the file."""
    if error.strerror is None:  # a message of our own
        return str(error)
    name = error.filename or getattr(command, "out", None)
    if name is None:
        return error.strerror
    file = Path(os.fsdecode(name)).resolve()
    for field in fields(command):
        value = getattr(command, field.name)
        if isinstance(value, Path) and (value.resolve() in (file, *file.parents) or file in value.resolve().parents):
            option = "checkpoint" if field.name == "checkpoint" else f"--{field.name}"
            return f"{option} {value}: {error.strerror}" + ("" if file == value.resolve() else f" ({name})")
    return f"{name}: {error.strerror}"


def _help_command(arguments: Sequence[str]) -> str:
    """The command that shows the help page on what was typed."""
    words = ["plastic-rnn", *(word for word in arguments[:1] if word in COMMANDS)]
    if words[-1] == "train":
        algo = _chosen_algo(arguments)
        words += [] if algo == "supervised" else ["--algo", algo]
        words += [word for word in arguments if word in RECIPES_BY_ALGO[algo]][:1]
    return " ".join([*words, "--help"])


def _parse(arguments: Sequence[str]) -> Any:
    """The command that the arguments describe.

    Raises:
        ValueError: they describe none.
        SystemExit: they asked for a help page, which has been printed.
    """
    algo = _chosen_algo(arguments)
    _check_recipe_words(arguments, algo)
    complaints = io.StringIO()
    # tyro draws frames where it finds this very name.
    printed = io.TextIOWrapper(io.BytesIO(), codecs.lookup(sys.stdout.encoding or "utf-8").name)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaints), _suppressing_registry():
            # Cascading lets options stand before or after the name of the recipe.
            return tyro.cli(
                _command(algo),
                prog="plastic-rnn",
                description="List environments, train networks by recipe, one or many, evaluate and probe them.\n\n"
                "plastic-rnn --version prints the version.",
                args=arguments,
                config=(tyro.conf.CascadeSubcommandArgs,),
            )
    except SystemExit:
        if complaints.getvalue():
            raise ValueError(complaint(complaints.getvalue(), arguments[0])) from None
        printed.seek(0)
        print(help_page(printed.read(), shutil.get_terminal_size().columns), end="")
        raise


def _suppressing_registry() -> ConstructorRegistry:
    """Return tyro's rules for dataclasses, changed so that the fields in `_SUPPRESSED` are not options."""
    registry = ConstructorRegistry()
    in_progress: set[type] = set()

    @registry.struct_rule
    def suppress(info: StructTypeInfo) -> StructConstructorSpec | None:
        if info.type not in _SUPPRESSED or info.type in in_progress:
            return None  # tyro's own rule applies
        in_progress.add(info.type)
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            in_progress.remove(info.type)
        if not isinstance(spec, StructConstructorSpec):
            return spec  # type: ignore[return-value]  # tyro's error, which it handles
        names = _SUPPRESSED[info.type]
        suppressed: Any = tyro.conf.Suppress
        annotated: Any = Annotated
        options = (
            replace(option, type=annotated[option.type, suppressed]) if option.name in names else option
            for option in spec.fields
        )
        return replace(spec, fields=tuple(options))

    return registry


def _chosen_algo(arguments: Sequence[str]) -> str:
    """What ``--algo`` says, which decides what recipes there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algo", nargs="?")
    algo = parser.parse_known_args(arguments)[0].algo
    return algo if algo in RECIPES_BY_ALGO else "supervised"  # the parser proper says what is wrong


def _check_recipe_words(arguments: Sequence[str], algo: str) -> None:
    for before, word in pairwise(arguments if arguments[:1] == ["train"] else ()):
        # A folder may be named like a recipe.
        if any(word in recipes for recipes in RECIPES_BY_ALGO.values()) and not before.startswith("--"):
            check_recipe(word, algo)


def _command(algo: str) -> Any:
    """The commands, ``train`` with the recipes of an algorithm."""
    recipes = RECIPES_BY_ALGO[algo]
    by_name: Any = tyro.extras.subcommand_type_from_defaults(
        recipes, descriptions={name: f"{recipe.task}, rule {recipe.network.rule}" for name, recipe in recipes.items()}
    )
    kind: Any = SupervisedRecipe if algo == "supervised" else ReinforcementRecipe
    recipe = Annotated[kind, tyro.conf.arg(constructor=by_name, name="")]
    train = make_dataclass(
        "Train", [("recipe", recipe)], bases=(Train,), frozen=True, namespace={"__doc__": Train.__doc__}
    )
    commands = {**COMMANDS, "train": train}
    return reduce(or_, (Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands.items()))


if __name__ == "__main__":
    main()
