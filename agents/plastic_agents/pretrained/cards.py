"""Cards of the trained networks in the package: what each one is, and what it scored.

A network ``NAME`` consists of two files in the folder ``networks``: ``NAME.safetensors`` has its parameters,
``NAME.json`` its card. ``docs/export_pretrained.py`` writes them. In a folder of `plastic_agents.save_pretrained` they
are ``model.safetensors`` and ``card.json``. This module needs no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from plastic_agents.analysis.statistics import Estimate
from plastic_envs.validation import one_of

PARAMETERS, CARD = "model.safetensors", "card.json"
FOLDER = Path(__file__).parent / "networks"
_ESTIMATES = ("score", "oracle", "memoryless")


@dataclass(frozen=True)
class Card:
    """The description of a trained network.

    Attributes:
        task: id of the environment.
        task_arguments: keyword arguments of the task that differ from its defaults.
        algorithm: ``"supervised"``, or ``"ppo"`` or ``"a2c"`` for reinforcement learning.
        network: settings of the network, a `plastic_agents.NetworkConfig` as plain data.
        training: settings of training with the seed, a `plastic_agents.SupervisedConfig` or
            `plastic_agents.ReinforcementConfig` as plain data.
        steps: steps of training.
        choice: how this network was chosen among those of other training seeds.
        parameters: number of parameters.
        metric_name: what the scores are.
        metric_is_error: whether a lower score is better.
        episodes: number of test episodes of the scores.
        episode_seed: seed of these episodes, as `plastic_agents.probe` takes it.
        score: mean over the episodes, with its 95 % interval.
        oracle: the score of the oracle.
        memoryless: the score of the memoryless policy.
        normalised_score: the score on a scale on which the memoryless policy has 0 and the oracle 1.
        commit: commit of this project that trained the network.
        version: version of this project that trained the network.
        sha256: checksum of the file with the parameters.
    """

    task: str
    task_arguments: dict[str, Any]
    algorithm: str
    network: dict[str, Any]
    training: dict[str, Any]
    steps: int
    choice: str
    parameters: int
    metric_name: str
    metric_is_error: bool
    episodes: int
    episode_seed: int
    score: Estimate
    oracle: Estimate
    memoryless: Estimate
    normalised_score: float
    commit: str
    version: str
    sha256: str


def pretrained_names() -> list[str]:
    """Return the names of the trained networks in the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def pretrained_card(name: str) -> Card:
    """Return the card of a trained network.

    Raises:
        TypeError: ``name`` is not a str.
        ValueError: the package has no network of this name.
    """
    return read_card(FOLDER / f"{one_of('name of a trained network', name, pretrained_names())}.json")


def read_card(path: Path) -> Card:
    """Return the card in a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    names = [field.name for field in fields(Card)]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if list(content) != names:
            raise ValueError(f"it has {', '.join(map(str, content))}")
        return Card(**{**content, **{name: Estimate(*content[name]) for name in _ESTIMATES}})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} must be a card in JSON with {', '.join(names)}: {error}") from error
