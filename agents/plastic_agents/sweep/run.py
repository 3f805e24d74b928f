"""Sweeps: recipes by settings by seeds, each a run in a folder of its own.

`plan` says what trials there are and refuses what could not run; `run` trains those that are not done, on Ray Tune
(`plastic_agents.sweep.ray_tune`); `plastic_agents.sweep.results` makes a table and a figure of what they wrote.
"""

from __future__ import annotations

import json
import os
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import partial
from itertools import product, zip_longest
from math import isnan
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from plastic_agents.atomic_files import locked, remove_temporaries, write_json
from plastic_agents.training.learner import OnEvaluation, check_arguments, check_device
from plastic_agents.training.recipes import ReinforcementRecipe, SupervisedRecipe
from plastic_agents.training.reinforcement import ReinforcementLearner
from plastic_agents.training.supervised import SupervisedLearner
from plastic_envs import register
from plastic_envs.registration import TASKS

PLAN = "sweep.json"  # names of files: in the sweep's folder
RESULT_FILE = "outcome.json"  # in that of a trial
ERROR = "error.txt"
# Another attempt at a run that diverged would end as the first did.
DONE = ("finished", "diverged")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: of its folder.
        recipe_name: what it was made from.
        settings: what is other than in that recipe, by path, such as ``{"task.delay": 20}``.
        recipe: the recipe with these settings and the trial's seed.
    """

    name: str
    recipe_name: str
    settings: Mapping[str, Any]
    recipe: SupervisedRecipe | ReinforcementRecipe

    def to_json(self) -> dict[str, Any]:
        """All of the trial in plain dicts, lists, strings and numbers."""
        content: dict[str, Any] = {"name": self.name, "recipe_name": self.recipe_name, "settings": dict(self.settings)}
        content |= {"algo": _algo(self.recipe), **asdict(self.recipe)}
        plain: dict[str, Any] = json.loads(json.dumps(content, default=asdict))  # a setting may be a Curriculum
        return plain


def plan(
    recipes: Mapping[str, SupervisedRecipe | ReinforcementRecipe],
    *,
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
) -> list[Trial]:
    """The trials of a sweep: every recipe with every combination of the grid's values and every seed.

    Each combination is tried out, up to the first step of training, so that nothing has to fail later.

    Args:
        recipes: by name.
        seeds: of parameters and training episodes.
        settings: values for all trials by path: ``task.`` and an argument of the task, or ``network.`` or ``training.``
            and a setting of the recipe, such as ``network.plasticity.rate``.
        grid: several values by path.

    Raises:
        ValueError: there is nothing to do, or something twice; an unknown path, or a value that cannot be.
    """
    settings, grid = dict(settings or {}), dict(grid or {})
    for name, values in (("recipes", recipes), ("seeds", seeds), *grid.items()):
        if not values or any(value in list(values)[:i] for i, value in enumerate(values)):
            raise ValueError(f"{name} must be one or more, each given once, got {list(values)}")
    for path in grid.keys() & settings.keys():
        raise ValueError(f"{path} must be one value or a grid of them, got {settings[path]!r} and {grid[path]}")
    if "training.seed" in grid or "training.seed" in settings:
        raise ValueError("training.seed must be given by seeds, got it as a setting too")
    trials: list[Trial] = []
    for recipe_name, recipe in recipes.items():
        for values in product(*grid.values()):
            combination = dict(zip(grid, values, strict=True))
            changed = {**settings, **combination}
            for seed in seeds:
                try:
                    made = _with_settings(recipe, {**changed, "training.seed": seed})
                    if seed == seeds[0]:
                        _learner(made)(made.task, made.network, made.training, task_arguments=made.task_arguments)
                except (ValueError, TypeError) as error:
                    raise ValueError(f"{recipe_name}: {error}") from error
                words = [recipe_name, f"seed={seed}", *(f"{_last(path)}={combination[path]}" for path in combination)]
                # Numbered, so that no two are the same once they are cut, and made fit for a file's name.
                name = re.sub(r"[^\w.=+-]+", "-", f"{len(trials):03d}_{'_'.join(words)}")[:100]
                trials.append(Trial(name, recipe_name, changed, made))
    return trials


def _last(path: str) -> str:
    return path.rpartition(".")[2]


def _algo(recipe: SupervisedRecipe | ReinforcementRecipe) -> str:
    return recipe.training.algorithm if isinstance(recipe, ReinforcementRecipe) else "supervised"


def _learner(recipe: SupervisedRecipe | ReinforcementRecipe) -> Any:
    return ReinforcementLearner if isinstance(recipe, ReinforcementRecipe) else SupervisedLearner


def _with_settings(
    recipe: SupervisedRecipe | ReinforcementRecipe, settings: Mapping[str, Any]
) -> SupervisedRecipe | ReinforcementRecipe:
    parts: dict[str, dict[str, Any]] = {"task": {}, "network": {}, "training": {}}
    for path, value in settings.items():
        part, _, name = path.partition(".")
        if part not in parts or not name:
            raise ValueError(f"a setting must be task., network. or training. and its name, got {path!r}")
        parts[part][name] = value
    return replace(
        recipe,
        task_arguments=check_arguments({**recipe.task_arguments, **parts["task"]}),
        network=_replaced(recipe.network, parts["network"], "network"),
        training=_replaced(recipe.training, parts["training"], "training"),
    )


def _replaced(config: Any, changes: Mapping[str, Any], within: str) -> Any:
    """A config with other values by path, whose types are checked, since the classes themselves check ranges only."""
    hints = get_type_hints(type(config))
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        if name not in hints:
            raise ValueError(f"{within} has no setting {name!r} (got {value!r} for it), it has: {', '.join(hints)}")
        if rest:
            inner.setdefault(name, {})[rest] = value
        elif not _fits(value, hints[name]):
            wanted = hints[name].__name__ if isinstance(hints[name], type) else hints[name]
            raise ValueError(f"{within}.{name} must be of type {wanted}, got {value!r}")
        else:
            own[name] = value
    for name, parts in inner.items():
        part = own.get(name, getattr(config, name))
        if not is_dataclass(part):
            raise ValueError(f"{within}.{name} is {part!r} and has no settings, got {parts}")
        own[name] = _replaced(part, parts, f"{within}.{name}")
    return replace(config, **own)


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if isinstance(value, bool):  # which Python takes for a number
        return hint is bool
    return isinstance(value, (int, float) if hint is float else origin or hint)


def train(trial: Trial, folder: Path, tell: OnEvaluation, *, device: str = "cpu", threads: int = 1) -> None:
    """Train a trial, or go on with it, and write ``outcome.json`` into its folder.

    Args:
        trial: which.
        folder: where; holds checkpoint and TensorBoard's files too, as any run's.
        tell: called with each evaluation.
        device: where to train.
        threads: how many of torch's.

    Raises:
        Exception: whatever went wrong; the outcome says so too, and ``error.txt`` where. Divergence is an outcome only.
    """
    torch.set_num_threads(threads)
    for name in (RESULT_FILE, ERROR):  # of an earlier attempt
        (folder / name).unlink(missing_ok=True)
    recipe = trial.recipe
    try:
        learner = _learner(recipe).start_or_resume(
            recipe.task,
            recipe.network,
            recipe.training,
            task_arguments=recipe.task_arguments,
            run_dir=folder,
            device=device,
        )
        report = learner.learn(progress_bar=False, on_evaluation=tell)
    except Exception as error:
        diverged = isinstance(error, FloatingPointError)
        (folder / ERROR).write_text(traceback.format_exc())
        write_failure(folder, f"{type(error).__name__}: {error}", "diverged" if diverged else "failed")
        if not diverged:
            raise
        return
    intact = report["intact"]
    outcome = {
        "metric_name": report.metric_name,
        "metric_is_error": report.metric_is_error,
        "metric": intact.metric.mean,
        "normalised_score": None if isnan(intact.normalised_score) else intact.normalised_score,
        "oracle": report.oracle.mean,
        "memoryless": report.memoryless.mean,
        "steps": learner.progress.step,
        "seconds": learner.progress.seconds,
    }
    write_json(folder / RESULT_FILE, {"status": "finished", **outcome})


def write_failure(folder: Path, error: str, status: str = "failed") -> None:
    """Write into a trial's folder what went wrong, unless an outcome is there already."""
    if not (folder / RESULT_FILE).exists():
        write_json(folder / RESULT_FILE, {"status": status, "error": error})


