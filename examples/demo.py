"""Train Hebbian, gradient and non-plastic networks on CueReward, then find out where each one stores its memory.

Run ``make demo`` or ``python examples/demo.py --help`` in the root of the project. The script prints a table and writes
``adaptation.png``, ``results.json`` and TensorBoard files to the run folder. A run that was interrupted resumes, and
trained networks are reused. To start again, delete the folder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from plastic_agents import (
    SUPERVISED_RECIPES,
    Report,
    SupervisedLearner,
    adaptation_figure,
    comparison_table,
    probe,
    write_json,
)
from plastic_agents.atomic_files import replacing
from rich.console import Console

NETWORKS = ("hebbian", "gradient", "lstm")
TITLES = {"hebbian": "Hebbian plasticity", "gradient": "gradient plasticity", "lstm": "LSTM with as many parameters"}


@dataclass(frozen=True)
class Arguments:
    """Plastic networks learn inside an episode: train three networks and compare them.

    Attributes:
        steps: optimiser steps for each network.
        seed: seed of the parameters and the training episodes.
        episodes: held-out episodes for the table and the figure.
        out: the run folder.
    """

    steps: int = 2500
    seed: int = 0
    episodes: int = 2000
    out: Path = Path("runs/demo")


def trained(name: str, arguments: Arguments) -> SupervisedLearner:
    """Train one network, or resume an earlier run with the same settings."""
    recipe = SUPERVISED_RECIPES[f"cue-reward-{name}"]
    training = replace(recipe.training, steps=arguments.steps, seed=arguments.seed)
    learner = SupervisedLearner.start_or_resume(recipe.task, recipe.network, training, run_dir=arguments.out / name)
    if learner.progress.extensions:  # an extended run has a different learning-rate schedule
        raise ValueError(f"{arguments.out} holds a run with other settings: choose another --out, or remove it")
    print(f"{name}: {training.steps} steps, {learner.progress.step} already done")
    learner.learn()
    return learner


def results(reports: dict[str, Report], learners: dict[str, SupervisedLearner]) -> dict[str, object]:
    """Return the table for JSON. Interventions on fast weights are null for networks without fast weights."""
    any_report = next(iter(reports.values()))

    def network(name: str) -> dict[str, object]:
        report, progress = reports[name], learners[name].progress
        lesions = {key: report[key].error.mean if key in report else None for key in ("no_writing", "fast_erased")}
        intact = report["intact"].error
        return {
            "query_mse": intact.mean,
            "interval": [intact.low, intact.high],
            "normalised_score": report["intact"].normalised_score,
            **lesions,
            "hidden_erased": report["hidden_erased"].error.mean,
            "steps": progress.step,
            "seconds": progress.seconds,
        }

    return {
        "oracle": any_report.oracle.mean,
        "memoryless": any_report.memoryless.mean,
        "episodes": any_report.episodes,
        "networks": {name: network(name) for name in reports},
    }


def main(arguments: Arguments) -> None:
    """Train and probe the networks, print the table and draw the figure."""
    learners = {name: trained(name, arguments) for name in NETWORKS}
    # Evaluations during training use other episodes.
    reports = {
        name: probe(
            learner.agent,
            episodes=arguments.episodes,
            seed=1,
            interventions=("intact", "no_writing", "fast_erased", "hidden_erased"),
        )
        for name, learner in learners.items()
    }
    Console().print(comparison_table(reports, title="Mean squared error at queries"))
    write_json(arguments.out / "results.json", results(reports, learners))
    with replacing(arguments.out / "adaptation.png") as path:
        figure = adaptation_figure(
            {TITLES[name]: report for name, report in reports.items()},
            title="CueReward: error at queries after training",
        )
        figure.savefig(path)
    print(f"wrote {arguments.out}/adaptation.png and results.json; watch: tensorboard --logdir {arguments.out}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Arguments))
    except ValueError as error:
        raise SystemExit(f"demo: {error}") from None
