"""The command line ``plastic-rnn``: parsing of arguments, and errors in one line."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import errno
import inspect
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
from typing import Annotated, Any, Literal, get_args

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from plastic_agents import __version__
from plastic_agents.cli.commands import COMMANDS
from plastic_agents.cli.commands.recipes import ALGOS, check_recipe, recipe_scores, recipes_by_algo
from plastic_agents.cli.commands.reproduce import Reproduce
from plastic_agents.cli.commands.sweep import Sweep
from plastic_agents.cli.commands.train import Train
from plastic_agents.cli.texts import complaint, help_page
from plastic_agents.training.interrupt import TERMINATED

# Fields that are not options, by the name of their class: ``train`` has --algo and --task-arguments.
_SUPPRESSED = {
    "SupervisedRecipe": ("task_arguments",),
    "ReinforcementRecipe": ("task_arguments",),
    "SupervisedConfig": ("evaluation_arguments",),
    "ReinforcementConfig": ("algorithm", "evaluation_arguments"),
}
# The classes with a field in `_choices`.
_WITH_CHOICES = ("NetworkConfig", "Plasticity")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command.

    A mistake in the arguments ends with one line on standard error and exit code 2, divergence or a full disk with
    code 1, Ctrl-C with code 130, SIGTERM with code 143.

    Args:
        arguments: the words after ``plastic-rnn``; None takes those of the process.
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
        with _one_line_messages():
            command()
    except BrokenPipeError:  # the program that reads the output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to write
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        resumes = isinstance(command, Train | Sweep | Reproduce)
        print(f"plastic-rnn: interrupted{'; the same command resumes the run' if resumes else ''}", file=sys.stderr)
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
def _one_line_messages() -> Iterator[None]:
    """Print each warning in one line, and no traceback if a thread finds the disk full.

    TensorBoard's thread passes that error to the main thread.
    """
    show_warning, show_error = warnings.showwarning, threading.excepthook
    warnings.showwarning = lambda message, *args, **kwargs: print(f"plastic-rnn: {message}", file=sys.stderr)
    threading.excepthook = lambda args: None if _is_disk_full(args.exc_value) else show_error(args)
    try:
        yield
    finally:
        warnings.showwarning, threading.excepthook = show_warning, show_error


def _is_disk_full(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _file_error(error: OSError, command: Any) -> str:
    """Return the operating system's message about a file, with the argument that names the file."""
    if error.strerror is None:  # raised by this project, with a message
        return str(error)
    name = error.filename or getattr(command, "out", None)
    if name is None:
        return error.strerror
    file = Path(os.fsdecode(name)).resolve()
    for field in fields(command):
        value = getattr(command, field.name)
        if isinstance(value, Path) and (value.resolve() in (file, *file.parents) or file in value.resolve().parents):
            option = "model" if field.name == "model" else f"--{field.name}"
            return f"{option} {value}: {error.strerror}" + ("" if file == value.resolve() else f" ({name})")
    return f"{name}: {error.strerror}"


def _help_command(arguments: Sequence[str]) -> str:
    """Return the command that prints the help page for the arguments."""
    words = ["plastic-rnn", *(word for word in arguments[:1] if word in COMMANDS)]
    if words[-1] == "train":
        algo = _chosen_algo(arguments)
        words += [] if algo == "supervised" else ["--algo", algo]
        words += [word for word in arguments if word in recipes_by_algo()[algo]][:1]
    return " ".join([*words, "--help"])


def _parse(arguments: Sequence[str]) -> Any:
    """Return the command that the arguments describe.

    Raises:
        ValueError: the arguments are invalid.
        SystemExit: the arguments ask for a help page. The function has printed it.
    """
    commands = dict(COMMANDS)
    algo = _chosen_algo(arguments)
    if arguments[:1] == ["train"]:
        _check_recipe_words(arguments, algo)
        commands["train"] = _train_command(algo)
    else:  # the overview of commands needs the description of train, and not its recipes, which need torch
        commands["train"] = make_dataclass("Train", [], namespace={"__doc__": Train.__doc__})
    form: Any = reduce(or_, (Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands.items()))
    complaints = io.StringIO()
    # tyro draws frames if the encoding has exactly this name.
    printed = io.TextIOWrapper(io.BytesIO(), codecs.lookup(sys.stdout.encoding or "utf-8").name, errors="replace")
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaints), _registry():
            # Cascading allows options before and after the name of the recipe.
            return tyro.cli(
                form,
                prog="plastic-rnn",
                description="List environments, train networks by recipes, evaluate and probe them.\n\n"
                "plastic-rnn --version prints the version.",
                args=arguments,
                config=(tyro.conf.CascadeSubcommandArgs,),
            )
    except SystemExit:
        if complaints.getvalue():
            raise ValueError(complaint(complaints.getvalue(), arguments[0])) from None
        printed.seek(0)
        page = printed.read()
        if arguments[0] == "train" and algo != "supervised":
            page = page.replace("usage: plastic-rnn train", f"usage: plastic-rnn train --algo {algo}")
        print(help_page(page, shutil.get_terminal_size().columns), end="")
        raise


