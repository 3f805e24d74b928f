"""Hypothesis settings of all tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# On a shared machine, the time of an example says nothing about the code.
settings.register_profile("shared CPU", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared CPU")


@pytest.fixture(scope="session")
def docs_script():
    """Return a function that imports a script of the folder docs by its name."""

    def load(name):
        path = Path(__file__).parents[1] / "docs" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