def run(
    trials: Iterable[Trial],
    out: str | os.PathLike[str],
    *,
    concurrent: int | None = None,
    threads: int = 1,
    gpus_per_trial: float = 0,
    retries: int = 1,
    address: str | None = None,
    device: str | None = None,
) -> None:
    """Train the trials that are not done yet; what fails is tried again, and leaves the others alone.

    Trials go on from their own checkpoints, not from Tune's, which are pickles, and loading those could run code. So a
    sweep that was interrupted, however it was, is taken up by the same call, and by whatever version of Ray.

    Args:
        trials: what `plan` made.
        out: folder of the sweep, which all machines of a cluster must share.
        concurrent: how many at a time; by default as many as there are processors.
        threads: how many each trial computes with.
        gpus_per_trial: may be a part of one, which trials then share.
        retries: how often each is tried again.
        address: of a Ray cluster, such as "auto" on one of its machines; by default this machine.
        device: where trials train; by default "cuda" if they have GPUs, otherwise "cpu".

    Raises:
        BlockingIOError: another sweep is running in ``out``.
        ValueError: ``out`` holds a sweep with other settings, or a number is out of range, or more than there is here.
        ModuleNotFoundError: Ray is not installed.
    """
    for name, value, least in (("concurrent", concurrent, 1), ("threads", threads, 1), ("retries", retries, 0)):
        if value is not None and not (isinstance(value, int) and value >= least):
            raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")
    if not gpus_per_trial >= 0:
        raise ValueError(f"gpus_per_trial must be 0 or more, got {gpus_per_trial!r}")
    device = device or ("cuda" if gpus_per_trial else "cpu")
    if device.startswith("cuda") and not gpus_per_trial:
        raise ValueError(f"gpus_per_trial must be more than 0 for device {device!r}, got {gpus_per_trial!r}")
    if address is None:
        check_device(device)
    trials, out = list(trials), Path(out).resolve()
    if not _waiting(trials, out):
        return
    try:
        from plastic_agents.sweep.ray_tune import run_trials
    except ImportError as error:
        raise ModuleNotFoundError(
            f"sweep needs ray[tune], which a plain install leaves out ({error}): pip install 'plastic-rnn[sweep]'"
        ) from error
    with locked(out) as is_locked:
        waiting = _waiting(trials, out)  # another sweep may have been here meanwhile
        if is_locked:
            remove_temporaries(out / PLAN)
        for name in waiting:
            (out / "trials" / name).mkdir(parents=True, exist_ok=True)
        write_json(out / PLAN, {"trials": [trial.to_json() for trial in trials]})
        # The function itself goes to the workers, not its name.
        work = partial(train, device=device, threads=threads)
        ids = {trial.recipe.task.removeprefix("plastic_envs:") for trial in waiting.values()}
        tasks = {env_id: TASKS[env_id] for env_id in ids}

        def train_by_name(name: str, tell: OnEvaluation) -> None:
            for env_id, (task, preset) in tasks.items():
                register(env_id, task, **preset)  # the process knows the package's own only
            work(waiting[name], out / "trials" / name, tell)

        run_trials(
            train_by_name,
            list(waiting),
            on_failure=lambda name, error: write_failure(out / "trials" / name, error),
            scratch=out / ".tune",
            concurrent=concurrent,
            threads=threads,
            gpus_per_trial=gpus_per_trial,
            retries=retries,
            address=address,
        )


