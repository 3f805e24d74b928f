"""Settings of all tests of plastic_agents."""

from __future__ import annotations

import signal

import pytest
import torch

# The tests use small tensors: on busy CPU cores, two threads would wait for each other much longer than they work.
torch.set_num_threads(1)
# Background jobs of a shell ignore SIGINT, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seed():
    """Seed torch, so that a test that fails will fail again."""
    torch.manual_seed(0)
