"""Tests that the generated pages of the plasticity rules are up to date."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def generator(docs_script):
    return docs_script("generate_rules")


def test_generated_pages_are_up_to_date(generator):
    pages = generator.pages()
    advice = "run: python docs/generate_rules.py"
    assert {path.name for path in generator.FOLDER.iterdir()} == set(pages), advice
    for name, text in pages.items():
        assert (generator.FOLDER / name).read_text(encoding="utf-8") == text, f"{name} is stale; {advice}"


def test_site_shows_the_page_of_each_rule(generator):
    navigation = (ROOT / "mkdocs.yml").read_text()
    for name in generator.rules():
        assert f"- {name}: rules/{name}.md" in navigation
