"""Progress bars of training."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm


def make_progress_bar(total: int, *, show: bool, initial: int = 0, description: str | None = None) -> Any:
    """Return a tqdm bar that counts steps; outside a terminal it prints a line every 30 seconds at most."""
    return tqdm(
        total=total,
        initial=initial,
        desc=description,
        unit="step",
        disable=not show,
        mininterval=0.5 if sys.stderr.isatty() else 30.0,
    )
