"""Compare plasticity rules: train each recipe of a task with several seeds, probe all networks, write table and figure.

``python examples/compare_rules.py --tasks cue-reward --seeds 0 1 2`` and similar commands made the results in
docs/evidence. With ``--from-reward``, the networks are policies that are trained by reinforcement learning. The script
keeps finished runs and resumes interrupted ones, so you can add seeds and tasks later.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from plastic_agents import (
    REINFORCEMENT_RECIPES,
    SUPERVISED_RECIPES,
    Agent,
    ReinforcementLearner,
    Report,
    SupervisedLearner,
    comparison_table,
    over_seeds,
    probe,
    write_json,
    write_report,
)
from plastic_agents.atomic_files import replacing
from rich.console import Console


@dataclass(frozen=True)
class Arguments:
    """Compare plasticity rules over tasks and seeds.

    Attributes:
        tasks: first parts of the names of recipes, such as cue-reward.
        rules: last parts of the names of recipes: the rules and other networks to compare.
        seeds: training seeds.
        episodes: held-out episodes for each intervention.
        steps: optimiser steps, or with --from-reward steps of all environments; by default the recipe's.
        from_reward: train policies by reinforcement learning instead of networks by supervised learning.
        out: folder for runs and results.
    """

    tasks: tuple[str, ...] = ("cue-reward",)
    rules: tuple[str, ...] = ("hebbian", "gradient", "lstm")
    seeds: tuple[int, ...] = (0, 1, 2)
    episodes: int = 2000
    steps: int | None = None
    from_reward: bool = False
    out: Path = Path("runs/compare_rules")


def train(task: str, rule: str, seed: int, arguments: Arguments) -> tuple[Agent, float]:
    """Train by the recipe, or load the finished run; return the agent and its seconds of training."""
    name = f"{folder_of(task, arguments)}-{rule}-seed{seed}"
    print(name)
    if arguments.from_reward:
        recipe, learner_class, steps_name = (
            REINFORCEMENT_RECIPES[f"{task}-{rule}"],
            ReinforcementLearner,
            "total_timesteps",
        )
    else:
        recipe, learner_class, steps_name = SUPERVISED_RECIPES[f"{task}-{rule}"], SupervisedLearner, "steps"
    steps = {} if arguments.steps is None else {steps_name: arguments.steps}
    learner = learner_class.start_or_resume(
        recipe.task,
        recipe.network,
        replace(recipe.training, seed=seed, **steps),
        task_arguments=recipe.task_arguments,
        run_dir=arguments.out / "runs" / name,
    )
    if learner.progress.extensions:  # an extended run has another learning-rate schedule
        raise ValueError(f"{learner.run_dir} holds a run with other settings: choose another --out, or remove it")
    learner.learn()
    return learner.evaluation_agent, learner.progress.seconds


def folder_of(task: str, arguments: Arguments) -> str:
    """Return the name of the folder of the task's results, under ``out``."""
    return f"{task}-from-reward" if arguments.from_reward else task


def compare(task: str, arguments: Arguments) -> dict[str, Report]:
    """Train and probe every rule with every seed; return one report per rule."""
    reports, seconds = {}, {}
    folder = arguments.out / folder_of(task, arguments)
    for rule in arguments.rules:
        seed_reports = []
        for seed in arguments.seeds:
            agent, training_seconds = train(task, rule, seed, arguments)
            seed_reports.append(probe(agent, episodes=arguments.episodes, seed=1))
            seconds[f"{rule}-seed{seed}"] = round(training_seconds)
        write_json(folder / f"{rule}.json", {"seeds": [report.to_json() for report in seed_reports]})
        reports[rule] = over_seeds(seed_reports)
    write_json(folder / "training_seconds.json", seconds)
    return reports


def main(arguments: Arguments) -> None:
    """Compare the rules on each task."""
    recipes = REINFORCEMENT_RECIPES if arguments.from_reward else SUPERVISED_RECIPES
    unknown = {f"{task}-{rule}" for task in arguments.tasks for rule in arguments.rules} - recipes.keys()
    if unknown:
        raise SystemExit(f"no recipes {', '.join(sorted(unknown))}; there are {', '.join(recipes)}")
    for task in arguments.tasks:
        reports = compare(task, arguments)
        console = Console(record=True, width=max(100, 25 + 23 * len(reports)))  # each row is one line
        console.print(comparison_table(reports, title=next(iter(reports.values())).task))
        twins = comparison_table(reports, title="the same answers, scored against the twin's targets", targets="twin")
        console.print(twins)
        folder = arguments.out / folder_of(task, arguments)
        write_report(folder, reports, title=task)
        with replacing(folder / "table.txt") as path:
            path.write_text(console.export_text())
        print(f"wrote {folder}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
