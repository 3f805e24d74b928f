"""Folders that share a trained network, such as on the Hugging Face Hub: parameters, settings and a model card.

No file can run code. ``README.md`` begins with the metadata that the Hub reads: tags and the score.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save

from plastic_agents.analysis.probes import probe
from plastic_agents.analysis.statistics import Estimate
from plastic_agents.atomic_files import replacing, write_json
from plastic_agents.models.config import NO_PLASTICITY
from plastic_agents.plain_data import to_plain
from plastic_agents.pretrained.cards import CARD, PARAMETERS, Card
from plastic_agents.pretrained.load import network_of
from plastic_envs import __version__
from plastic_envs.validation import whole_number

if TYPE_CHECKING:
    import os

    from plastic_agents.actor_critic.on_policy import RecurrentActorCritic
    from plastic_agents.training.reinforcement import ReinforcementLearner
    from plastic_agents.training.supervised import SupervisedLearner


def save_pretrained(
    learner: SupervisedLearner | ReinforcementLearner,
    folder: str | os.PathLike[str],
    *,
    episodes: int = 1000,
    choice: str = "the only training seed",
    commit: str = "",
) -> Card:
    """Score the trained network of a learner, and write it to a folder that `load_pretrained` reads.

    The folder has ``model.safetensors`` (parameters), ``card.json`` (the card, with all settings) and ``README.md``.

    Args:
        learner: the learner after training.
        folder: the folder to write; created if necessary. Files of the same names are replaced.
        episodes: number of test episodes of the score, at least 2.
        choice: how this network was chosen among those of other training seeds.
        commit: commit of your code.

    Raises:
        TypeError, ValueError: ``episodes`` is no whole number of at least 2.
        ValueError: the learner was made with a `plastic_envs.Task` or a core, which no card can hold, instead of the id
            of a task and a `plastic_agents.NetworkConfig`.
    """
    episodes = whole_number("episodes", episodes, at_least=2)
    card, data = make_card(learner, episodes, 1, choice, commit, __version__)
    folder = Path(folder)
    write_json(folder / CARD, asdict(card))  # first: an error in a card replaces no file
    with replacing(folder / PARAMETERS) as path:
        path.write_bytes(data)
    usage = "from plastic_agents import load_pretrained\n\nagent = load_pretrained(FOLDER)  # the path of this folder"
    rule, cell = card.network["rule"], card.network["cell"]
    words = [cell] if rule == NO_PLASTICITY else [rule, cell]
    _write_readme(
        folder,
        name=f"{' '.join(words)} on {card.task}",
        task=card.task,
        algorithm=card.algorithm,
        tags=[*words, card.algorithm],
        metric=card.metric_name,
        score=_score(card.score),
        facts={
            "plasticity rule": rule,
            "cell": cell,
            "parameters": str(card.parameters),
            "training": card.algorithm,
            "training steps": str(card.steps),
            f"{card.metric_name}, {card.episodes} test episodes": _score(card.score),
            learner.task.oracle_name: _score(card.oracle),
            "memoryless": _score(card.memoryless),
        },
        usage=usage,
    )
    return card


def make_card(
    learner: Any, episodes: int, episode_seed: int, choice: str, commit: str, version: str
) -> tuple[Card, bytes]:
    """Score a learner's network on test episodes; return its card, and its parameters in the safetensors format."""
    for name in ("task_id", "network_config"):
        if getattr(learner, name) is None:
            raise ValueError(
                f"learner must have the id of a task and a NetworkConfig, which a card can hold, got {name}=None"
            )
    network = network_of(learner)
    data = save({name: tensor.contiguous() for name, tensor in network.state_dict().items()})
    report = probe(learner.evaluation_agent, episodes=episodes, seed=episode_seed, interventions=["intact"], step=0)
    card = Card(
        task=learner.task_id,
        task_arguments=learner.task_arguments,
        algorithm=getattr(learner.config, "algorithm", "supervised"),
        network=to_plain(learner.network_config, "network"),
        training=to_plain(learner.config, "training"),
        steps=learner.progress.step,
        choice=choice,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        metric_name=report.metric_name,
        metric_is_error=report.metric_is_error,
        episodes=report.episodes,
        episode_seed=report.seed,
        score=report["intact"].metric,
        oracle=report.oracle,
        memoryless=report.memoryless,
        normalised_score=report["intact"].normalised_score,
        commit=commit,
        version=version,
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return card, data


def save_policy(
    model: RecurrentActorCritic,
    folder: str | os.PathLike[str],
    *,
    env_id: str,
    mean_reward: tuple[float, float],
) -> None:
    """Write a `RecurrentPPO` or `RecurrentA2C`, trained in any environment, to a folder.

    The folder has ``model.zip``, which ``RecurrentPPO.load`` reads without running code, ``settings.json`` (the
    arguments of the model) and ``README.md``. If the environment is a ``VecNormalize``, it also has
    ``vec_normalize.zip``, which `plastic_agents.load_vec_normalize` reads without running code.

    Args:
        model: the model.
        folder: the folder to write; created if necessary. Files of the same names are replaced.
        env_id: id of the environment.
        mean_reward: mean and standard deviation of the returns, as ``evaluate_policy`` returns them.

    Raises:
        ValueError: ``mean_reward`` is not finite.
        TypeError: a schedule of the model, or a subclass of ``VecNormalize``, is one that no file can hold.
    """
    mean, std = mean_reward
    if not (math.isfinite(mean) and math.isfinite(std)):
        raise ValueError(f"mean_reward must be two finite numbers, a mean and a standard deviation, got {mean_reward}")
    folder = Path(folder)
    name = type(model).__name__
    folder.mkdir(parents=True, exist_ok=True)
    normalisation = folder / "vec_normalize.zip"
    normalize = model.get_vec_normalize_env()
    usage = f'from plastic_agents import {name}\n\nmodel = {name}.load("model.zip")'
    if normalize is None:
        normalisation.unlink(missing_ok=True)
    else:
        # Stable-Baselines3 takes seconds to import, and supervised networks do not need it.
        from plastic_agents.actor_critic.normalisation import save_vec_normalize

        save_vec_normalize(normalize, normalisation)
        usage = (
            f"from plastic_agents import {name}, load_vec_normalize\n\n"
            'env = load_vec_normalize("vec_normalize.zip", env)  # env: the VecEnv without VecNormalize\n'
            f'env.training = env.norm_reward = False\nmodel = {name}.load("model.zip", env=env)'
        )
    model.save(folder / "model.zip")
    write_json(folder / "settings.json", {"algorithm": name, "env_id": env_id, "arguments": model.plain_arguments()})
    score = f"{mean:.4g} +/- {std:.2g}"
    _write_readme(
        folder,
        name=f"{name} on {env_id}",
        task=env_id,
        algorithm=name,
        tags=[name],
        metric="mean_reward",
        score=score,
        facts={"mean_reward": score},
        usage=usage,
    )


def _score(value: Estimate) -> str:
    """Return a mean with half the width of its interval."""
    return f"{value.mean:.4g} +/- {(value.high - value.low) / 2:.2g}"


def _write_readme(
    folder: Path,
    *,
    name: str,
    task: str,
    algorithm: str,
    tags: Iterable[str],
    metric: str,
    score: str,
    facts: Mapping[str, str],
    usage: str,
) -> None:
    """Write a model card for people, which begins with the metadata for the Hub.

    Args:
        folder: the folder.
        name: name of the model.
        task: id of the environment.
        algorithm: what trained the model.
        tags: tags besides the task, the kind of learning and this project.
        metric: name of the score.
        score: the score with its uncertainty.
        facts: the rows of the table, by name.
        usage: the code that loads the model.
    """
    kind = "supervised" if algorithm == "supervised" else "reinforcement-learning"
    metadata = {
        "library_name": "plastic-rnn",
        "tags": list(dict.fromkeys([task, *tags, kind, "plastic-rnn"])),
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": kind, "name": kind},
                        "dataset": {"name": task, "type": task},
                        "metrics": [{"type": metric, "value": score, "name": metric, "verified": False}],
                    }
                ],
            }
        ],
    }
    # JSON is valid YAML, and quotes all names.
    header = json.dumps(metadata, indent=2)
    table = "\n".join(["| | |", "|---|---|", *(f"| {fact} | {value} |" for fact, value in facts.items())])
    text = f"---\n{header}\n---\n\n# {name}\n\n{table}\n\n```python\n{usage}\n```\n"
    with replacing(folder / "README.md") as path:
        path.write_text(text, encoding="utf-8")
