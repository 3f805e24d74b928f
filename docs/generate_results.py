"""Write docs/results, and the pages and the table that have numbers of the studies, from the files of methods.

    python docs/generate_results.py [--runs runs/reproduce]

With ``--runs``, the script first copies the files from a folder of ``plastic-rnn reproduce``. In the templates,
``{score STUDY/METHOD}`` and the like stand for numbers of these files. A test fails if a page is stale, or if a recipe
differs from the settings of the study that chose it.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from plastic_agents.analysis.colours import NETWORK_STYLES
from plastic_agents.analysis.controls import CONTROLS
from plastic_agents.analysis.interventions import INTERVENTIONS
from plastic_agents.analysis.statistics import difference, mean_and_range
from plastic_agents.atomic_files import replacing, write_json
from plastic_agents.cli.commands.recipes import RECIPE_SCORES, recipes_by_algo
from plastic_agents.sweep.comparison import NONE, flat_settings, markdown_table, number, spread
from plastic_agents.sweep.plan import plan_sweep
from plastic_agents.sweep.reproduce import read_rows
from plastic_agents.sweep.studies import STUDIES, spaced
from plastic_agents.sweep.study_pages import read_cells, score, setting, share, write_pages
from plastic_agents.sweep.study_scores import Cell, baseline, metric_name, metrics_of_seeds

DOCS = Path(__file__).parent
FOLDER = DOCS / "results"
README = DOCS.parent / "README.md"
RECIPES = DOCS / "recipes.md"
# The page of each template.
PAGES = {
    template: template.with_name(template.name.replace(".template", ""))
    for template in (
        DOCS / "reproducing.template.md",
        DOCS / "evidence" / "README.template.md",
        DOCS / "evidence" / "regression_rules.template.md",
    )
}
NOT_RUN = "*not run*"


# These functions make the text that stands for ``{kind STUDY/METHOD}``.
VALUES: dict[str, Callable[[Cell], str]] = {
    "score": score,
    "normalised": lambda cell: number(cell["test"]["normalised_score"]["mean"], 2),
    "share": lambda cell: share(cell, "metric"),  # of answers within 0.05, in per cent
    "seeds": lambda cell: str(len((cell["test"] or {}).get("seeds", ()))),
    "minutes": lambda cell: number((cell["test"] or {}).get("minutes"), 1),
    # The score of each seed that did not diverge, the lowest one first.
    "each": lambda cell: ", ".join(number(metric) for metric in sorted(metrics_of_seeds({"": cell}).get("", ()))),
}
KINDS = ("gap", "oracle", "memoryless", "own", "twin", "setting", *VALUES)


def filled(template: Path, finished: Mapping[str, Mapping[str, Cell]]) -> str:
    """Return the text of a page from its template and the finished methods of each study."""
    text = template.read_text(encoding="utf-8")
    return re.sub(r"\{(\w+) ([^{}]+)\}", lambda match: value(finished, match[1], match[2].split()), text)


def value(finished: Mapping[str, Mapping[str, Cell]], kind: str, rows: Sequence[str]) -> str:
    """Return what stands for ``{kind ROW ...}`` in the template.

    The kinds are those of `VALUES`, ``gap`` of two methods, the score of the first one minus that of the second one,
    ``oracle`` and ``memoryless`` of a study, ``own`` and ``twin`` of some methods of a study, tables of their scores
    under interventions against the episode's own targets or those of its twin, and ``setting`` of a method, of which
    the path follows the row.

    Raises:
        ValueError: the kind, a study or a method is unknown.
        KeyError: the method has no such setting.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "setting":
        *rows, setting = rows
    pairs = read_rows(rows)
    if kind in ("oracle", "memoryless"):
        (study,) = rows
        return number(baseline(finished[study], kind)) if study in finished else NOT_RUN
    cells = [finished.get(study, {}).get(method) for study, method in pairs]
    known = [cell for cell in cells if cell is not None]
    if len(known) < len(pairs):
        return NOT_RUN
    if kind == "gap":
        first, second = (metrics_of_seeds({"": cell})[""] for cell in known)
        return spread(difference(first, second)._asdict())
    if kind == "setting":
        (cell,) = known
        return str(cell["settings"][setting])
    if kind in ("own", "twin"):
        return interventions(dict(zip((method for _, method in pairs), known, strict=True)), kind)
    return VALUES[kind](*known)