def _registry() -> ConstructorRegistry:
    """Return tyro's rules for dataclasses, changed so that some fields have `_choices` and some are no options."""
    registry = ConstructorRegistry()
    in_progress: set[str] = set()

    @registry.struct_rule
    def change(info: StructTypeInfo) -> StructConstructorSpec | None:
        class_name = getattr(info.type, "__name__", "")
        if class_name not in (*_SUPPRESSED, *_WITH_CHOICES) or class_name in in_progress:
            return None  # tyro's own rule applies
        in_progress.add(class_name)
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            in_progress.remove(class_name)
        if not isinstance(spec, StructConstructorSpec):
            return spec  # type: ignore[return-value]  # tyro's error, which it handles
        suppressed: Any = tyro.conf.Suppress
        annotated: Any = Annotated
        choices = _choices() if class_name in _WITH_CHOICES else {}

        def changed(option: StructFieldSpec) -> StructFieldSpec:
            if option.name in _SUPPRESSED.get(class_name, ()):
                return replace(option, type=annotated[option.type, suppressed])
            return replace(option, type=choices.get(option.name, option.type))

        return replace(spec, fields=tuple(map(changed, spec.fields)))

    return registry


def _choices() -> dict[str, Any]:
    """Return types that list the values of settings, by the name of the field; rules of a user are registered late."""
    from plastic_agents.models.config import ATTENTION, NO_PLASTICITY
    from plastic_agents.models.plastic.cells import CELLS
    from plastic_agents.models.plastic.rule import RULES
    from plastic_agents.models.plastic.update import LAYER_KINDS

    literal: Any = Literal
    return {
        "rule": literal[(NO_PLASTICITY, *RULES)],
        "cell": literal[(*CELLS, ATTENTION)],
        "layers": tuple[literal[LAYER_KINDS], ...] | None,
    }


def _chosen_algo(arguments: Sequence[str]) -> str:
    """Return the value of ``--algo``, which selects the recipes that tyro offers."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--algo", nargs="?")
    algo = parser.parse_known_args(arguments)[0].algo
    return algo if algo in ALGOS else "supervised"  # tyro reports an invalid value


def _check_recipe_words(arguments: Sequence[str], algo: str) -> None:
    for previous, word in pairwise(arguments):
        # After an option, a word may be the name of a folder.
        is_recipe = any(word in recipes for recipes in recipes_by_algo().values()) and not previous.startswith("--")
        if is_recipe or (previous == "train" and not word.startswith("-")):
            check_recipe(word, algo)


def _description(algo: str, name: str) -> str:
    """Return the task and the rule of a recipe, and what networks trained by it reached if that is known."""
    recipe, scores = recipes_by_algo()[algo][name], recipe_scores().get(algo, {}).get(name)
    reached = f": {scores['metric_name']} {scores['mean']:.3f} in {scores['minutes']} minutes" if scores else ""
    return f"{recipe.task}, rule {recipe.network.rule}{reached}"


def _train_command(algo: str) -> Any:
    """Return `Train` with the recipes of an algorithm as subcommands."""
    from plastic_agents.training.recipes import ReinforcementRecipe, SupervisedRecipe

    recipes = recipes_by_algo()[algo]
    by_name: Any = tyro.extras.subcommand_type_from_defaults(
        recipes, descriptions={name: _description(algo, name) for name in recipes}
    )
    kind: Any = SupervisedRecipe if algo == "supervised" else ReinforcementRecipe
    recipe = Annotated[kind, tyro.conf.arg(constructor=by_name, name="")]
    choices = (f"--network.{name} is one of {', '.join(get_args(_choices()[name]))}." for name in ("rule", "cell"))
    summary, *attributes = inspect.cleandoc(Train.__doc__ or "").split("\n\n")
    doc = "\n\n".join([summary, "\n".join(choices), *attributes])
    return make_dataclass("Train", [("recipe", recipe)], bases=(Train,), frozen=True, namespace={"__doc__": doc})


if __name__ == "__main__":
    main()
