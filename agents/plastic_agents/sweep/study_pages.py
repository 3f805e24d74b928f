"""Pages of studies: tables and figures that are made from the files of their methods."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from textwrap import wrap
from typing import Any

from plastic_agents.analysis.controls import CONTROLS
from plastic_agents.analysis.interventions import INTERVENTIONS
from plastic_agents.analysis.statistics import difference, mean_interval
from plastic_agents.atomic_files import replacing
from plastic_agents.models.plastic.update import LAYER_KINDS
from plastic_agents.sweep.comparison import NONE, markdown_table, number, spread, validation_text
from plastic_agents.sweep.plan import read_json
from plastic_agents.sweep.studies import STUDIES, Study, spaced
from plastic_agents.sweep.study_figures import curves_figure, interventions_figure, overview_figure, scores_figure
from plastic_agents.sweep.study_scores import Cell, baseline, csv_texts, metric_name, metrics_of_seeds, ranked
from plastic_agents.training.supervised_config import SupervisedConfig

_WRITTEN = "<!-- Written by plastic-rnn reproduce from the JSON files in this folder. -->"
FIGURES = {"": scores_figure, "-curves": curves_figure, "-interventions": interventions_figure}
"""The figures of a study, by the end of the name of their file."""
OVERVIEW_FIGURE = "overview.png"
"""The figure of all studies that have a search."""
_CAPTION = "mean [lowest, highest] over training seeds, on test episodes"
_WITHIN = "within_0.05"
_SHARES = {_WITHIN: "within 0.05, %", "first_query_accuracy": "at the first query, %"}


def write_pages(folder: str | os.PathLike[str], studies: Mapping[str, Study] = STUDIES) -> list[Path]:
    """Write a page and figures for each study that has finished methods, and tables of all in Markdown and as CSV.

    Args:
        folder: folder of the results.
        studies: studies by name.

    Returns:
        The paths of the pages.
    """
    folder = Path(folder)
    finished = read_cells(folder, studies)
    for name, cells in finished.items():
        for ending, draw in FIGURES.items():
            with replacing(folder / f"{name}{ending}.png") as path:
                draw(studies[name], cells).savefig(path, metadata={"Source": fingerprint(cells)})
    tuned = tuned_studies(finished, studies)
    if tuned:
        with replacing(folder / OVERVIEW_FIGURE) as path:
            overview_figure(tuned, studies).savefig(path, metadata={"Source": fingerprint(tuned)})
    texts = pages(finished, studies)
    for file, text in {**texts, **csv_texts(finished)}.items():
        with replacing(folder / file) as path:
            path.write_text(text, encoding="utf-8")
    return [folder / file for file in texts]


def fingerprint(cells: Mapping[str, Any]) -> str:
    """Return a text that differs for different content; a figure has that of the files from which it was drawn."""
    return sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()[:16]


def pages(finished: Mapping[str, Mapping[str, Cell]], studies: Mapping[str, Study] = STUDIES) -> dict[str, str]:
    """Return the texts of the pages by file name, from the finished methods of each study."""
    of_studies = {f"{name}.md": study_page(name, studies[name], cells) for name, cells in finished.items()}
    return {"README.md": overview(finished, studies), **of_studies}


def read_cells(folder: Path, studies: Mapping[str, Study] = STUDIES) -> dict[str, dict[str, Cell]]:
    """Return the finished methods of each study that has any, by name."""
    cells: dict[str, dict[str, Cell]] = {}
    for name, study in studies.items():
        paths = {method: folder / name / f"{method}.json" for method in study.methods}
        of_study = {method: read_json(path) for method, path in paths.items() if path.exists()}
        cells |= {name: of_study} if of_study else {}
    return cells


def overview(cells: Mapping[str, Mapping[str, Cell]], studies: Mapping[str, Study]) -> str:
    """Return the page with tables of all methods and studies, those with searches and those with fixed settings."""
    tuned = tuned_studies(cells, studies)
    fixed = [name for name in cells if name not in tuned]
    lines = [_WRITTEN, "", "# Baselines: all methods on all tasks", ""]
    lines += [
        "In a study, the search of each method tries as many settings, on validation episodes. In some studies, the",
        "searches of networks without plasticity are longer, and some studies take the settings that the search of",
        "another one chose, as their pages say. The networks `lstm`, `gru`, `rnn` and `attention`",
        "have no plasticity, and about as many parameters as a network with the Hebbian rule, or more.",
        "",
    ]
    if tuned:
        lines += [
            f"![Normalised score of each method in each study]({OVERVIEW_FIGURE})",
            "",
            "*Normalised scores, mean over training seeds: 0 without memory, 1 for the oracle or the reference of the",
            "task. Grey: not run.*",
            "",
        ]
    lines += [
        "The page of a study has its learning curves against steps and training time, the settings and the",
        "interventions. `plastic-rnn reproduce STUDY/METHOD` runs a method again.",
        "[results.csv](results.csv) has a row for each run, and [curves.csv](curves.csv) for each of its evaluations;",
        "the seconds of an evaluation assume that all steps of a run take as long.",
        "",
    ]
    supervised = [name for name in tuned if isinstance(studies[name].training, SupervisedConfig)]
    policies = [name for name in tuned if name not in supervised]
    for title, names in (("Supervised learning", supervised), ("Reinforcement learning", policies)):
        if names:
            lines += [f"## {title}", "", *_overview_tables({name: cells[name] for name in names}, studies)]
    if fixed:
        lines += ["## Fixed settings", "", "The settings of these studies are fixed, without a search.", ""]
        for names in _families(fixed, studies):
            lines += _overview_tables({name: cells[name] for name in names}, studies)
    missing = [name for name in studies if name not in cells]
    if missing:
        lines += ["## Not run", "", "No method of these studies was run:", ""]
        lines += [f"- {studies[name].title}: `plastic-rnn reproduce {name}`" for name in missing]
        lines.append("")
    return "\n".join(lines)


def _families(names: Sequence[str], studies: Mapping[str, Study]) -> list[list[str]]:
    """Return studies in groups, whose first one has all methods of the others."""
    families: list[list[str]] = []
    for name in names:
        for family in families:
            if studies[name].methods.keys() <= studies[family[0]].methods.keys():
                family.append(name)
                break
        else:
            families.append([name])
    return families


def tuned_studies(
    cells: Mapping[str, Mapping[str, Cell]], studies: Mapping[str, Study] = STUDIES
) -> dict[str, Mapping[str, Cell]]:
    """Return the studies whose settings come from a search."""
    names = [name for name in cells if studies[name].is_searched or studies[name].settings_from is not None]
    return {name: cells[name] for name in names}


def _overview_tables(cells: Mapping[str, Mapping[str, Cell]], studies: Mapping[str, Study]) -> list[str]:
    """Return a table of the scores, and one of the share of answers within 0.05 of the studies that have it."""

    def of_player(study: str, player: str) -> str:
        name = studies[study].oracle_name
        note = f" ({name})" if player == "oracle" and name != "oracle" else ""
        return number(baseline(cells[study], player)) + note

    is_complete = all(method in cells[name] for name in cells for method in studies[name].methods)
    caption = f"{_CAPTION.capitalize()}." + (
        "" if is_complete else " A dash stands for a method that was not run, or has diverged."
    )
    lines = [*_overview_table(cells, studies, score, of_player, with_metric=True), "", caption, ""]
    if any(studies[name].oracle_name != "oracle" for name in cells):
        lines += ["The page of a task says in what its reference or upper bound differs from an oracle.", ""]
    shares = {name: of_study for name, of_study in cells.items() if _with_share(of_study)}
    if shares:
        lines += ["Answers within 0.05 of the target:", ""]
        lines += _overview_table(
            shares,
            studies,
            lambda cell: share(cell, "metric"),
            lambda study, player: share(_with_share(shares[study])[0], player),
        )
        lines += ["", f"Per cent, {_CAPTION}.", ""]
    return lines


def _overview_table(
    cells: Mapping[str, Mapping[str, Cell]],
    studies: Mapping[str, Study],
    score: Callable[[Cell | None], str],
    of_player: Callable[[str, str], str],
    with_metric: bool = False,
) -> list[str]:
    """Return a table of the studies, with finished methods, the oracle, the memoryless policy and perhaps the metric.

    Of methods and studies, the rows are those of which there are more.
    """
    methods = dict.fromkeys(method for name in cells for method in studies[name].methods)
    rows = [["method", *(f"[{studies[name].title}]({name}.md)" for name in cells)]]
    rows += [
        [method, *(score(of_study.get(method)) for of_study in cells.values())]
        for method in methods
        if any(method in of_study for of_study in cells.values())
    ]
    rows += [[f"*{player}*", *(of_player(study, player) for study in cells)] for player in ("oracle", "memoryless")]
    if with_metric:
        rows.append(["*metric*", *(metric_name(of_study) for of_study in cells.values())])
    if len(rows[0]) > len(rows):
        rows = [list(column) for column in zip(*rows, strict=True)]
        rows[0][0] = "study"
    return markdown_table(rows[0], rows[1:])


def study_page(name: str, study: Study, cells: Mapping[str, Cell]) -> str:
    """Return the page of a study.

    Args:
        name: name of the study.
        study: the study.
        cells: its finished methods by name.
    """
    arguments = ", ".join(f"{name}={value}" for name, value in study.task_arguments.items())
    lines = [_WRITTEN, "", f"# {study.title}", ""]
    lines += [
        f"The task is `{study.task}`{f' with `{arguments}`' if arguments else ''}. Each run has {_length(study)}.",
    ]
    if study.is_searched:
        lines += [
            f"For each method, a search tried {study.trials} settings with {spaced(study.search_steps)} steps, and",
            "chose those with the best score on validation episodes.",
        ]
        full = [method for method in cells if study.methods[method].full_search]
        if full:
            lines.append(f"The searches of {', '.join(full)} had all {spaced(study.steps)} steps.")
    elif study.settings_from is not None:
        lines += [f"The settings are those that the search of [{study.settings_from}]({study.settings_from}.md) chose."]
    else:
        lines += ["Settings are fixed, without a search."]
    if study.about:
        lines += ["", *wrap(study.about, 88, break_on_hyphens=False)]
    lines += [
        "",
        "```sh",
        f"plastic-rnn reproduce {name}",
        "```",
        "",
        f"![The metric of each method, with those of the oracle and without memory]({name}.png)",
        "",
        *_scores(study, cells),
        "",
        f"![The metric during training, against steps and against training time]({name}-curves.png)",
        "",
        "## Settings",
        "",
        *_settings(study, cells),
        "",
        "## Interventions",
        "",
        f"![The metric of each method under each intervention, against both targets]({name}-interventions.png)",
        "",
        *_interventions(cells),
        "",
    ]
    if study.is_searched:
        lines += ["## Validation scores of the searches", ""]
        for method, cell in cells.items():
            lines += [
                '<details markdown="1">',
                f"<summary>{method}</summary>",
                "",
                *validation_text(cell)[2:],  # without its heading
                "</details>",
            ]
    return "\n".join(lines) + "\n"


def _length(study: Study) -> str:
    if isinstance(study.training, SupervisedConfig):
        return f"{spaced(study.steps)} steps of {study.training.batch_size} episodes"
    return f"{spaced(study.steps)} steps of all environments"


def _scores(study: Study, cells: Mapping[str, Cell]) -> list[str]:
    secondary = {name: label for name, label in _SHARES.items() if _with_share(cells, name)}
    seeds = metrics_of_seeds(cells)
    best = ranked(cells)[-1] if seeds else None
    header = ["method", metric_name(cells), f"minus that of {best}", "normalised score, 95 %"]
    header += [*secondary.values(), "seeds", "parameters", "minutes of a run"]
    rows = []
    for method, cell in cells.items():
        test = cell["test"] or {}
        shares = [share(cell, "metric", name) for name in secondary]
        n_seeds = len(test.get("seeds", ()))
        count = f"{n_seeds} of {test.get('planned', 0)}"
        is_compared = best is not None and method in seeds and method != best
        gap = spread(difference(seeds[method], seeds[best])._asdict()) if is_compared and best else NONE
        rows.append([method, spread(test.get("metric"), 3, n_seeds), gap, _normalised(cell), *shares, count])
        rows[-1] += [str(test.get("parameters", NONE)), number(test.get("minutes"), 1)]
    processors = sorted({name for cell in cells.values() for name in (cell["test"] or {}).get("processors", ())})
    caption = (
        f"{metric_name(cells).capitalize()}; {_CAPTION}. The {study.oracle_name} has "
        f"{number(baseline(cells, 'oracle'))}, the best agent without memory {number(baseline(cells, 'memoryless'))}. "
        "All networks play the same test episodes. Differences have a 95 % interval over seeds, by Welch's t-test, and "
        f"normalised scores (0 without memory, 1 for the {study.oracle_name}) one by Student's. A run had one thread "
        f"on {' or '.join(processors) or 'no processor'}; its minutes are those of the clock, and depend on what "
        "else the machine did."
    )
    return [*markdown_table(header, rows), "", caption]


def _normalised(cell: Cell) -> str:
    """Return the mean of the normalised score with its 95 % interval over seeds, or "-" if a seed has none."""
    scores = [final["normalised_score"] for final in cell["finals"] if final["status"] == "finished"]
    return NONE if not scores or None in scores else spread(mean_interval(scores)._asdict(), 2)


def _settings(study: Study, cells: Mapping[str, Cell]) -> list[str]:
    """Return a table of the settings that searches chose, or left as they are, and of those that methods differ in."""
    searched = [path for method in cells for path in study.methods[method].space]
    settings = [cell["settings"] for cell in cells.values()]
    # Settings of plasticity are those of networks with it only.
    known = {path: [each[path] for each in settings if path in each] for each in settings for path in each}
    differing = [path for path, values in known.items() if any(value != values[0] for value in values)]
    paths = list(dict.fromkeys((*searched, *differing)))
    rows = [[method, *(setting(cell["settings"].get(path)) for path in paths)] for method, cell in cells.items()]
    return markdown_table(["method", *(f"`{path.rpartition('.')[2]}`" for path in paths)], rows)


def setting(value: object) -> str:
    """Return the text of a setting of a method."""
    if isinstance(value, list):
        return "all" if value == list(LAYER_KINDS) else " ".join(value)
    return NONE if value is None else str(value)


def _interventions(cells: Mapping[str, Cell]) -> list[str]:
    """Return tables of the scores under each intervention: the built-in ones, controls, and those of single layers."""
    played = list(dict.fromkeys(name for cell in cells.values() for name in cell["interventions"]))
    of_layers = [name for name in played if name not in INTERVENTIONS and name not in CONTROLS]
    controls = [name for name in played if name in CONTROLS]
    lines = _intervention_table(cells, [name for name in INTERVENTIONS if name in played])
    lines += ["", f"{metric_name(cells).capitalize()}, mean over training seeds, on test episodes; {_ARROW}."]
    oracle, memoryless = (number(baseline(cells, name, "probe")) for name in ("oracle", "memoryless"))
    lines += [f"At the steps that count, the oracle has {oracle}, the best agent without memory {memoryless}."]
    lines += ["See [evidence](../evidence/README.md) for the interventions."]
    for method, cell in cells.items():
        if cell.get("not_finite"):  # files that are older have no such interventions
            labels = ", ".join(map(_label, cell["not_finite"]))
            lines += ["", f"Under these interventions, the output of {method} is not finite: {labels}."]
    for title, names in (("Controls", controls), ("Single layers", of_layers)):
        if names:
            lines += ["", f"### {title}", "", *_intervention_table(cells, names)]
    return lines


_ARROW = "on the left of the arrow against the episode's own targets, on its right against those of the twin"


def _intervention_table(cells: Mapping[str, Cell], names: Sequence[str]) -> list[str]:
    header = ["method", *map(_label, names)]
    rows = []
    for method, cell in cells.items():
        scores = [cell["interventions"].get(name) for name in names]
        if any(scores):
            rows.append([method, *(_own_and_twin(each) for each in scores)])
    return markdown_table(header, rows)


def _label(name: str) -> str:
    """Return the label of a built-in intervention, or the words of the name of one of a single layer."""
    known = {**INTERVENTIONS, **CONTROLS}
    return known[name].label if name in known else name.replace("_", " ")


def _own_and_twin(scores: Mapping[str, Sequence[float]] | None) -> str:
    return f"{fmean(scores['metric']):.3f} → {fmean(scores['twin_metric']):.3f}" if scores else NONE


def score(cell: Cell | None) -> str:
    """Return the mean, lowest and highest test score of a method, with the number of seeds if some diverged or if 1."""
    test = (cell["test"] or {}) if cell else {}
    n_seeds, planned = len(test.get("seeds", ())), test.get("planned", 0)
    note = f" ({n_seeds} of {planned} seeds)" if 0 < n_seeds < planned else " (1 seed)" if n_seeds == 1 else ""
    return spread(test.get("metric"), 3, n_seeds) + note


def _with_share(cells: Mapping[str, Cell], name: str = _WITHIN) -> list[Cell]:
    """Return the methods that have a share of right answers among their secondary metrics."""
    return [cell for cell in cells.values() if name in (cell["test"] or {}).get("secondary_metrics", {})]


def share(cell: Cell | None, column: str, name: str = _WITHIN) -> str:
    """Return the share of answers within 0.05, or another one, in per cent, of "metric", "oracle" or "memoryless"."""
    if cell is None or not _with_share({"": cell}, name):
        return NONE
    values = cell["test"]["secondary_metrics"][name][column]
    per_cent = {name: 100 * value for name, value in values.items()}
    return spread(per_cent, 1, len(cell["test"]["seeds"])) if column == "metric" else number(per_cent["mean"], 1)
