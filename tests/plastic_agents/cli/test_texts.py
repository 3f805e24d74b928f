"""Plain text from tyro's messages; their frames and colours depend on tyro's version and on the terminal."""

import pytest
from plastic_agents.cli.texts import complaint, help_page

SUGGESTIONS = [
    "╭─ Unrecognized options ───────────────────────╮",
    "│ Unrecognized options: --steps, 10            │",
    "│ ──────────────────────────────────────────── │",
    "│ Available subcommands: training.curriculum:a │",
    "│ ──────────────────────────────────────────── │",
    "│ Perhaps you meant:                           │",
    "│     --step {None}|INT                        │",
    "│         as with --steps                      │",
    "│             in plastic-rnn probe --help      │",
    "│     --training.steps INT                     │",
    "│         see --help                           │",
    "│             in plastic-rnn train a --help    │",
    "│             in plastic-rnn probe --help      │",
    "│ ──────────────────────────────────────────── │",
    "│ For full helptext, run plastic-rnn --help    │",
    "╰──────────────────────────────────────────────╯",
]
RED, RESET = "\x1b[31m", "\x1b[0m"


def coloured(lines):
    return [f"{RED}{line[0]}{RESET} \x1b[1;36m{line[2:-1]}\x1b[m{RED}{line[-1]}{RESET}" for line in lines]


def ascii_only(lines):
    return [line.replace("│", " ").translate(str.maketrans("─╭╮╰╯", "- -- ", "")) for line in lines]


@pytest.mark.parametrize("form", [list, coloured, ascii_only])
@pytest.mark.parametrize(("command", "meant"), [("train", "--training.steps"), ("probe", "--step or --training.steps")])
def test_options_of_the_command_are_suggested(form, command, meant):
    box = "\n".join(form(SUGGESTIONS)) + "\n"
    assert complaint(box, command) == f"Unrecognized options: --steps, 10; perhaps you meant {meant}"
    assert complaint(box, "envs") == "Unrecognized options: --steps, 10"


def test_an_option_of_a_recipe_before_its_name_is_named():
    box = "\n".join(SUGGESTIONS).replace("--steps, 10  ", "--training.steps")
    assert complaint(box, "train") == "--training.steps is a setting of a recipe, and must come after the recipe's name"


def test_help_has_no_markup_and_keeps_its_width():
    page = [
        f"usage: plastic-rnn train [-h] {{{','.join(f'recipe-{number}' for number in range(20))}}}",
        "",
        "A description that has so many words that it does not fit into one line of ``40`` columns.",
        "",
        f"{RED}╭─ options ────────────────────────────╮{RESET}",
        "│ --rule ``hebb`` or ``none``          │",
        "╰──────────────────────────────────────╯",
    ]
    assert help_page("\n".join(page), 40).splitlines() == [
        "usage: plastic-rnn train [-h] RECIPE",
        "",
        "A description that has so many words",
        "that it does not fit into one line of 40",
        "columns.",
        "",
        "╭─ options ────────────────────────────╮",
        "│ --rule hebb or none                  │",
        "╰──────────────────────────────────────╯",
    ]
