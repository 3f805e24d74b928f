"""The engine of sweeps in tests."""

import pytest

from tests.plastic_agents.sweeps import Engine


@pytest.fixture
def engine(monkeypatch):
    return Engine(monkeypatch)
