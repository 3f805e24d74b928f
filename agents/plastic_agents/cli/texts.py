"""Plain text from the output of tyro, the parser: mistakes in one line, help pages that fit the terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches

_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_NOT_WHOLE = re.compile(r"invalid literal for int\(\) with base 10: ('[^']*')")
_NO_NUMBERS = re.compile(r"Error parsing (--[\w-]+): Could not find valid parse for arguments: (\[.*\])")
_RULE = re.compile("[-─╰╯╭╮ ]+")  # also where the terminal's encoding has no frames


def complaint(box: str, command: str) -> str:
    """Put a framed message of tyro's into one line: what is wrong, and what may have been meant.

    Args:
        box: the message.
        command: the word after ``plastic-rnn``; options of other commands are not suggested.
    """
    sections: list[list[str]] = []
    for line in [line.strip("│") for line in _COLOUR.sub("", box).splitlines() if line][1:]:
        if not sections or _RULE.fullmatch(line):
            sections.append([])
        if not _RULE.fullmatch(line):
            sections[-1].append(line)
    sections = [section for section in sections if section]
    message = " ".join(" ".join(sections[0]).split()).replace("__tyro-dummy-inner__.recipe.", "--")
    if command == "train" and message.startswith("Expected one of {"):  # for tyro, recipes are subcommands
        return f"RECIPE is missing, such as {message.partition('{')[2].partition(',')[0]}"
    if command == "sweep":  # whose options with several values take the words up to the next option
        message = _NO_NUMBERS.sub(r"\1 must be whole numbers, got \2; names of recipes come before \1", message)
    if not message.startswith("Unrecognized"):
        return _NOT_WHOLE.sub(r"a whole number is needed, got \1", message)
    words = message.partition(": ")[2]
    word = words.partition(",")[0]
    if word.startswith("-"):
        meant = _similar_options(sections[1:], command)
        option = re.split("[ =]", word)[0]
        if option in meant:
            return f"{option} is a setting of a recipe, and must come after the recipe's name"
    else:
        message = f"unknown {'command' if word == command else 'argument'} {words}"
        choices = _subcommands(sections[1:])
        meant = get_close_matches(word, choices)
        if choices and not meant:
            return f"{message}; it must be one of {', '.join(choices)}"
    return f"{message}; perhaps you meant {' or '.join(meant)}" if meant else message


def _subcommands(sections: Sequence[Sequence[str]]) -> list[str]:
    for section in sections:
        title, _, names = " ".join(section).partition(": ")
        if title.strip() == "Available subcommands":
            return names.replace(",", " ").split()
    return []


def _similar_options(sections: Sequence[Sequence[str]], command: str) -> list[str]:
    """Return the options of ``command`` that tyro suggests, each followed by its help and its commands."""
    found: dict[str, str] = {}
    for section in sections:
        options = [match for line in section if (match := re.match(r"( *)(--[\w.-]+)", line))]
        indent = min((match[1] for match in options), default="")
        for line in section:
            match = re.match(rf"{indent}(--[\w.-]+)", line)
            name = match[1] if match else next(reversed(found), "")
            found[name] = f"{found.get(name, '')} {line.strip()}"
    return [name for name, text in found.items() if name and f"in plastic-rnn {command}" in text][:3]


def help_page(page: str, width: int) -> str:
    """Take the markup out of a help page, and wrap the lines that are outside of its frames."""
    lines = []
    for line in _COLOUR.sub("", page).splitlines():
        if line.startswith(("│", " ")):
            lines.append(_without_markup(line))
        elif line.startswith("usage: "):
            usage = re.sub(r"\{[^}]{99,}\}", "RECIPE", line)
            lines.append(textwrap.fill(usage, width, subsequent_indent=" " * 7, break_on_hyphens=False))
        elif line.startswith(("╭", "╰")):
            lines.append(line)
        else:
            lines.append(textwrap.fill(line.replace("``", ""), width))
    return "\n".join(lines) + "\n"


def _without_markup(line: str) -> str:
    """Remove the marks of code from a line in a frame, and keep its length."""
    text = line.replace("``", "")
    return text[:-1] + " " * (len(line) - len(text)) + text[-1]