def interventions(cells: Mapping[str, Cell], targets: str) -> str:
    """Return a table with a row for each intervention and control, and a column for each method."""
    column = {"own": "metric", "twin": "twin_metric"}[targets]
    rows = []
    for name, intervention in {**INTERVENTIONS, **CONTROLS}.items():
        scores = [cell["interventions"].get(name) for cell in cells.values()]
        if any(scores):
            rows.append([intervention.label, *(over_seeds(each[column]) if each else NONE for each in scores)])
    if targets == "own":
        rows += [
            [f"*{player}*", *(number(baseline({"": cell}, player, "probe")) for cell in cells.values())]
            for player in ("oracle", "memoryless")
        ]
    return "\n".join(markdown_table(["", *cells], rows))


def over_seeds(values: Sequence[float]) -> str:
    """Return the mean of the values of seeds, with the lowest and the highest if there are several."""
    return spread(mean_and_range(values)._asdict(), 3, len(values))


def readme(finished: Mapping[str, Mapping[str, Cell]]) -> str:
    """Return README.md with its table of methods, from the finished methods of three studies."""
    studies = {
        "cue-reward": "CueReward, 3000 steps",
        "regression": "linear regression, 2000 steps",
        "cue-choice": "CueChoice, 500 000 steps",
    }
    methods = STUDIES["cue-reward"].methods
    rows = [
        [method, *(value(finished, "score", [f"{study}/{method}"]) for study in studies), docs_link(method)]
        for method in methods
    ]
    rows += [
        [f"*{player}*", *(value(finished, player, [study]) for study in studies), ""]
        for player in ("oracle", "memoryless")
    ]
    table = "\n".join(markdown_table(["method", *studies.values(), ""], rows))
    before, start, rest = README.read_text(encoding="utf-8").partition("<!-- results -->\n")
    return f"{before}{start}{table}\n<!-- /results -->{rest.partition('<!-- /results -->')[2]}"


def docs_link(method: str) -> str:
    """Return a link to the page of a rule."""
    return f"[equation](docs/rules/{method}.md)" if (FOLDER.parent / "rules" / f"{method}.md").exists() else "control"


