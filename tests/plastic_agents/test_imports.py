"""Lazy imports: the package, its networks and the fast commands need few other packages.

Each test imports in a new process, with modules blocked: importing a blocked module raises ModuleNotFoundError.
"""

import ast
import importlib
import inspect
import os
import subprocess
import sys

import plastic_agents
import pytest

EXTRAS = ("stable_baselines3", "matplotlib", "tyro", "tqdm", "rich", "tensorboard", "pandas", "ray", "tensordict")
HEAVY = ("torch", "stable_baselines3", "matplotlib", "tqdm", "tensorboard", "pandas", "ray", "tensordict")


# A finder, since some libraries look for the key in sys.modules and then import.
BLOCKER = """
import sys
class Blocker:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"import of {{name}} halted", name=name)
sys.meta_path.insert(0, Blocker)
"""


def run(code, blocked=()):
    """Run code in a new process in which the modules are missing."""
    setup = BLOCKER.format(blocked=blocked)
    return subprocess.run(
        [sys.executable, "-c", setup + code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("module", [*EXTRAS[:6], "torch"])
def test_a_blocked_module_cannot_be_imported(module):
    result = run(f"import {module}", blocked=(module,))
    assert result.returncode == 1
    assert f"ModuleNotFoundError: import of {module} halted" in result.stderr


def test_the_package_imports_neither_torch_nor_extras():
    result = run("import plastic_agents; print(plastic_agents.__version__)", blocked=("torch", *EXTRAS))
    assert (result.stdout, result.stderr) == (f"{plastic_agents.__version__}\n", "")


@pytest.mark.parametrize("rule", ["hebbian", "gradient", "none"])
def test_networks_need_only_torch(rule):
    code = f"""
import torch
from plastic_agents import CoreOutput, Hooks, NetworkConfig, PlasticNetwork, Plasticity, RecurrentCore, State, TorchRNN
network = NetworkConfig({rule!r}, hidden_size=4).make_core(3, 2)
assert isinstance(network, RecurrentCore)
output, state = network.unroll(torch.zeros(5, 2, 3))
print(type(network).__name__, list(output.y.shape))
"""
    result = run(code, blocked=EXTRAS)
    name = "TorchRNN" if rule == "none" else "PlasticNetwork"
    assert (result.stdout, result.stderr) == (f"{name} [5, 2, 2]\n", "")


@pytest.mark.parametrize(
    "name", ["SUPERVISED_RECIPES", "REINFORCEMENT_RECIPES", "SupervisedConfig", "ReinforcementConfig"]
)
def test_configurations_need_only_torch(name):
    result = run(f"from plastic_agents import {name}", blocked=EXTRAS)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("argument", "output"),
    [
        ("--version", f"plastic-rnn {plastic_agents.__version__}\n"),
        ("--help", "usage: plastic-rnn "),
        ("envs", "PlasticRNN/Bandit-v0\n"),
        ("models", "          "),
    ],
)
def test_fast_commands_do_not_import_torch(argument, output):
    command = f"sys.argv = ['plastic-rnn', {argument!r}]; runpy.run_module('plastic_agents', run_name='__main__')"
    result = run(f"import runpy; {command}", blocked=HEAVY)
    assert result.stdout.startswith(output)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("name", "missing"),
    [("RecurrentPPO", "stable_baselines3"), ("adaptation_figure", "matplotlib"), ("PlasticNetwork", "torch")],
)
def test_a_missing_extra_is_named_with_the_pip_command(name, missing):
    code = f"""
import plastic_agents
try:
    plastic_agents.{name}
except ModuleNotFoundError as error:
    print(error.name)
    print(error)
"""
    # A hook gives the error of a package that is not installed.
    hook = f"""
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
    result = run(hook + code)
    name_line, message = result.stdout.splitlines()
    assert name_line.partition(".")[0] == missing
    assert message.startswith(f"plastic_agents.{name} needs {missing}")
    assert message.endswith("run pip install -e '.[agents]' in the project's folder")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'plastic_agents' has no attribute 'Unknown'"):
        _ = plastic_agents.Unknown


def test_type_checkers_and_the_interpreter_see_the_same_names():
    tree = ast.parse(inspect.getsource(plastic_agents))
    (block,) = [
        node for node in tree.body if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    imports = {}
    for statement in block.body:
        (alias,) = statement.names
        assert alias.asname == alias.name  # "as" re-exports the name
        imports[alias.name] = statement.module.removeprefix("plastic_agents.")
    assert imports == plastic_agents._MODULES
    assert set(plastic_agents.__all__) == {"__version__", *imports}


@pytest.mark.parametrize("name", plastic_agents.__all__)
def test_every_public_name_is_importable(name):
    value = getattr(plastic_agents, name)
    if name in plastic_agents._MODULES:
        module = importlib.import_module(f"plastic_agents.{plastic_agents._MODULES[name]}")
        assert value is getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__module__ == module.__name__
    assert name in dir(plastic_agents)
