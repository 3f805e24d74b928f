"""The plan of a sweep: every recipe with every combination of settings, or with settings that a search draws."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from itertools import product, zip_longest
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from plastic_agents.models.config import NO_PLASTICITY
from plastic_agents.seeding import HeldOutSplit
from plastic_agents.sweep.search import Search
from plastic_agents.training.learner import check_arguments
from plastic_agents.training.recipes import ReinforcementRecipe, SupervisedRecipe
from plastic_agents.training.reinforcement import ReinforcementLearner
from plastic_agents.training.supervised import SupervisedLearner
from plastic_envs.validation import whole_number

Recipe = SupervisedRecipe | ReinforcementRecipe

PLAN_FILE = "sweep.json"  # in the sweep's folder
# Scores with different values of these settings cannot be compared.
_NOT_CHOSEN = ("training.evaluation_episodes", "training.evaluation_arguments")


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
        name: name of the trial's folder.
        recipe_name: name of the recipe before the settings changed it.
        settings: changes to that recipe by path, such as ``{"task.delay": 20}``.
        recipe: the recipe with these settings and the trial's seed.
        split: the episodes of the trial's score: "validation" for a trial among whose settings a choice is made, and
            "test" for a final trial.
        space: the values from which the settings were taken, by path, such as ``{"training.learning_rate":
            "log:1e-3,1e-2"}``.
    """

    name: str
    recipe_name: str
    settings: Mapping[str, Any]
    recipe: Recipe
    split: HeldOutSplit = "validation"
    space: Mapping[str, str] = field(default_factory=dict)

    @property
    def method(self) -> tuple[str, str]:
        """The recipe, its rule and the task's settings: a choice compares trials of the same method."""
        return method_of(self.recipe_name, self.settings)

    def to_json(self) -> dict[str, Any]:
        """Return the trial as plain dicts, lists, strings and finite numbers."""
        content: dict[str, Any] = {"name": self.name, "recipe_name": self.recipe_name, "settings": dict(self.settings)}
        content |= {"split": self.split, "space": dict(self.space), "algo": _algo(self.recipe), **asdict(self.recipe)}
        # With the rule's defaults filled in, for comparisons; networks without plasticity have no settings of it.
        has_rule = self.recipe.network.rule != NO_PLASTICITY
        content["plasticity"] = self.recipe.network.settings._asdict() if has_rule else {}
        text = json.dumps(content, default=asdict)  # a setting may be a Curriculum
        # JSON has no infinity, which is a value of the norm limit: it becomes the text "Infinity".
        plain: dict[str, Any] = json.loads(text, parse_constant=str)
        return plain


