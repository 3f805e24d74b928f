"""Settings that all tests of the agents share."""

from __future__ import annotations

import torch

# The tests' tensors are small: two threads on busy cores wait for each other a hundred times longer than they work.
torch.set_num_threads(1)
