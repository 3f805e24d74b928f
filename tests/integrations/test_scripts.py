"""Run the script for each library from the command line at a tiny size, and check the pages that show the scripts."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "integrations"
PAGES = [path.read_text() for path in (ROOT / "docs" / "integrations").glob("*.md")]
# By script: the module it needs, its arguments, and a pattern of its last output.
CASES = {
    "sb3_ppo.py": ("stable_baselines3", ("--timesteps", "768"), r"return -?\d\.\d\d per episode"),
    "sb3_multi_input.py": ("stable_baselines3", ("--timesteps", "160"), r"\d\.\d\d of 2 answers correct"),
    "sb3_contrib_recurrent_ppo.py": ("sb3_contrib", ("--timesteps", "768"), r"return -?\d\.\d\d per episode"),
    "neurogym_ppo.py": ("neurogym", ("--timesteps", "2048"), r"after 2048 steps: \d\.\d\d"),
    "cleanrl_ppo.py": ("torch", ("--timesteps", "768"), r"score -?\d\.\d\d; without memory 0"),
    "torchrl_environments.py": ("torchrl", (), r"CueReward-v0: \[4, 60\] steps, 12 episodes ended"),
    "torchrl_lstm_ppo.py": ("torchrl", ("--timesteps", "768"), r"return -?\d\.\d\d per episode"),
    "torchrl_plastic_ppo.py": ("torchrl", ("--timesteps", "768"), r"return -?\d\.\d\d per episode"),
    "skrl_ppo.py": ("skrl", ("--timesteps", "48"), r"return -?\d\.\d\d per episode"),
    "rl_zoo.py": (
        "rl_zoo3",
        (
            *("train", "--algo", "plastic_ppo", "--env", "PlasticRNN/CueChoice-v0", "-n", "1536"),
            *("--conf-file", str(SCRIPTS / "rl_zoo.yml")),
        ),
        r"Saving to logs/plastic_ppo/PlasticRNN-CueChoice-v0_1",
    ),
    "tianshou_ppo.py": ("tianshou", ("--timesteps", "768"), r"return -?\d\.\d\d per episode"),
    # Without the extra ray[rllib], ray includes RLlib's files but not their dependencies, such as tree.
    "rllib_ppo.py": ("tree", ("--iterations", "1", "--module", "hebbian"), r"return -?\d\.\d\d per episode"),
}


@pytest.mark.integrations
@pytest.mark.parametrize("script", CASES)
def test_script_runs(script, tmp_path):
    library, arguments, printed = CASES[script]
    if find_spec(library) is None:
        pytest.skip(f"{script} needs {library}")
    result = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert re.search(printed, result.stdout), result.stdout


def test_every_script_is_run():
    assert {path.name for path in SCRIPTS.glob("*.py")} == set(CASES)


@pytest.mark.parametrize("script", CASES)
def test_page_shows_the_script(script):
    (page,) = (page for page in PAGES if f"](../../examples/integrations/{script})" in page)
    assert f"```python\n{(SCRIPTS / script).read_text()}```" in page


def test_page_of_rl_zoo_shows_the_settings():
    page = (ROOT / "docs" / "integrations" / "rl_zoo.md").read_text()
    assert f"```yaml\n{(SCRIPTS / 'rl_zoo.yml').read_text()}```" in page


def test_pages_have_the_recorded_curves(docs_script):
    generator = docs_script("generate_integrations")
    for path, text in generator.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale; run: python docs/generate_integrations.py"
    for page in generator.PAGES:
        assert (generator.FOLDER / f"{page}.png").exists()
