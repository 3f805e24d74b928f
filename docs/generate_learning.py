"""Write docs/evidence/other_environments.md and its figure, from the files of benchmarks/learning.py.

    python docs/generate_learning.py

A test fails if the page is stale.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from plastic_agents.analysis.colours import network_styles
from plastic_agents.analysis.statistics import mean_and_range
from plastic_agents.sweep.comparison import NONE, markdown_table, spread
from plastic_agents.sweep.studies import spaced

FOLDER = Path(__file__).parent / "evidence"
PAGE = FOLDER / "other_environments.md"
LEARNERS = ("hebbian", "gradient", "rnn", "gru", "lstm", "sb3-contrib", "sb3")
# The titles of the tasks, in the order of the tables, with the best possible return and the best one without memory,
# where they follow from the rules of the task. Those of the second table have no search.
TASKS = {
    "RepeatFirstEasy": ("POPGym RepeatFirstEasy", "1 / -0.5"),
    "RepeatPreviousEasy": ("POPGym RepeatPreviousEasy", "1 / -0.5"),
    "AutoencodeEasy": ("POPGym AutoencodeEasy", "1 / -0.5"),
    "HigherLowerEasy": ("POPGym HigherLowerEasy", "0.53 / 0.50"),
    "PositionCartPole": ("CartPole without velocities", "500 / -"),
    "Pendulum": ("Pendulum", "-"),
    "PerceptualDecisionMaking": ("NeuroGym PerceptualDecisionMaking", "5 / 2.5"),
    "DelayMatchSample": ("NeuroGym DelayMatchSample", "5 / 2.5"),
}
DEFAULTS = {
    "CartPole-defaults": ("CartPole", "500 / 500"),
    "PositionCartPole-defaults": ("CartPole without velocities", "500 / -"),
    "Identity-defaults": ("IdentityEnv(4)", "100 / 100"),
    "IdentityBox-defaults": ("IdentityEnvBox(eps=0.5)", "100 / 100"),
}

Cell = dict[str, Any]


def read_cells(tasks: Iterable[str] = TASKS) -> dict[str, dict[str, Cell]]:
    """Return the file of each learner by task."""
    cells: dict[str, dict[str, Cell]] = {}
    for task in tasks:
        paths = {learner: FOLDER / "learning" / f"{task}-{learner}.json" for learner in LEARNERS}
        found = {learner: json.loads(path.read_text("utf-8")) for learner, path in paths.items() if path.exists()}
        found = {learner: cell for learner, cell in found.items() if cell["finals"]}
        cells |= {task: found} if found else {}
    return cells


def learners_of(cells: dict[str, dict[str, Cell]]) -> list[str]:
    """Return the learners that have results."""
    return [learner for learner in LEARNERS if any(learner in learners for learners in cells.values())]


def score(finals: Sequence[Cell]) -> str:
    """Return the mean, lowest and highest score, with digits that suit their size."""
    scores = mean_and_range([final["score"] for final in finals])
    return spread(scores._asdict(), 0 if abs(scores.mean) > 20 else 2)


def returns_table(cells: dict[str, dict[str, Cell]]) -> list[str]:
    """Return a table of the returns of all learners."""
    rows, names = [], learners_of(cells)
    for task, learners in cells.items():
        finals = next(iter(learners.values()))["finals"]
        texts = [score(learners[learner]["finals"]) if learner in learners else NONE for learner in names]
        title, players = (TASKS | DEFAULTS)[task]
        rows.append([title, spaced(finals[0]["total_timesteps"]), *texts, players, str(len(finals))])
    return markdown_table(["task", "steps", *names, "best / without memory", "seeds"], rows)


def costs_table(cells: dict[str, dict[str, Cell]]) -> list[str]:
    """Return a table of the learning rates that the searches chose, and the seconds of a final run."""
    rows, names = [], learners_of(cells)
    for task, learners in cells.items():
        texts = []
        for learner in names:
            finals = learners[learner]["finals"] if learner in learners else []
            rate = f"{finals[0]['learning_rate']:g}, " if finals and finals[0]["learning_rate"] else ""
            texts.append(f"{rate}{fmean(final['processor_seconds'] for final in finals):.0f} s" if finals else NONE)
        rows.append([(TASKS | DEFAULTS)[task][0], *texts])
    return markdown_table(["task", *names], rows)


def curves(cells: dict[str, dict[str, Cell]]) -> Figure:
    """Draw the returns of training episodes against steps and against seconds, with a row for each task."""
    figure = Figure(figsize=(8.0, 2.3 * len(cells)), layout="constrained", dpi=110)
    styles = network_styles(learners_of(cells))
    rows = figure.subplots(len(cells), 2, squeeze=False)
    for (task, learners), row in zip(cells.items(), rows, strict=True):
        for learner, cell in learners.items():
            finals = cell["finals"]
            returns = np.array([final["returns"] for final in finals], float)
            steps = np.array(finals[0]["steps"])
            seconds = steps / steps[-1] * fmean(final["processor_seconds"] for final in finals)
            for axes, x in zip(row, (steps, seconds), strict=True):
                style = styles[learner]
                axes.plot(x, returns.mean(0), style.line, color=style.colour, label=learner)
                axes.fill_between(x, returns.min(0), returns.max(0), color=style.colour, alpha=0.15, linewidth=0)
        for axes in row:
            axes.set_title(TASKS[task][0], fontsize=9)
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("return per episode", fontsize=8)
        row[0].xaxis.set_major_formatter("{x:,.0f}")
    for axes, label in zip(rows[-1], ("steps of all environments together", "seconds of one core"), strict=True):
        axes.set_xlabel(label, fontsize=8)
    lines = {line.get_label(): line for row in rows for line in row[0].get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    return figure


def page() -> str:
    """Return the text of the page."""
    cells, defaults = read_cells(), read_cells(DEFAULTS)
    text = (FOLDER / "other_environments.template.md").read_text(encoding="utf-8")
    tables = {
        "returns": returns_table(cells),
        "costs": costs_table(cells),
        "default_returns": returns_table(defaults),
        "default_costs": costs_table(defaults),
    }
    for name, table in tables.items():
        text = text.replace(f"{{{name}}}", "\n".join(table))
    return text


def main() -> None:
    """Write the figure and the page."""
    curves(read_cells()).savefig(FOLDER / "other_environments.png")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
