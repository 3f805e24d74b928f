"""The choice of settings by validation scores, and the final trials that are scored on test episodes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from plastic_agents.sweep.plan import Trial, check_choice, plan_final, read_json
from plastic_agents.sweep.run import RESULT_FILE, SweepOptions, run_sweep, unfinished_trials

FINAL = "final"  # folder of the final trials in the folder of the sweep


def run_search(
    trials: Sequence[Trial],
    final_seeds: Sequence[int],
    out: str | os.PathLike[str],
    options: SweepOptions | None = None,
    *,
    final_settings: Mapping[str, Any] | None = None,
) -> None:
    """Train the trials, choose the best settings of each method, and train final trials in the folder ``final``.

    A method is a recipe with its rule and its settings of the task. A method with a single setting needs no choice: it
    has final trials only. The final trials start when all other trials are finished or have diverged, so the same call
    completes a search in which trials failed.

    Args:
        trials: trials from `plan_sweep`.
        final_seeds: training seeds of the final trials.
        out: folder of the sweep.
        options: how to run the trials.
        final_settings: settings of training by path that differ in the final trials, such as more steps.

    Raises:
        TypeError, ValueError, BlockingIOError, ModuleNotFoundError: as `check_choice`, `plan_final` and `run_sweep`.
    """
    check_choice(trials, final_seeds)
    plan_final(trials, final_seeds, final_settings)  # so that an invalid setting fails before the search
    out, candidates = Path(out), trials_to_compare(trials)
    if candidates:
        run_sweep(candidates, out, options)
        if unfinished_trials(candidates, out):
            return
    run_sweep(plan_final(choose(trials, out), final_seeds, final_settings), out / FINAL, options)


def trials_to_compare(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials of methods that have more than one setting to choose from."""
    return [
        trial
        for trial in trials
        if any(trial.settings != other.settings for other in trials if other.method == trial.method)
    ]


def choose(trials: Sequence[Trial], out: Path) -> list[Trial]:
    """Return a trial of each method with its best settings: those with the best mean score over seeds.

    The scores are those on validation episodes. A setting with which a seed diverged is never the best. A method whose
    settings all diverged has no trial in the list. Of equal settings, the first one counts as the best.

    Args:
        trials: trials of a sweep, all of which are finished or have diverged.
        out: folder of the sweep.

    Raises:
        ValueError: a trial has no result, or its score is not that of validation episodes.
    """
    compared = {trial.name for trial in trials_to_compare(trials)}
    best: dict[tuple[str, str], tuple[float, Trial]] = {}
    settings_of_method: dict[tuple[str, str], list[Any]] = {}
    for trial in trials:
        tried = settings_of_method.setdefault(trial.method, [])
        if trial.settings in tried:
            continue
        tried.append(trial.settings)
        if trial.name not in compared:
            best[trial.method] = (0.0, trial)
            continue
        seeds = [other for other in trials if (other.method, other.settings) == (trial.method, trial.settings)]
        scores = [_validation_score(out / "trials" / seed.name / RESULT_FILE) for seed in seeds]
        known = [score for score in scores if score is not None]
        score = fmean(known) if len(known) == len(scores) else None
        if score is not None and (trial.method not in best or score > best[trial.method][0]):
            best[trial.method] = (score, trial)
    return [trial for _, trial in best.values()]


def _validation_score(path: Path) -> float | None:
    """Return the score in a result file, of which more is better, or None if the trial diverged."""
    result = read_json(path)
    if result["status"] == "diverged":
        return None
    if result.get("split") != "validation":
        raise ValueError(f"{path} must hold a score on validation episodes to choose by, got {result.get('split')!r}")
    metric: float = result["metric"]
    return -metric if result["metric_is_error"] else metric
