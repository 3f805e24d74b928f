"""Tests that the generated page of the command line is up to date, and that its examples are valid commands."""

import pytest
from plastic_agents.cli.commands import COMMANDS
from plastic_agents.cli.main import _parse


@pytest.fixture(scope="module")
def generator(docs_script):
    return docs_script("generate_commands")


def test_generated_page_is_up_to_date(generator):
    text = generator.PAGE.read_text(encoding="utf-8")
    assert text == generator.page(), "the page is stale; run: python docs/generate_commands.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_valid(generator, name):
    for line in generator.EXAMPLES[name].splitlines():
        program, *arguments = line.split()
        assert program == "plastic-rnn"
        assert arguments[0] == name
        _parse(arguments)
