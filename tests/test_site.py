"""The site builds without a warning, the functions that pages link to exist, and the commands on pages work."""

import ast
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from plastic_agents import SUPERVISED_RECIPES
from plastic_agents.sweep.reproduce import read_rows

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/**/*.md"))
EQUATIONS = (ROOT / "docs" / "equations.md").read_text()


@pytest.mark.skipif(find_spec("zensical") is None, reason="needs zensical: make docs")
def test_site_builds_without_a_warning(tmp_path):
    done = subprocess.run(
        [sys.executable, "docs/builder", "--out", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    assert (site / "index.html").as_uri() in done.stdout
    # A link to a function leads to its entry in the reference; a link to another file leads to a page that shows it.
    equations = (site / "equations.html").read_text()
    module = "plastic_agents.models.plastic.update"
    assert f"reference/{module}.html#{module}.modulated_rates" in equations
    assert "agents/plastic_agents/models/plastic/forms/compiled/passes.c.html" in equations
    assert (
        "transposed_product" in (site / "agents/plastic_agents/models/plastic/forms/compiled/passes.c.html").read_text()
    )
    assert equations.count("<math") > 50
    # The reference shows the defaults of constructors, and the public names lead to it.
    config = (site / "reference/plastic_agents.models.config.html").read_text()
    assert re.search(r"hidden_size.*?128", config)
    assert "plastic_agents.models.config.NetworkConfig" in (site / "reference/plastic_agents.html").read_text()
    # Search works from the disk.
    assert (site / "search.js").exists()


def test_builder_finds_the_faults_of_a_site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "builder"))
    from checks import SEARCHED, faults

    (tmp_path / "search.json").write_text(" ".join(SEARCHED))
    (tmp_path / "index.html").write_text('<a href="page.html#x">page</a> <a href="https://x.y">out</a>')
    (tmp_path / "page.html").write_text("")
    assert faults(tmp_path) == []
    (tmp_path / "page.html").write_text('<img src="no.png"> <script src="https://x.y/z.js"> <b class="arithmatex">')
    (tmp_path / "search.json").write_text("")
    assert len(faults(tmp_path)) == 3 + len(SEARCHED)


def defined_in(path):
    """Return the names of a file's functions, classes and methods."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
            yield from (f"{node.name}.{member.name}" for member in node.body if isinstance(member, ast.FunctionDef))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_functions_that_pages_link_to_exist(page):
    for target, name in re.findall(r"\]\((?!http)([^)#]+\.py)#([^)]+)\)", page.read_text()):
        assert name in defined_in(page.parent / target), f"{target} has no {name}"


@pytest.mark.parametrize("section", EQUATIONS.split("\n## ")[1:11], ids=lambda section: section.splitlines()[0])
def test_each_equation_links_to_its_function(section):
    assert re.search(r"\]\(\.\./agents/\S+\.py#\w+", section)


def test_commands_that_reproduce_the_paper_name_studies_and_recipes():
    page = (ROOT / "docs" / "reproducing.md").read_text()
    commands = re.findall(r"^plastic-rnn (\w+) (\S+)", page, flags=re.MULTILINE)
    assert read_rows([row for command, row in commands if command == "reproduce"])
    assert {name for command, name in commands if command == "train"} <= set(SUPERVISED_RECIPES)
    assert {command for command, _ in commands} == {"reproduce", "train"}