def _waiting(trials: Sequence[Trial], out: Path) -> dict[str, Trial]:
    """The trials that are not done, by name.

    Raises:
        ValueError: ``out`` holds another sweep.
    """
    contents = [trial.to_json() for trial in trials]
    if (out / PLAN).exists() and (found := read_json(out / PLAN)["trials"]) != contents:
        raise ValueError(
            f"{out} holds a sweep with other settings: {_difference(found, contents)}; "
            "choose another folder, or remove it"
        )
    return {trial.name: trial for trial in trials if status(out / "trials" / trial.name) not in DONE}


def status(folder: Path) -> str:
    """How a trial ended: "finished", "diverged" or "failed"; "unfinished" where it has not, or never began."""
    said: str = read_json(folder / RESULT_FILE)["status"] if (folder / RESULT_FILE).exists() else "unfinished"
    return said


def read_json(path: Path) -> dict[str, Any]:
    """Read what a sweep wrote.

    Raises:
        ValueError: the file is no JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read, remove it or what it belongs to: {error}") from error
    return content


def _difference(found: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]) -> str:
    for old, new in zip_longest(found, wanted, fillvalue={"name": "absent"}):
        if old["name"] != new["name"]:
            return f"where trial {new['name']} would be, it has {old['name']}"
        for key in {**new, **old}:
            if old.get(key) != new.get(key):
                return f"{key} of trial {new['name']} is {old.get(key)} there, not {new.get(key)}"
    return "none"
