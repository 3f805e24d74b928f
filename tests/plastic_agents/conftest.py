"""Settings that all tests of the agents share."""

from __future__ import annotations

import signal

import pytest
import torch

# The tests' tensors are small: two threads on busy cores wait for each other a hundred times longer than they work.
torch.set_num_threads(1)
# A shell's background jobs ignore Ctrl-C, which some tests press.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded():
    """Draw the same parameters in every run: a test that fails must fail again."""
    torch.manual_seed(0)