def method_of(recipe_name: str, settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the recipe and those of its settings that make another method: those of the task, and the rule."""
    own = {path: value for path, value in settings.items() if path.startswith("task.") or path == "network.rule"}
    return recipe_name, json.dumps(own, default=repr, sort_keys=True)


def plan_sweep(
    recipes: Mapping[str, Recipe],
    *,
    seeds: Sequence[int] = (0,),
    settings: Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    search: Search | None = None,
) -> list[Trial]:
    """Return the trials of a sweep: every recipe with every combination of the grid's values and every seed.

    With a search, each of these has the settings that the search draws, one after the other. Settings of plasticity are
    left out for networks without plasticity. All draws are made here, so the same call always gives the same plan.

    The function makes a learner for each combination, so invalid settings fail here and not during the sweep.

    Args:
        recipes: recipes by name.
        seeds: seeds of parameters and training episodes.
        settings: values for all trials by path. A path is ``task.`` and an argument of the task, or ``network.`` or
            ``training.`` and a setting of the recipe, such as ``network.plasticity.rate``.
        grid: lists of values by path.
        search: distributions by path, and the number of settings to draw from them.

    Raises:
        ValueError: the recipes, the seeds or a path's values are empty or contain duplicates; a path is unknown or is
            given twice; a value is invalid; or a search is of settings whose scores cannot be compared.
    """
    seeds = [_python_number(seed) for seed in seeds]
    settings = {path: _python_number(value) for path, value in (settings or {}).items()}
    grid = {path: [_python_number(value) for value in values] for path, values in (grid or {}).items()}
    space = {} if search is None else dict(search.space)
    for name, values in (("recipes", recipes), ("seeds", seeds), *grid.items()):
        if not values or any(value in list(values)[:i] for i, value in enumerate(values)):
            raise ValueError(f"{name} must be one or more, each given once, got {list(values)}")
    _check_paths(settings, grid, space)
    trials: list[Trial] = []
    for recipe_name, recipe in recipes.items():
        for values in product(*grid.values()):
            combination = dict(zip(grid, values, strict=True))
            try:
                used = _used_paths(_with_settings(recipe, {**settings, **combination}), space)
                draws = [{}] if search is None else search.draw(used)
                for drawn, seed in product(draws, seeds):
                    changes = {**settings, **combination, **drawn}
                    changed_recipe = _with_settings(recipe, {**changes, "training.seed": seed})
                    if seed == seeds[0]:
                        _make_learner(changed_recipe)
                    name = _folder_name(len(trials), recipe_name, seed, {**combination, **drawn})
                    spaces = {**_grid_space(grid), **{path: space[path] for path in used}}
                    trials.append(Trial(name, recipe_name, changes, changed_recipe, space=spaces))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{recipe_name}: {error}") from error
    return trials


def _python_number(value: Any) -> Any:
    """Return a number of NumPy as one of Python, which a plan file can hold, and anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def _check_paths(settings: Mapping[str, Any], grid: Mapping[str, Sequence[Any]], space: Mapping[str, str]) -> None:
    """Check that each path is given once, and that a search is of settings whose scores can be compared."""
    for path in grid.keys() & settings.keys():
        raise ValueError(f"{path} must be one value or a grid of them, got {settings[path]!r} and {grid[path]}")
    for path, text in space.items():
        if path in settings or path in grid:
            other = f"set {settings[path]!r}" if path in settings else f"grid {list(grid[path])}"
            raise ValueError(f"{path} must be given by one of set, grid and search, got {other} and search {text!r}")
        if path.startswith("task.") or path in _NOT_CHOSEN:
            raise ValueError(
                f"search must be of settings whose scores can be compared, got {path}={text}: give it by set, or by "
                "grid for a search at each value"
            )
    if any("training.seed" in paths for paths in (settings, grid, space)):
        raise ValueError("training.seed must be given by seeds, got it as a setting too")


def _used_paths(recipe: Recipe, space: Mapping[str, str]) -> list[str]:
    """Return the searched settings that have an effect on the recipe's network."""
    has_no_plasticity = recipe.network.rule == NO_PLASTICITY and "network.rule" not in space
    return [path for path in space if not (has_no_plasticity and path.startswith("network.plasticity."))]


def _grid_space(grid: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    return {
        path: f"choice:{','.join(map(str, values))}" for path, values in grid.items() if not path.startswith("task.")
    }


def check_choice(trials: Sequence[Trial], final_seeds: Sequence[int]) -> None:
    """Check that a choice among trials, and final trials with these seeds, are possible.

    Raises:
        TypeError: a seed is not a whole number.
        ValueError: a seed is negative or occurs twice, or the trials differ in settings that make their scores
            incomparable.
    """
    seeds = [whole_number("final_seeds", seed, at_least=0) for seed in final_seeds]
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"final_seeds must be one or more, each given once, got {seeds}")
    for path in {path for trial in trials for path in trial.space if path in _NOT_CHOSEN}:
        raise ValueError(f"{path} must be the same for all trials of a choice, got a grid of it with final_seeds")


def plan_final(
    chosen: Sequence[Trial], final_seeds: Sequence[int], final_settings: Mapping[str, Any] | None = None
) -> list[Trial]:
    """Return the final trials, which are scored on test episodes: each chosen trial's settings with each seed.

    Args:
        chosen: trials of a sweep.
        final_seeds: training seeds of the final trials.
        final_settings: settings of training by path that differ in the final trials, such as ``training.steps``.

    Raises:
        ValueError: a setting is unknown or invalid, or it is not one of training.
    """
    final_settings = dict(final_settings or {})
    trials: list[Trial] = []
    for trial in chosen:
        for path in final_settings:
            if not path.startswith("training.") or path in (*_NOT_CHOSEN, "training.seed", *trial.space):
                raise ValueError(f"final_settings must be settings of training that no search chooses, got {path!r}")
        for seed in final_seeds:
            recipe = _with_settings(trial.recipe, {**final_settings, "training.seed": seed})
            varied = {path: value for path, value in trial.settings.items() if path in trial.space}
            name = _folder_name(len(trials), trial.recipe_name, seed, varied)
            settings = {**trial.settings, **final_settings}
            trials.append(replace(trial, name=name, settings=settings, recipe=recipe, split="test"))
    return trials


def learner_class(recipe: Recipe) -> Any:
    """Return the class that trains by a recipe."""
    return ReinforcementLearner if isinstance(recipe, ReinforcementRecipe) else SupervisedLearner


def _make_learner(recipe: Recipe) -> None:
    learner_class(recipe)(recipe.task, recipe.network, recipe.training, task_arguments=recipe.task_arguments)


def _folder_name(number: int, recipe_name: str, seed: int, combination: Mapping[str, Any]) -> str:
    words = [recipe_name, f"seed={seed}"]
    words += [f"{path.rpartition('.')[2]}={value}" for path, value in combination.items()]
    # The number keeps names distinct after truncation. Characters that file names may not contain become dashes.
    return re.sub(r"[^\w.=+-]+", "-", f"{number:03d}_{'_'.join(words)}")[:100]


def _algo(recipe: Recipe) -> str:
    return recipe.training.algorithm if isinstance(recipe, ReinforcementRecipe) else "supervised"


def _with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    changes: dict[str, dict[str, Any]] = {"task": {}, "network": {}, "training": {}}
    for path, value in settings.items():
        section, _, name = path.partition(".")
        if section not in changes or not name:
            raise ValueError(f"a setting must be task., network. or training. and its name, got {path!r}")
        changes[section][name] = value
    return replace(
        recipe,
        task_arguments=check_arguments({**recipe.task_arguments, **changes["task"]}),
        network=_replaced(recipe.network, changes["network"], "network"),
        training=_replaced(recipe.training, changes["training"], "training"),
    )


def _replaced(config: Any, changes: Mapping[str, Any], config_name: str) -> Any:
    """Return a config with new values by path, and check their types: some configs check the ranges only."""
    hints = get_type_hints(type(config))
    values: dict[str, Any] = {}
    nested_changes: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, nested_path = path.partition(".")
        if name not in hints:
            raise ValueError(
                f"{config_name} has no setting {name!r} (got {value!r} for it), it has: {', '.join(hints)}"
            )
        if nested_path:
            nested_changes.setdefault(name, {})[nested_path] = value
        elif not _has_type(value, hints[name]):
            expected = hints[name].__name__ if isinstance(hints[name], type) else hints[name]
            raise ValueError(f"{config_name}.{name} must be of type {expected}, got {value!r}")
        else:
            values[name] = value
    for name, changes_of_field in nested_changes.items():
        nested_config = values.get(name, getattr(config, name))
        if not is_dataclass(nested_config):
            raise ValueError(f"{config_name}.{name} is {nested_config!r} and has no settings, got {changes_of_field}")
        values[name] = _replaced(nested_config, changes_of_field, f"{config_name}.{name}")
    return replace(config, **values)


def _has_type(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin in (Union, UnionType):
        return any(_has_type(value, member) for member in get_args(hint))
    if isinstance(value, bool):  # a bool is an int in Python
        return hint is bool
    return isinstance(value, (int, float) if hint is float else origin or hint)


def check_plan(trials: Sequence[Trial], out: Path) -> None:
    """Check that the sweep in a folder, if there is one, has these trials.

    Raises:
        ValueError: ``out`` holds another sweep.
    """
    if not (out / PLAN_FILE).exists():
        return
    difference = _difference(read_json(out / PLAN_FILE)["trials"], [trial.to_json() for trial in trials])
    if difference:
        raise ValueError(f"{out} holds another sweep: {difference}. Use another --out or delete the folder.")


def _difference(stored: Sequence[Mapping[str, Any]], planned: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the first difference between two plans, or None if they are equal."""
    for old, new in zip_longest(stored, planned):
        # A name begins with the trial's number, so only trials at the same position can have the same name.
        if new is None or (old is not None and old["name"] != new["name"]):
            return f"it has trial {old['name']}, which this call does not plan"
        if old is None:
            return f"it lacks trial {new['name']}, which this call plans"
        for key in {**new, **old}:
            if old.get(key) != new.get(key):
                return f"{key} of trial {new['name']} is {old.get(key)} there, and this call plans {new.get(key)}"
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a sweep.

    Raises:
        ValueError: the file is not valid JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}. Delete it, or the folder that holds it.") from error
    return content
