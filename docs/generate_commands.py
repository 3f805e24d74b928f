"""Write docs/command_line.md: a section for each command of plastic-rnn, from its docstring and its fields.

    python docs/generate_commands.py

A test fails if the page is stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from docstring_parser import parse
from plastic_agents.cli.commands import COMMANDS

PAGE = Path(__file__).parent / "command_line.md"
EXAMPLES = {
    "envs": "plastic-rnn envs",
    "models": "plastic-rnn models",
    "train": """plastic-rnn train cue-reward-hebbian --out runs/cue-reward
plastic-rnn train cue-reward-hebbian --network.rule delta --training.steps 1000 --out runs/delta
plastic-rnn train cue-reward-hebbian --task-arguments n_cues=8 noise=0.2 --out runs/eight-cues
plastic-rnn train --algo ppo cue-choice-hebbian --out runs/cue-choice""",
    "sweep": "plastic-rnn sweep cue-reward-hebbian cue-reward-lstm --grid training.steps=1000,3000 --out runs/sweep",
    "reproduce": "plastic-rnn reproduce cue-reward/hebbian cue-reward/lstm",
    "evaluate": "plastic-rnn evaluate runs/cue-reward --episodes 10000",
    "probe": """plastic-rnn probe runs/cue-reward
plastic-rnn probe cue-reward-gradient --controls --by-layer""",
    "watch": """plastic-rnn watch cue-reward-hebbian
plastic-rnn watch cue-reward-hebbian --intervention fast_erased --out erased.gif""",
    "play": "plastic-rnn play CueChoice --task-arguments n_cues=3",
}
NOTES = {
    "train": """\
`plastic-rnn train --help` lists the recipes. Every setting of a recipe is an option, with a dot between the name of
its group and its own: those of [`NetworkConfig`](../agents/plastic_agents/models/config.py#NetworkConfig) begin with
`--network.`, those of [`SupervisedConfig`](../agents/plastic_agents/training/supervised_config.py#SupervisedConfig), or
with `--algo ppo` of
[`ReinforcementConfig`](../agents/plastic_agents/training/reinforcement_config.py#ReinforcementConfig), with
`--training.`. `plastic-rnn train cue-reward-hebbian --help` lists them with their values in this recipe.""",
    "sweep": "[Sweeps](sweeps.md) explains searches, resuming and clusters.",
    "reproduce": "[Baselines](results/README.md) lists the studies that were run.",
    "probe": "[Supervised training and probes](supervised.md) explains the interventions.",
}


def page() -> str:
    """Return the text of the page."""
    sections = "\n".join(section(name, command) for name, command in COMMANDS.items())
    return f"""<!-- Written by docs/generate_commands.py from agents/plastic_agents/cli/commands: edit it there. -->

# Command line

`pip install -e '.[agents]'` installs the command `plastic-rnn`. `plastic-rnn COMMAND --help` prints what this page
says. A mistake in the arguments is one line on standard error, with exit code 2. The same command resumes an
interrupted training, sweep or study.

{sections}"""


def section(name: str, command: type) -> str:
    """Return the section of a command: what it does, examples, and tables of its arguments and options."""
    documentation = parse(command.__doc__ or "")
    texts = {entry.arg_name: " ".join((entry.description or "").split()) for entry in documentation.params}
    rows = "\n".join(row(*entry, texts) for entry in arguments(command))
    parts = [
        f"## {name}",
        documentation.short_description or "",
        documentation.long_description or "",
        NOTES.get(name, ""),
        f"```sh\n{EXAMPLES[name]}\n```",
        f"| argument | meaning |\n|---|---|\n{rows}" if rows else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def arguments(command: type) -> Iterator[tuple[Field[Any], Any, list[Any]]]:
    """Return the fields of a command, each with its type and tyro's marks, positional arguments first."""
    hints = get_type_hints(command, include_extras=True)
    found = [(field, *stripped(hints[field.name])) for field in fields(command)]
    yield from sorted(found, key=lambda entry: not is_positional(entry[0], entry[2]))


def stripped(hint: Any) -> tuple[Any, list[Any]]:
    """Return a type without its annotations, and these."""
    marks: list[Any] = []
    while get_origin(hint) is Annotated:
        hint, *more = get_args(hint)
        marks += more
    return hint, marks


def is_positional(field: Field[Any], marks: list[Any]) -> bool:
    """Return whether an argument is given without a name. tyro makes one of the recipe, a choice of subcommands."""
    return field.name == "recipe" or tyro.conf.Positional[int].__metadata__[0] in marks


def row(field: Field[Any], kind: Any, marks: list[Any], texts: dict[str, str]) -> str:
    """Return the row of an argument."""
    if is_positional(field, marks):
        names = [mark.metavar for mark in marks if getattr(mark, "metavar", None)]
        name = names[0] if names else field.name.upper()
    else:
        name = "--" + field.name.replace("_", "-")
    facts = [values(kind)]
    if field.default is MISSING:
        facts.append("required")
    elif field.default not in (None, ()) and field.default is not False:
        value = field.default
        facts.append(f"default `{' '.join(map(str, value)) if isinstance(value, tuple) else value}`")
    note = "; ".join(fact for fact in facts if fact)
    return f"| `{name}` | {texts[field.name]}{f' *({note})*' if note else ''} |"


def values(kind: Any) -> str:
    """Return in words what values an argument of a type takes."""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return ", ".join(values(option) for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is tuple:
        return "one or more"
    return {int: "a whole number", float: "a number"}.get(kind, "")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
