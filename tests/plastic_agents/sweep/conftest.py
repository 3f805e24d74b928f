"""The engine of sweeps in tests, and training without figures."""

import pytest
from plastic_agents.training.tensorboard import RunLog

from tests.plastic_agents.sweeps import Engine


@pytest.fixture
def engine(monkeypatch):
    return Engine(monkeypatch)


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """The figures of evaluations would take most of the time; the tests of TensorBoard check them."""
    monkeypatch.setattr(RunLog, "evaluation", lambda *arguments: None)
