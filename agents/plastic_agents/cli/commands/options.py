"""Options of the form NAME=VALUE, modules in ids of environments, and the console that tables are printed to."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from rich.console import Console

EMPTY = tyro.conf.arg(help_behavior_hint="(default: none)")


def console(width: int | None = None) -> Console:
    """Return a console on standard output, of the terminal's width by default."""
    from rich.console import Console

    return Console(width=width)


def import_module_of(env_id: str) -> None:
    """Import the module that an id such as "my_module:Mine/MyTask-v0" begins with, as `gymnasium.make` does.

    Raises:
        ModuleNotFoundError: there is no such module, or it needs one that is missing.
    """
    module = env_id.rpartition(":")[0]
    if not module:
        return
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the id {env_id!r} must begin with a module that Python can import ({error}); "
            "set PYTHONPATH=. if it is in the working directory",
            name=error.name,
        ) from error


def read_pair(pair: str, option: str = "--task-arguments", example: str = "delay=20") -> tuple[str, Any]:
    """Return the name and the value of a pair NAME=VALUE.

    Raises:
        ValueError: the text is no such pair.
    """
    from plastic_agents.sweep.search import read_value

    name, value = split_pair(pair, option, example)
    return name, read_value(value)


def split_pair(pair: str, option: str, example: str) -> tuple[str, str]:
    """Return the name and the text of the value of a pair NAME=VALUE.

    Args:
        pair: the text of the pair.
        option: name of the option, for the error.
        example: a pair as it should be, for the error.

    Raises:
        ValueError: the text is no such pair.
    """
    name, equals, value = pair.partition("=")
    if not equals:
        raise ValueError(f"{option} must be pairs such as {example}, got {pair!r}")
    return name, value


def unique(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
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
