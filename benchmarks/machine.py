"""Description of the machine, to print with the results of a benchmark, and measurement of times in turn."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_VECTORS = ("avx512f", "avx2", "avx", "sse2", "asimd")


def describe() -> dict[str, str]:
    """Return the CPU, its widest vectors, cache, usable cores, and versions, as text."""
    information = _read("/proc/cpuinfo")
    model_name = re.search(r"model name\s*:\s*(.*)", information)
    flags = set(information.split())
    cache = re.search(r"\d+", _read("/sys/devices/system/cpu/cpu0/cache/index2/size"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    described = {
        "CPU": model_name.group(1) if model_name else platform.processor() or platform.machine(),
        "vectors": next((flag for flag in _VECTORS if flag in flags), "unknown"),
        "second-level cache": f"{cache.group()} KB" if cache else "unknown",
        "cores": str(cores),
        "python": platform.python_version(),
        **{name: sys.modules[name].__version__ for name in ("numpy", "gymnasium", "torch") if name in sys.modules},
    }
    if "torch" in sys.modules:
        described |= _describe_torch()
    return described


def _describe_torch() -> dict[str, str]:
    import torch
    from plastic_agents.models.plastic.forms.compiled import build

    return {
        "torch's vectors": torch.backends.cpu.get_cpu_capability(),
        "torch's threads": str(torch.get_num_threads()),
        "compiler": " ".join(next(build.compilers(), ["none"])),
    }


def line() -> str:
    """Return the description in one line."""
    return "; ".join(f"{name}: {value}" for name, value in describe().items())


def times_in_turn(
    functions: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the seconds of each function in every round, by name; a round calls each function once, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(rounds + 1):
        for name, function in functions.items():
            start = clock()
            function()
            if round_number > 0:  # round 0 builds, allocates and warms up
                seconds[name].append(clock() - start)
    return seconds


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
