"""Compare plasticity rules: train each recipe of a task with several seeds, probe all, one table and one figure.

``python examples/compare_rules.py --tasks cue-reward --seeds 0 1 2`` made what docs/evidence shows. Runs that are
finished are kept, those that were interrupted go on, so that seeds and tasks can be added later.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console

from agents import (
    RECIPES,
    Report,
    SupervisedLearner,
    comparison_table,
    over_seeds,
    probe,
    replacing,
    write_json,
    write_report,
)


@dataclass(frozen=True)
class Arguments:
    """Compare plasticity rules over tasks and seeds.

    Attributes:
        tasks: recipes whose names begin like this.
        rules: rules to compare.
        seeds: training seeds.
        episodes: held-out episodes for each intervention.
        steps: optimiser steps; by default the recipe's.
        out: folder for runs and results.
    """

    tasks: tuple[str, ...] = ("cue-reward",)
    rules: tuple[str, ...] = ("hebbian", "gradient", "none")
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 2000
    steps: int | None = None
    out: Path = Path("runs/compare_rules")


def compare(task: str, arguments: Arguments) -> dict[str, Report]:
    """Train and probe every rule with every seed; the seeds of a rule in one report."""
    reports, seconds = {}, {}
    for rule in arguments.rules:
        recipe = RECIPES[f"{task}-{rule}"]
        each = []
        for seed in arguments.seeds:
            steps = recipe.training.steps if arguments.steps is None else arguments.steps
            training = replace(recipe.training, seed=seed, steps=steps)
            name = f"{task}-{rule}-seed{seed}"
            print(f"{name}: {steps} steps")
            learner = SupervisedLearner.start_or_resume(
                recipe.task,
                recipe.network,
                training,
                task_arguments=recipe.task_arguments,
                run_dir=arguments.out / "runs" / name,
            )
            learner.learn()
            each.append(probe(learner.model, episodes=arguments.episodes, seed=1))
            seconds[name] = round(learner.progress.seconds)
        write_json(arguments.out / task / f"{rule}.json", {"seeds": [report.to_json() for report in each]})
        reports[rule] = over_seeds(each)
    write_json(arguments.out / task / "training_seconds.json", seconds)
    return reports


def main(arguments: Arguments) -> None:
    """Compare the rules on each task."""
    unknown = {f"{task}-{rule}" for task in arguments.tasks for rule in arguments.rules} - RECIPES.keys()
    if unknown:
        raise SystemExit(f"no recipes {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    for task in arguments.tasks:
        reports = compare(task, arguments)
        console = Console(record=True, width=100)
        console.print(comparison_table(reports, title=next(iter(reports.values())).task))
        twins = comparison_table(reports, title="the same answers, held against the twin's targets", against="twin")
        console.print(twins)
        write_report(arguments.out / task, reports, title=task)
        with replacing(arguments.out / task / "table.txt") as path:
            path.write_text(console.export_text())
        print(f"wrote {arguments.out / task}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
