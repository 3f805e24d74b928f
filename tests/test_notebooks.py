"""The notebooks run at a small size, and store the outputs of a whole run."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
from plastic_agents.models.plastic.rule import RULES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
# Replacements that make the code faster.
SMALLER = {
    "steps=1200": "steps=3",
    "evaluation_episodes=500": "evaluation_episodes=4",
    "episodes=1000": "episodes=4",
    "n_eval_episodes=256": "n_eval_episodes=4",
    "learn(100_000)": "learn(768)",
    "learn(2 * 64 * 24)": "learn(64 * 24)",
    'check_rule("covariance")': 'check_rule("covariance", cells=["rnn"])',
}


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("run_notebooks", ROOT / "docs" / "run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, runner):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells), f"run: python docs/run_notebooks.py {path}"
    outputs = [len(cell["outputs"]) for cell in cells]

    def smaller(code):
        for full, small in SMALLER.items():
            code = code.replace(full, small)
        return code

    rules = dict(RULES)
    try:
        runner.run(notebook, smaller)
    finally:
        RULES.clear()
        RULES.update(rules)
    assert [len(cell["outputs"]) for cell in cells] == outputs


def test_every_replacement_has_its_code():
    text = "".join(path.read_text(encoding="utf-8").replace('\\"', '"') for path in NOTEBOOKS)
    assert [full for full in SMALLER if full not in text] == []


def test_pages_describe_the_figures(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "builder"))
    from notebooks import notebook_page

    for path in NOTEBOOKS:
        text, pictures = notebook_page(path)
        descriptions = re.findall(r"!\[(.*)\]\((.*)\)", text)
        assert [name for _, name in descriptions] == list(pictures)
        for description, name in descriptions:
            assert description != "Figure of the cell above", f"{name} needs an alt in the metadata of its cell"
            assert description.endswith(".")
