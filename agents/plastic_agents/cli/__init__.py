"""The command line, ``plastic-rnn``."""

import os

# Before torch is imported: waiting threads leave the cores to other programs.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
