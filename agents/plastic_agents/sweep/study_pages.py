"""Pages of studies: tables and figures that are made from the files of their methods."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from statistics import fmean

from matplotlib.figure import Figure

from plastic_agents.analysis.controls import CONTROLS
from plastic_agents.analysis.interventions import INTERVENTIONS
from plastic_agents.analysis.statistics import Estimate, difference, mean_and_range
from plastic_agents.atomic_files import replacing
from plastic_agents.models.plastic.update import LAYER_KINDS
from plastic_agents.sweep.comparison import NONE, markdown_table, number, spread, validation_text
from plastic_agents.sweep.plan import read_json
from plastic_agents.sweep.reproduce import Cell
from plastic_agents.sweep.studies import STUDIES, Study
from plastic_agents.training.supervised_config import SupervisedConfig

_WRITTEN = "<!-- Written by plastic-rnn reproduce from the JSON files in this folder. -->"
_CAPTION = "mean [lowest, highest] over training seeds, on test episodes"
_WITHIN = "within_0.05"
_ERROR = "mean squared error"


def write_pages(folder: str | os.PathLike[str], studies: Mapping[str, Study] = STUDIES) -> list[Path]:
    """Write a page and a figure for each study that has finished methods, and ``README.md`` with a table of all.

    Args:
        folder: folder of the results.
        studies: studies by name.

    Returns:
        The paths of the pages.
    """
    folder = Path(folder)
    for name, cells in _finished(folder, studies).items():
        with replacing(folder / f"{name}.png") as path:
            study_figure(studies[name], cells).savefig(path)
    texts = pages(folder, studies)
    for file, text in texts.items():
        with replacing(folder / file) as path:
            path.write_text(text, encoding="utf-8")
    return [folder / file for file in texts]


def pages(folder: Path, studies: Mapping[str, Study] = STUDIES) -> dict[str, str]:
    """Return the texts of the pages by file name."""
    finished = _finished(folder, studies)
    of_studies = {f"{name}.md": study_page(name, studies[name], cells) for name, cells in finished.items()}
    return {"README.md": overview(finished, studies), **of_studies}


def _finished(folder: Path, studies: Mapping[str, Study]) -> dict[str, dict[str, Cell]]:
    """Return the finished methods of each study that has any, by name."""
    cells: dict[str, dict[str, Cell]] = {}
    for name, study in studies.items():
        paths = {method: folder / name / f"{method}.json" for method in study.methods}
        of_study = {method: read_json(path) for method, path in paths.items() if path.exists()}
        cells |= {name: of_study} if of_study else {}
    return cells


def overview(cells: Mapping[str, Mapping[str, Cell]], studies: Mapping[str, Study]) -> str:
    """Return the page with a table of all methods and studies."""
    methods = list(dict.fromkeys(method for name in cells for method in studies[name].methods))
    lines = [_WRITTEN, "", "# All methods on all tasks", ""]
    lines += [
        "Each method has the same search budget, on validation episodes. The networks `lstm`, `gru`, `rnn` and",
        "`attention` have no plasticity, and at least as many parameters as a network with the Hebbian rule.",
        "",
    ]
    header = ["method", *(f"[{studies[name].title}]({name}.md)" for name in cells)]
    rows = [[method, *(_score(of_study.get(method)) for of_study in cells.values())] for method in methods]
    for baseline in ("oracle", "memoryless"):
        values = [_baseline(of_study, baseline) for of_study in cells.values()]
        rows.append([f"*{baseline}*", *map(number, values)])
    names = {_metric_name(of_study): studies[name].title for name, of_study in cells.items()}
    others = [f"{name} for {title}" for name, title in names.items() if name != _ERROR]
    lines += [*markdown_table(header, rows), "", f"{'; '.join([_ERROR.capitalize(), *others])}; {_CAPTION}.", ""]
    shares = [name for name, of_study in cells.items() if _shares(of_study)]
    if shares:
        lines += ["## Answers within 0.05 of the target", ""]
        header = ["method", *(f"[{studies[name].title}]({name}.md)" for name in shares)]
        rows = [[method, *(_share(cells[name].get(method), "metric") for name in shares)] for method in methods]
        rows += [
            [f"*{baseline}*", *(_share(next(iter(_shares(cells[name]))), baseline) for name in shares)]
            for baseline in ("oracle", "memoryless")
        ]
        lines += [*markdown_table(header, rows), "", f"Per cent, {_CAPTION}.", ""]
    return "\n".join(lines)


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
    if study.settings_from is None:
        lines += [
            f"For each method, a search tried {study.trials} settings with {study.search_steps} steps, and chose those",
            "with the best score on validation episodes.",
        ]
    else:
        lines += [f"The settings are those that the search of [{study.settings_from}]({study.settings_from}.md) chose."]
    lines += [
        "",
        "```sh",
        f"plastic-rnn reproduce {name}",
        "```",
        "",
        f"![The metric of each method, with those of the oracle and without memory]({name}.png)",
        "",
        *_scores(cells),
        "",
        "## Settings",
        "",
        *_settings(study, cells),
        "",
        "## Interventions",
        "",
        *_interventions(cells),
        "",
    ]
    if study.settings_from is None:
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
        return f"{study.steps} steps of {study.training.batch_size} episodes"
    return f"{study.steps} steps of all environments"


def _metric_name(cells: Mapping[str, Cell]) -> str:
    return next((cell["metric_name"] for cell in cells.values() if cell["metric_name"]), "metric")


def _scores(cells: Mapping[str, Cell]) -> list[str]:
    has_shares = bool(_shares(cells))
    seeds = _metrics_of_seeds(cells)
    best = _ranked(cells)[-1] if seeds else None
    header = ["method", _metric_name(cells), f"minus that of {best}", "normalised score"]
    header += [*(["within 0.05, %"] if has_shares else []), "seeds", "parameters", "minutes of a run"]
    rows = []
    for method, cell in cells.items():
        test = cell["test"] or {}
        share = [_share(cell, "metric")] if has_shares else []
        count = f"{len(test.get('seeds', ()))} of {test.get('planned', 0)}"
        is_compared = best is not None and method in seeds and method != best
        gap = interval(difference(seeds[method], seeds[best])) if is_compared and best else NONE
        rows.append([method, spread(test.get("metric")), gap, spread(test.get("normalised_score"), 2), *share, count])
        rows[-1] += [str(test.get("parameters", NONE)), number(test.get("minutes"), 1)]
    processors = sorted({name for cell in cells.values() for name in (cell["test"] or {}).get("processors", ())})
    caption = (
        f"Mean squared error; {_CAPTION}. The oracle has {number(_baseline(cells, 'oracle'))}, the best agent without"
    )
    caption += (
        f" memory {number(_baseline(cells, 'memoryless'))}. Differences have a 95 % interval over seeds, by Welch's"
    )
    caption += f" t-test. A run had one thread on {' or '.join(processors) or 'no processor'}."
    return [*markdown_table(header, rows), "", caption]


def _metrics_of_seeds(cells: Mapping[str, Cell]) -> dict[str, list[float]]:
    """Return the metric of each finished seed, by method; methods without any are left out."""
    metrics = {
        method: [final["metric"] for final in cell["finals"] if final["status"] == "finished"]
        for method, cell in cells.items()
    }
    return {method: values for method, values in metrics.items() if values}


def _ranked(cells: Mapping[str, Cell]) -> list[str]:
    """Return the methods that have scores, the best one last."""
    metrics = _metrics_of_seeds(cells)
    is_error = all(final.get("metric_is_error", True) for cell in cells.values() for final in cell["finals"])
    return sorted(metrics, key=lambda method: fmean(metrics[method]), reverse=is_error)


def interval(value: Estimate) -> str:
    """Return a mean with its interval, or alone if it has none."""
    return number(value.mean) if isnan(value.low) else spread(value._asdict())


def _settings(study: Study, cells: Mapping[str, Cell]) -> list[str]:
    """Return a table of the settings that searches chose, or left as they are."""
    paths = list(dict.fromkeys(path for method in cells for path in study.methods[method].space))
    rows = [[method, *(_setting(cell["settings"].get(path)) for path in paths)] for method, cell in cells.items()]
    return markdown_table(["method", *(f"`{path.rpartition('.')[2]}`" for path in paths)], rows)


def _setting(value: object) -> str:
    if isinstance(value, list):
        return "all" if value == list(LAYER_KINDS) else " ".join(value)
    return NONE if value is None else str(value)


def _interventions(cells: Mapping[str, Cell]) -> list[str]:
    """Return tables of the scores under each intervention: the built-in ones, controls, and those of single layers."""
    played = list(dict.fromkeys(name for cell in cells.values() for name in cell["interventions"]))
    of_layers = [name for name in played if name not in INTERVENTIONS and name not in CONTROLS]
    controls = [name for name in played if name in CONTROLS]
    lines = _intervention_table(cells, [name for name in INTERVENTIONS if name in played])
    lines += ["", f"{_metric_name(cells).capitalize()}, mean over training seeds, on test episodes; {_ARROW}."]
    lines += ["See [evidence](../evidence/README.md) for the interventions."]
    for title, names in (("Controls", controls), ("Single layers", of_layers)):
        if names:
            lines += ["", f"### {title}", "", *_intervention_table(cells, names)]
    return lines


_ARROW = "on the left of the arrow against the episode's own targets, on its right against those of the twin"


def _intervention_table(cells: Mapping[str, Cell], names: Sequence[str]) -> list[str]:
    labels = {name: intervention.label for name, intervention in {**INTERVENTIONS, **CONTROLS}.items()}
    header = ["method", *(labels.get(name, name.replace("_", " ")) for name in names)]
    rows = []
    for method, cell in cells.items():
        scores = [cell["interventions"].get(name) for name in names]
        if any(scores):
            rows.append([method, *(_own_and_twin(each) for each in scores)])
    return markdown_table(header, rows)


def _own_and_twin(scores: Mapping[str, Sequence[float]] | None) -> str:
    return f"{fmean(scores['metric']):.3f} → {fmean(scores['twin_metric']):.3f}" if scores else NONE


def _score(cell: Cell | None) -> str:
    return spread((cell["test"] or {}).get("metric")) if cell else NONE


def _baseline(cells: Mapping[str, Cell], name: str) -> float | None:
    known = [cell["test"][name] for cell in cells.values() if cell["test"] and name in cell["test"]]
    return known[0] if known else None


def _shares(cells: Mapping[str, Cell]) -> list[Cell]:
    """Return the methods that have the share of answers within 0.05."""
    return [cell for cell in cells.values() if _WITHIN in (cell["test"] or {}).get("secondary_metrics", {})]


def _share(cell: Cell | None, column: str) -> str:
    if cell is None or not _shares({"": cell}):
        return NONE
    values = cell["test"]["secondary_metrics"][_WITHIN][column]
    per_cent = {name: 100 * value for name, value in values.items()}
    return spread(per_cent, 1) if column == "metric" else number(per_cent["mean"], 1)


def study_figure(study: Study, cells: Mapping[str, Cell]) -> Figure:
    """Draw the metric of each seed of each method, with the best method at the top."""
    scores, order = _metrics_of_seeds(cells), _ranked(cells)
    figure = Figure(figsize=(6.4, 1.2 + 0.28 * len(order)), layout="constrained", dpi=120)
    axes = figure.subplots()
    for row, method in enumerate(order):
        colour = "#0072B2" if cells[method]["settings"]["network.rule"] != "none" else "#D55E00"
        mean, low, high = mean_and_range(scores[method])
        axes.plot([low, high], [row, row], color=colour, linewidth=1.5, alpha=0.5)
        axes.plot(scores[method], [row] * len(scores[method]), "o", color=colour, markersize=4, alpha=0.5)
        axes.plot([mean], [row], "|", color=colour, markersize=14, markeredgewidth=2)
    for baseline, colour, line in (("oracle", "black", "--"), ("memoryless", "0.45", ":")):
        level = _baseline(cells, baseline)
        if level is not None:
            axes.axvline(level, color=colour, linestyle=line, label=baseline)
    axes.set_yticks(range(len(order)), order)
    axes.set_xlabel(f"{_metric_name(cells)} on test episodes")
    axes.set_xlim(left=0)
    axes.set_title(f"{study.title}: {study.steps} steps, blue: plastic, orange: not plastic", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    return figure
