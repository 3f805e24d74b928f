"""Write the curves and the table of docs/integrations, from the files of benchmarks/libraries.py.

    python docs/generate_integrations.py

A test fails if a page is stale.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from plastic_agents.analysis.colours import network_styles
from plastic_agents.analysis.statistics import mean_and_range
from plastic_agents.sweep.comparison import markdown_table, spread

FOLDER = Path(__file__).parent / "integrations"
# The runs of each page, by their names in benchmarks/libraries.py.
PAGES = {
    "stable_baselines3": ("sb3",),
    "sb3_contrib": ("sb3-contrib",),
    "skrl": ("skrl",),
    "tianshou": ("tianshou",),
    "torchrl": ("torchrl", "torchrl-hebbian"),
    "cleanrl": ("cleanrl",),
    "rllib": ("rllib", "rllib-hebbian"),
}
# Mean returns per episode of CueChoice; that of the oracle over 1.2 million episodes.
ORACLE, MEMORYLESS = 2.03, 0.0

Run = dict[str, Any]


def read_runs(name: str) -> list[Run]:
    """Return the runs of all seeds."""
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted((FOLDER / "curves").glob(f"{name}-[0-9].json"))
    ]


def last_return(runs: Sequence[Run]) -> str:
    """Return the return in the last tenth of training as text: the mean, the lowest and the highest run."""
    return spread(mean_and_range([fmean(run["returns"][-(len(run["returns"]) // 10) :]) for run in runs])._asdict(), 2)


def curves(page: str) -> Figure:
    """Draw the returns of the runs of a page during training: mean and range over seeds."""
    figure = Figure(figsize=(6.0, 3.2), layout="constrained", dpi=120)
    axes = figure.subplots()
    for name in PAGES[page]:
        runs = read_runs(name)
        network = runs[0]["network"].lower()
        colour, line = network_styles([network])[network]
        steps, returns = runs[0]["steps"], np.array([run["returns"] for run in runs])
        axes.plot(steps, returns.mean(0), line, color=colour, label=f"{runs[0]['network']}, {len(runs)} seeds")
        axes.fill_between(steps, returns.min(0), returns.max(0), color=colour, alpha=0.15, linewidth=0)
    axes.axhline(ORACLE, color="0.3", linestyle="--", linewidth=1.2, label="oracle")
    axes.axhline(MEMORYLESS, color="0.3", linestyle=":", linewidth=1.2, label="memoryless")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("steps of all environments together")
    axes.set_ylabel("return per episode")
    axes.set_ylim(-0.6, 2.2)
    axes.set_title("CueChoice: mean and range over training seeds", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.93), ncols=2)
    return figure


def block(page: str) -> str:
    """Return the figure of a page and what it shows, in words."""
    sentences = []
    for name in PAGES[page]:
        runs = read_runs(name)
        minutes = fmean(run["processor_minutes"] for run in runs)
        sentences.append(
            f"{runs[0]['network']}: a return of {last_return(runs)} in the last tenth of training; "
            f"{minutes:.1f} minutes on one core."
        )
    return f"![Return per episode against steps]({page}.png)\n\n" + "\n".join(sentences) + "\n"


def table() -> str:
    """Return the table of all runs."""
    rows = []
    for page, names in PAGES.items():
        for name in names:
            runs = read_runs(name)
            first = runs[0]
            rows.append(
                [
                    f"[`{first['script']}{first['options'] and ' ' + first['options']}`]({page}.md)",
                    first["library"].replace("+cpu", ""),
                    first["network"],
                    f"{first['steps'][-1]:,}",
                    last_return(runs),
                    str(len(runs)),
                    f"{fmean(run['processor_minutes'] for run in runs):.1f}",
                ]
            )
    rows.append(["*oracle*", "", "", "", f"{ORACLE:.2f}", "", ""])
    rows.append(["*memoryless*", "", "", "", f"{MEMORYLESS:.2f}", "", ""])
    header = ["script", "library", "network", "steps", "return per episode", "seeds", "minutes"]
    return "\n".join(markdown_table(header, rows)) + "\n"


def replaced(text: str, content: str) -> str:
    """Return the text of a page with other content between its markers."""
    before, start, rest = text.partition("<!-- curves -->\n")
    after = rest.partition("<!-- /curves -->")[2]
    return f"{before}{start}{content}<!-- /curves -->{after}"


def pages() -> dict[Path, str]:
    """Return the text of each page."""
    contents = {"README": table(), **{page: block(page) for page in PAGES}}
    paths = {FOLDER / f"{page}.md": content for page, content in contents.items()}
    return {path: replaced(path.read_text(encoding="utf-8"), content) for path, content in paths.items()}


def main() -> None:
    """Write the figures and the pages."""
    for page in PAGES:
        curves(page).savefig(FOLDER / f"{page}.png")
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
