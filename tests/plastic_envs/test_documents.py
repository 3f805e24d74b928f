"""Tests that generated pages are up to date and that the example and the benchmark run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import plastic_envs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator(docs_script):
    return docs_script("generate_environments")


def test_generated_pages_are_up_to_date(generator):
    pages, animations = generator.pages(), generator.animations()
    advice = "run: python docs/generate_environments.py"
    assert {path.name for path in generator.FOLDER.iterdir()} == set(pages) | set(animations), advice
    for name, text in pages.items():
        assert (generator.FOLDER / name).read_text(encoding="utf-8") == text, f"{name} is stale; {advice}"
    assert generator.README.read_text(encoding="utf-8") == generator.readme(), f"README.md is stale; {advice}"
    for name, frames in animations.items():
        assert (generator.FOLDER / name).stat().st_size <= 300_000
        with Image.open(generator.FOLDER / name) as file:
            assert file.n_frames == len(frames), f"{name} is stale; {advice}"
            for index in (0, len(frames) // 2, len(frames) - 1):
                file.seek(index)
                written = np.asarray(file.convert("RGB")).astype(int)
                # A GIF has fewer colours.
                differs = np.abs(written - frames[index]).max(axis=-1) > 24
                assert differs.mean() < 2e-3, f"{name} is stale; {advice}"


def test_every_environment_page_documents_all_arguments(generator):
    pages = generator.pages()
    for env_id in plastic_envs.registered_ids():
        text = pages[f"{env_id.partition('/')[2]}.md"]
        task = plastic_envs.make_task(env_id)
        for heading in ("Observation Space", "Action Space", "Rewards", "Episode End", "Oracle", "Source", "Version"):
            assert f"## {heading}" in text
        defaults = task.__init__.__kwdefaults__
        for name, value in defaults.items():
            assert f"| `{name}` | {type(value).__name__} | {value}" in text, (
                f"{env_id} does not document {name}={value}"
            )


def test_your_own_task_example_runs():
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / "your_own_task.py"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "oracle 1.00, memoryless 0.00" in result.stdout


def test_your_own_task_example_has_at_most_40_lines():
    text = (ROOT / "examples" / "your_own_task.py").read_text()
    lines = [line for line in text.partition('if __name__ == "__main__"')[0].splitlines() if line.strip()]
    assert len(lines) <= 40


def test_benchmark_runs_and_writes_json(tmp_path):
    script, file = ROOT / "benchmarks" / "environments.py", tmp_path / "figures.json"
    command = [sys.executable, script, "--seconds", "0.001", "--rounds", "1", "--json", file]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text())["figures"]
    assert {figure["of"] for figure in figures} >= {*plastic_envs.registered_ids(), "CartPole-v1"}
    assert all(figure["rate"] > 0 for figure in figures)