def recipe_scores(finished: Mapping[str, Mapping[str, Cell]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what each recipe reached, by algorithm and name: the scores of the method that has its settings."""
    cells = [cell for of_study in finished.values() for cell in of_study.values() if cell["test"]]
    scores: dict[str, dict[str, dict[str, Any]]] = {"supervised": {}, "ppo": {}}
    for algo, of_recipes in scores.items():
        for name, recipe in recipes_by_algo()[algo].items():
            task = (recipe.task, dict(recipe.task_arguments))
            of_task = [cell for cell in cells if (cell["task"], cell["task_arguments"]) == task]
            settings = flat_settings(plan_sweep({name: recipe})[0].to_json()) if of_task else {}
            of_recipe = [cell for cell in of_task if cell["settings"] == settings]
            if of_recipe:
                of_recipes[name] = _reached(of_recipe[0])
    return scores


def _reached(cell: Cell) -> dict[str, Any]:
    test = cell["test"]
    return {
        "study": cell["study"],
        "method": cell["method"],
        "metric_name": cell["metric_name"],
        **test["metric"],
        "seeds": test["seeds"],
        "planned_seeds": test["planned"],
        **{name: test[name] for name in ("oracle", "memoryless", "parameters")},
        "steps": STUDIES[cell["study"]].steps,
        "minutes": round(test["minutes"], 1),
        "processors": test["processors"],
        "commit": cell["made_with"]["commit"],
    }


def recipes_page(
    finished: Mapping[str, Mapping[str, Cell]], scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> str:
    """Return the page of recipes: what each reached, and the settings that its search chose."""
    lines = [
        "<!-- Written by docs/generate_results.py from docs/results. -->",
        "",
        "# Recipes",
        "",
        "A recipe has the task, the network and the settings of training. `plastic-rnn train RECIPE --out FOLDER`",
        "trains by it, and options change its settings ([command line](command_line.md#train)). In Python,",
        "`plastic_agents.SUPERVISED_RECIPES` and `plastic_agents.REINFORCEMENT_RECIPES` have them by name.",
        "",
        "The tables show the scores of networks trained by each recipe, on test episodes: mean [lowest, highest] over",
        "training seeds. The settings beside them are those that a search on validation episodes chose. Minutes are",
        "those of a run with one thread. Links lead to all settings, curves, interventions and processors.",
    ]
    for algo, of_recipes in scores.items():
        option = "" if algo == "supervised" else f"Recipes of `--algo {algo}`. "
        for study in dict.fromkeys(reached["study"] for reached in of_recipes.values()):
            of_study = {name: reached for name, reached in of_recipes.items() if reached["study"] == study}
            lines += ["", f"## {STUDIES[study].title}", "", *_recipes_of(study, of_study, finished, option)]
    lines += ["", "## Without scores", "", "No published run has the settings of these recipes:", ""]
    for algo, of_recipes in scores.items():
        names = ", ".join(f"`{name}`" for name in recipes_by_algo()[algo] if name not in of_recipes)
        lines.append(f"- `--algo {algo}`: {names}")
    return "\n".join(lines) + "\n"


def _recipes_of(
    study: str, recipes: Mapping[str, Mapping[str, Any]], finished: Mapping[str, Mapping[str, Cell]], option: str
) -> list[str]:
    source = STUDIES[study].settings_from or study
    searched, first = STUDIES[source], next(iter(recipes.values()))
    rows = []
    for name, reached in recipes.items():
        cell = finished[study][reached["method"]]
        chosen = [path for path in finished[source][reached["method"]]["chosen"] if cell["settings"][path] is not None]
        settings = ", ".join(f"{path.rpartition('.')[2]} {setting(cell['settings'][path])}" for path in chosen)
        rows.append([f"`{name}`", score(cell), str(len(reached["seeds"]))])
        rows[-1] += [str(reached["parameters"]), number(reached["minutes"], 1), settings]
    search = (
        "Each search" if source == study else f"The settings are those of [{source}](results/{source}.md): each search"
    )
    full = [f"`{name}`" for name, reached in recipes.items() if searched.methods[reached["method"]].full_search]
    longer = f" The searches of {', '.join(full)} had {spaced(searched.steps)} steps." if full else ""
    return [
        f"{option}[{spaced(first['steps'])} steps](results/{study}.md); {STUDIES[study].oracle_name} "
        f"{number(first['oracle'])}, memoryless {number(first['memoryless'])}. {search} tried {searched.trials} "
        f"settings with {spaced(searched.search_steps)} steps.{longer}",
        "",
        *markdown_table(["recipe", first["metric_name"], "seeds", "parameters", "minutes", "chosen settings"], rows),
    ]


def rules_figure(studies: Mapping[str, Mapping[str, Cell]]) -> Figure:
    """Draw the metric of the Hebbian and the gradient rule during training, a panel for each study by its title."""
    figure = Figure(figsize=(9.0, 3.8), layout="constrained", dpi=120)
    panels = figure.subplots(1, len(studies), sharey=True)
    for panel, (title, cells) in zip(panels, studies.items(), strict=True):
        for rule in ("hebbian", "gradient"):
            colour = NETWORK_STYLES[rule].colour
            curves = [np.array(final["evaluations"]) for final in cells[rule]["finals"] if final.get("evaluations")]
            for index, curve in enumerate(curves):
                label = None if index else f"{rule}, {len(curves)} seeds"
                panel.plot(*curve.T, color=colour, linewidth=1.5, alpha=0.8, label=label)
        panel.axhline(baseline(cells, "oracle"), color="0.3", linestyle="--", linewidth=1.2, label="ridge regression")
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("steps")
        panel.set_ylim(0, 1.1)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel(f"{metric_name(cells)} on validation episodes")
    return figure


def main() -> None:
    """Copy the files and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of plastic-rnn reproduce")
    runs = parser.parse_args().runs
    for name, study in STUDIES.items() if runs else ():
        for method in study.methods:
            path = runs / name / f"{method}.json"
            if path.exists():
                (FOLDER / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, FOLDER / name)
    write_pages(FOLDER)
    finished = read_cells(FOLDER)
    for template, page in PAGES.items():
        page.write_text(filled(template, finished), encoding="utf-8")
    README.write_text(readme(finished), encoding="utf-8")
    scores = recipe_scores(finished)
    write_json(RECIPE_SCORES, scores)
    RECIPES.write_text(recipes_page(finished, scores), encoding="utf-8")
    with replacing(DOCS / "evidence" / "regression_rules.png") as path:
        studies = {"the paper's settings": "paper-regression", "each rule at its best": "regression"}
        rules_figure({title: finished[name] for title, name in studies.items()}).savefig(path)


if __name__ == "__main__":
    main()
