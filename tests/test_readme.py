"""The README's code runs as written, at a small size."""

import re
from pathlib import Path

import gymnasium
import pytest

from plastic_envs import registration

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
# What makes the code quick without changing what it does.
SMALLER = {
    "steps=2500": "steps=3, evaluation_episodes=4",
    "episodes=1000": "episodes=4",
    "hidden_size=128": "hidden_size=8",
}


@pytest.mark.parametrize("code", BLOCKS, ids=lambda code: code.splitlines()[0][:40])
def test_code_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What the code registers is forgotten afterwards.
    monkeypatch.setattr(registration, "TASKS", dict(registration.TASKS))
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    for full, small in SMALLER.items():
        code = code.replace(full, small)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_own_task_is_the_example():
    (code,) = (block for block in BLOCKS if "class RepeatFirst" in block)
    assert code in (README.parent / "examples" / "your_own_task.py").read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= 40


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text()):
        assert (README.parent / target).exists(), target
