"""The names of algorithms and recipes, which the commands check before they import torch."""

from __future__ import annotations

import json
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

Algo = Literal["supervised", "ppo", "a2c"]
ALGOS: tuple[str, ...] = get_args(Algo)
# Names of the recipes of each environment without the rule or the network at their end. A test compares them with the
# recipes, which need torch.
SUPERVISED_FAMILIES = {
    "PlasticRNN/CueReward-v0": ("cue-reward",),
    "PlasticRNN/FewShotClassification-v0": ("glyphs", "cifar-fs", "mini-imagenet"),
    "PlasticRNN/FewShotRegression-v0": ("regression", "regression-linear-20", "regression-linear-10"),
    "PlasticRNN/FewShotRegressionMLP-v0": ("regression-mlp",),
    "PlasticRNN/SequenceReproduction-v0": ("reproduction",),
}
REINFORCEMENT_FAMILIES = {
    "PlasticRNN/CueChoice-v0": ("cue-choice",),
    "PlasticRNN/CueReward-v0": ("cue-reward",),
    "PlasticRNN/FewShotClassification-v0": ("glyphs",),
    "PlasticRNN/Bandit-v0": ("bandit",),
    "PlasticRNN/Harlow-v0": ("harlow",),
}
RECIPE_SCORES = Path(__file__).parents[2] / "training" / "recipe_scores.json"
"""The scores that networks trained by the recipes reached, which docs/generate_results.py writes."""


@cache
def recipe_scores() -> dict[str, dict[str, dict[str, Any]]]:
    """Return what the recipes of each algorithm reached, by name; recipes without published runs are left out."""
    scores: dict[str, dict[str, dict[str, Any]]] = json.loads(RECIPE_SCORES.read_text(encoding="utf-8"))
    return scores


@cache
def recipes_by_algo() -> dict[str, dict[str, Any]]:
    """Return the recipes of each algorithm by name."""
    from plastic_agents.training.recipes import REINFORCEMENT_RECIPES, SUPERVISED_RECIPES

    # A2C passes over each rollout once, as a whole.
    by_a2c = {
        name: replace(recipe, training=replace(recipe.training, algorithm="a2c", n_epochs=1, batch_size=None))
        for name, recipe in REINFORCEMENT_RECIPES.items()
    }
    return {"supervised": dict(SUPERVISED_RECIPES), "ppo": dict(REINFORCEMENT_RECIPES), "a2c": by_a2c}


def check_recipe(name: str, algo: str) -> None:
    """Check that an algorithm has a recipe of this name.

    Raises:
        ValueError: the algorithm has no such recipe.
    """
    recipes = recipes_by_algo()
    if name not in recipes[algo]:
        algos = [candidate for candidate in recipes if name in recipes[candidate]]
        if algos:
            raise ValueError(f"recipe {name!r} is for --algo {' or '.join(algos)}, not {algo}")
        containing = [recipe for recipe in recipes[algo] if name in recipe]
        similar = containing or get_close_matches(name, recipes[algo])
        rest = f"; perhaps you meant {' or '.join(similar)}" if similar else f", which has {', '.join(recipes[algo])}"
        raise ValueError(f"recipe {name!r} is unknown to --algo {algo}{rest}")
