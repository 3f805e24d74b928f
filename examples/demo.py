"""Train Hebbian, gradient and non-plastic networks on CueReward, then show where each one keeps what it learnt.

Run from the root of the project: ``make demo``, or ``python examples/demo.py --help``. Writes a table on the terminal and
``adaptation.png``, ``results.json`` and TensorBoard's files into the run folder. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from agents import NetworkConfig, Report, SupervisedConfig, SupervisedLearner, adaptation_figure, probe, replacing

TASK = "PlasticRNN/CueReward-v0"
# Without plasticity 1.5 times wider: about as many parameters.
NETWORKS = {
    "hebbian": NetworkConfig(rule="hebbian", hidden_size=128),
    "gradient": NetworkConfig(rule="gradient", hidden_size=128),
    "none": NetworkConfig(rule="none", hidden_size=192),
}
TITLES = {"hebbian": "Hebbian plasticity", "gradient": "gradient plasticity", "none": "no plasticity, 1.5 times wider"}


@dataclass(frozen=True)
class Arguments:
    """Plastic networks learn inside an episode: train three networks and compare them.

    Attributes:
        steps: optimiser steps for each network.
        seed: of the parameters and the training episodes.
        episodes: held-out episodes for the table and the figure.
        out: the run folder.
    """

    steps: int = 1500
    seed: int = 0
    episodes: int = 2000
    out: Path = Path("runs/demo")


def trained(name: str, arguments: Arguments) -> SupervisedLearner:
    """Train one network; an earlier run with the same settings that was interrupted goes on."""
    config = SupervisedConfig(steps=arguments.steps, seed=arguments.seed)
    run_dir = arguments.out / name
    if (run_dir / "checkpoint.pt").exists():
        learner = SupervisedLearner.load(run_dir / "checkpoint.pt")
        if (
            learner.config == config
            and learner.network_config == NETWORKS[name]
            and learner.progress.step < config.steps
        ):
            print(f"{name}: going on from step {learner.progress.step} of {run_dir}")
            learner.learn()
            return learner
        shutil.rmtree(run_dir)
    learner = SupervisedLearner(TASK, NETWORKS[name], config, run_dir=run_dir)
    learner.learn()
    return learner


def print_table(reports: dict[str, Report]) -> None:
    """Print the mean squared error at queries: intact, and under each intervention."""
    first = next(iter(reports.values()))
    table = Table(
        title=f"Query MSE over {first.episodes} held-out episodes (oracle {first.oracle.mean:.3f}, "
        f"memoryless {first.memoryless.mean:.3f}); normalised: memoryless 0, oracle 1"
    )
    for column in ("network", "query MSE [95 %]", "normalised", "no writing", "fast weights erased", "hidden erased"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, report in reports.items():
        intact = report.outcomes["intact"]
        cells = [
            f"{report.outcomes[key].own.mean:.3f}" if key in report.outcomes else "-"
            for key in ("no_writing", "fast_erased", "hidden_erased")
        ]
        interval = f"{intact.own.mean:.3f} [{intact.own.low:.3f}, {intact.own.high:.3f}]"
        table.add_row(name, interval, f"{intact.normalised_score:.2f}", *cells)
    Console().print(table)


def results(reports: dict[str, Report], learners: dict[str, SupervisedLearner]) -> dict[str, object]:
    """The table as JSON; interventions on fast weights are null where there are none."""
    first = next(iter(reports.values()))

    def network(name: str) -> dict[str, object]:
        outcomes, progress = reports[name].outcomes, learners[name].progress
        lesions = {key: outcomes[key].own.mean if key in outcomes else None for key in ("no_writing", "fast_erased")}
        intact = outcomes["intact"]
        return {
            "query_mse": intact.own.mean,
            "interval": [intact.own.low, intact.own.high],
            "normalised_score": intact.normalised_score,
            **lesions,
            "hidden_erased": outcomes["hidden_erased"].own.mean,
            "steps": progress.step,
            "seconds": progress.seconds,
        }

    return {
        "oracle": first.oracle.mean,
        "memoryless": first.memoryless.mean,
        "episodes": first.episodes,
        "networks": {name: network(name) for name in reports},
    }


def main(arguments: Arguments) -> None:
    """Train, probe, print and draw."""
    learners = {}
    for name in NETWORKS:
        print(f"{name}: {arguments.steps} steps")
        learners[name] = trained(name, arguments)
    # Episodes that no evaluation during training has used.
    reports = {
        name: probe(
            learner.model,
            episodes=arguments.episodes,
            seed=1,
            interventions=("intact", "no_writing", "fast_erased", "hidden_erased"),
        )
        for name, learner in learners.items()
    }
    print_table(reports)
    with replacing(arguments.out / "results.json") as path:
        path.write_text(json.dumps(results(reports, learners), indent=2) + "\n")
    with replacing(arguments.out / "adaptation.png") as path:
        figure = adaptation_figure(
            {TITLES[name]: report for name, report in reports.items()},
            title="CueReward: error at queries after training",
        )
        figure.savefig(path)
    print(f"wrote {arguments.out}/adaptation.png and results.json; watch: tensorboard --logdir {arguments.out}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
