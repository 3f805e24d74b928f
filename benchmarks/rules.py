"""Processor time of the compiled form of every plasticity rule, as a ratio to the Hebbian rule's in the same run.

    python benchmarks/rules.py [--rounds 9] [--rules hebbian,delta] [--dense]

A measurement is a forward and a backward pass over random inputs, in one thread, of networks with 128 hidden units in
which all layers are plastic. Every round measures all rules in turn. The script compares the lower quartiles, so that
other load on the machine affects all rules alike. `dense` is the ratio of the dense form to the compiled one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

# The script runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "agents"))

import machine
import torch
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.rule import RULES
from plastic_agents.models.plastic.update import LAYER_KINDS, Plasticity

HIDDEN_SIZE, INPUTS, OUTPUTS = 128, 16, 4
SIZES = ((20, 8), (20, 64), (50, 8), (50, 64))


def passes(rule: str, cell: str, steps: int, batch_size: int, form: str) -> Callable[[], None]:
    """Return a function that makes a forward and a backward pass."""
    torch.manual_seed(0)
    network = PlasticNetwork(INPUTS, HIDDEN_SIZE, OUTPUTS, cell, rule, Plasticity(layers=LAYER_KINDS))
    xs = torch.randn(steps, batch_size, INPUTS)

    def run() -> None:
        output, _ = network.unroll(xs, form=form)  # type: ignore[arg-type]
        output.y.square().sum().backward()

    return run


def measure(functions: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Return the lower quartile of each function's processor time in milliseconds, measured in turn."""
    times = machine.times_in_turn(functions, rounds, time.process_time)
    return {name: 1e3 * sorted(seconds)[len(seconds) // 4] for name, seconds in times.items()}


def main() -> None:
    """Measure and print a table with a row for each rule."""
    parser = argparse.ArgumentParser(description="Processor time of every plasticity rule.")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds of all rules (default: 9)")
    parser.add_argument("--rules", default=",".join(RULES), help="rules to measure (default: all)")
    parser.add_argument("--dense", action="store_true", help="also measure the dense form")
    options = parser.parse_args()
    rules = options.rules.split(",")
    if unknown := set(rules) - set(RULES):
        parser.error(f"--rules must be some of {', '.join(RULES)}, got {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    print(machine.line(), end="\n\n")
    for cell in ("rnn", "lstm"):
        columns = [f"T = {steps}, B = {batch_size}" for steps, batch_size in SIZES]
        dense = [f"dense, T = {SIZES[1][0]}, B = {SIZES[1][1]}"] if options.dense else []
        print("| ".join([f"| {cell.upper()} {HIDDEN_SIZE} ", *(f"{name} " for name in [*columns, *dense])]) + "|")
        print("|---" * (1 + len(columns) + len(dense)) + "|", flush=True)
        ratios: dict[str, list[str]] = {rule: [] for rule in rules}
        for steps, batch_size in SIZES:
            names = list(dict.fromkeys(["hebbian", *rules]))
            times = measure({n: passes(n, cell, steps, batch_size, "compiled") for n in names}, options.rounds)
            for rule in rules:
                ratios[rule].append(f"{times[rule]:.0f} ms, {times[rule] / times['hebbian']:.2f}")
        if options.dense:
            steps, batch_size = SIZES[1]
            for rule in rules:
                forms = {form: passes(rule, cell, steps, batch_size, form) for form in ("compiled", "dense")}
                times = measure(forms, 3)
                ratios[rule].append(f"{times['dense'] / times['compiled']:.1f}")
        for rule in rules:
            print("| ".join([f"| {rule} ", *(f"{value} " for value in ratios[rule])]) + "|", flush=True)
        print()


if __name__ == "__main__":
    main()
