"""The code of the README and of pages that need no data runs at a small size, and the targets of links exist."""

import re
from pathlib import Path

import gymnasium
import pytest
from plastic_agents.models.plastic.rule import RULES

from plastic_envs import registration

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), ROOT / "benchmarks" / "README.md"]
DOCS_WITH_CODE = ("README", "supervised", "trained_networks", "actor-critic", "your_own", "environments/README")
WITH_CODE = ("README.md", *(f"docs/{page}.md" for page in DOCS_WITH_CODE))
BLOCKS = {
    f"{page}: {code.splitlines()[0][:40]}": code
    for page in WITH_CODE
    for code in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
}
# Replacements that make the code faster.
SMALLER = {
    "steps=2500": "steps=3, evaluation_episodes=4",
    "episodes=1000": "episodes=4",
    "hidden_size=128": "hidden_size=8",
    "model.learn(300_000)": "model.learn(1536)",
    "model.learn(100_000)": "model.learn(2048)",
    "n_eval_episodes=2048": "n_eval_episodes=64",
}


@pytest.mark.parametrize("code", BLOCKS.values(), ids=BLOCKS)
def test_code_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Remove what the code registers at the end of the test.
    monkeypatch.setattr(registration, "TASKS", dict(registration.TASKS))
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    rules = dict(RULES)
    for full, small in SMALLER.items():
        code = code.replace(full, small)
    try:
        exec(compile(code, "page", "exec"), {"__name__": "page"})
    finally:
        RULES.clear()
        RULES.update(rules)


def test_code_with_a_run_folder_can_run_again():
    assert [name for name, code in BLOCKS.items() if "run_dir=" in code and "start_or_resume(" not in code] == []


def test_every_replacement_has_its_code():
    assert [full for full in SMALLER if not any(full in code for code in BLOCKS.values())] == []


def test_page_shows_the_example_of_a_task():
    (code,) = (block for block in BLOCKS.values() if "class RepeatFirst" in block)
    assert code in (ROOT / "examples" / "your_own_task.py").read_text()


def test_page_shows_the_example_of_a_rule():
    (code,) = (block for block in BLOCKS.values() if "class Covariance" in block)
    example = (ROOT / "examples" / "your_own_rule.py").read_text()
    imports, _, rule = code.partition("\n\n\n")
    assert rule in example
    assert all(word in example for word in imports.replace(",", "").split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_link_targets_exist(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / target).exists(), target
