"""Time and memory of an outer training step: plastic networks, their naive form, and torch's own networks.

    python benchmarks/unroll.py [--json FILE] [--rounds 7] [--threads N] [--device cpu] [--forms]

An outer step consists of forward, backward, gradient clipping and AdamW on 64 sequences of random inputs. `ours` is the
form that `unroll` chooses. `naive` is the published method, `plastic_agents.models.plastic.reference`: dense fast
weights, and autograd with `create_graph=True` for the inner gradient of every step. `non-plastic` is torch's own
network, 1.5 times wider, with about as many parameters. Every round measures all methods in turn, and the script
compares medians, so that other load on the machine affects all methods alike. Peak memory is that of a separate process
that makes three steps.
"""

from __future__ import annotations

import os

# Waiting threads must not occupy the CPU. OpenMP reads this when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# The script runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "agents"))

import machine
import torch
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.reference import reference_unroll
from plastic_agents.models.torch_rnn import TorchRNN
from torch import Tensor, nn

BATCH_SIZE = 64
HIDDEN_SIZE = 128
GOAL_OVER_NAIVE = {"cue-reward": 15.0, "reproduction": 10.0, "regression": 10.0}
GOAL_OVER_NON_PLASTIC = 4.0
GOAL_BYTES = 0.5e9


class Setting(NamedTuple):
    """Sizes of a task (T steps, I inputs, O outputs), and the cell of the network."""

    task: str
    steps: int
    inputs: int
    outputs: int
    cell: str

    def __str__(self) -> str:
        return f"{self.task}, T = {self.steps}, {self.cell.upper()} {HIDDEN_SIZE}"


SETTINGS = (
    Setting("cue-reward", 20, 16, 1, "rnn"),
    Setting("cue-reward", 20, 16, 1, "lstm"),
    Setting("reproduction", 50, 3, 1, "rnn"),
    Setting("regression", 40, 14, 1, "rnn"),
)
NON_PLASTIC = "non-plastic"


def method_names(forms: bool) -> list[str]:
    """Return the names of all measured methods."""
    methods = ["ours", "naive", *(["dense", "implicit"] if forms else [])]
    return [f"{rule} {method}" for rule in ("gradient", "hebbian") for method in methods] + [NON_PLASTIC]


def outer_step(setting: Setting, name: str, device: str) -> Callable[[], None]:
    """Return a function that makes one outer step and waits for its end."""
    torch.manual_seed(0)
    network: nn.Module
    outputs: Callable[[Tensor], Tensor]
    if name == NON_PLASTIC:
        network = plain = TorchRNN(setting.inputs, HIDDEN_SIZE * 3 // 2, setting.outputs, setting.cell)
        outputs = lambda xs: plain.unroll(xs)[0].y  # noqa: E731
    else:
        rule, method = name.split()
        network = plastic = PlasticNetwork(setting.inputs, HIDDEN_SIZE, setting.outputs, setting.cell, rule)  # type: ignore[arg-type]
        if method == "naive":
            outputs = lambda xs: reference_unroll(plastic, xs)[0].y  # noqa: E731
        else:
            form = "auto" if method == "ours" else method
            outputs = lambda xs: plastic.unroll(xs, form=form)[0].y  # type: ignore[arg-type]  # noqa: E731
    network.to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.0, amsgrad=True)
    xs = torch.randn(setting.steps, BATCH_SIZE, setting.inputs, device=device)
    target = torch.randn(setting.steps, BATCH_SIZE, setting.outputs, device=device)

    def step() -> None:
        optimiser.zero_grad()
        (outputs(xs) - target).square().mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def times(setting: Setting, names: list[str], rounds: int, device: str) -> dict[str, float]:
    """Return the median seconds of an outer step for each method, measured in turn."""
    steps = {name: outer_step(setting, name, device) for name in names}
    return {name: statistics.median(seconds) for name, seconds in machine.times_in_turn(steps, rounds).items()}


def peak_bytes(setting: Setting, name: str, device: str) -> int:
    """Return the peak memory of a new process that makes three steps (on a GPU: of its tensors)."""
    threads = str(torch.get_num_threads())
    arguments = ["--peak", str(SETTINGS.index(setting)), name, "--device", device, "--threads", threads]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


def print_peak(setting: Setting, name: str, device: str) -> None:
    """Print the peak memory of three steps; `peak_bytes` calls it in a new process."""
    step = outer_step(setting, name, device)
    for _ in range(3):
        step()
    if device != "cpu":
        print(torch.cuda.max_memory_allocated())
    elif sys.platform == "linux":  # on Linux, getrusage includes the peak of the parent process
        status = Path("/proc/self/status").read_text()
        print(1024 * int(status.split("VmHWM:")[1].split()[0]))
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure(setting: Setting, forms: bool, rounds: int, device: str) -> list[dict[str, object]]:
    """Return a row for each method, with its ratios."""
    names = method_names(forms)
    seconds = times(setting, names, rounds, device)
    rows = []
    for name in names:
        row: dict[str, object] = {**setting._asdict(), "name": name, "seconds": seconds[name]}
        row["peak_bytes"] = peak_bytes(setting, name, device)
        if name != NON_PLASTIC:
            row["naive_over_this"] = seconds[f"{name.split()[0]} naive"] / seconds[name]
            row["this_over_non_plastic"] = seconds[name] / seconds[NON_PLASTIC]
        rows.append(row)
    return rows


def print_rows(rows: list[dict[str, object]]) -> None:
    """Print the rows of a setting as lines of a table."""
    for row in rows:
        ratios = ["", ""]
        if "naive_over_this" in row:
            ratios = [f"{row['naive_over_this']:.1f}", f"{row['this_over_non_plastic']:.1f}"]
        setting = Setting(*(row[field] for field in Setting._fields))  # type: ignore[arg-type]
        print(
            f"| {setting} | {row['name']} | {1e3 * float(row['seconds']):.0f} | {ratios[0]} | {ratios[1]} "  # type: ignore[arg-type]
            f"| {float(row['peak_bytes']) / 1e6:.0f} |",  # type: ignore[arg-type]
            flush=True,
        )


def main() -> None:
    """Measure, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description="Time and memory of an outer training step, by several methods.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds of all methods (default: 7)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="torch's threads (default: torch's)"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--forms", action="store_true", help="also measure the forms that unroll does not choose")
    parser.add_argument("--peak", nargs=2, metavar=("SETTING", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds must be 1 or more, got {options.rounds}")
    if options.threads < 1:
        parser.error(f"--threads must be 1 or more, got {options.threads}")
    torch.set_num_threads(options.threads)
    if options.peak is not None:
        print_peak(SETTINGS[int(options.peak[0])], options.peak[1], options.device)
        return

    print(machine.line(), end="\n\n")
    print("| task and network | method | ms | naive / this | this / non-plastic | peak MB |")
    print("|---|---|---|---|---|---|")
    rows = []
    for setting in SETTINGS:
        setting_rows = measure(setting, options.forms, options.rounds, options.device)
        print_rows(setting_rows)
        rows += setting_rows
    if options.json is not None:
        about = {
            **machine.describe(),
            "device": options.device,
            "rounds": options.rounds,
            "batch_size": BATCH_SIZE,
            "hidden_size": HIDDEN_SIZE,
            "goals": {
                "naive_over_ours": GOAL_OVER_NAIVE,
                "ours_over_non_plastic": GOAL_OVER_NON_PLASTIC,
                "peak_bytes": GOAL_BYTES,
            },
        }
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
