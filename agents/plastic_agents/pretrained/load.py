"""`load_pretrained`: the trained networks of the package, and of folders, as agents.

The parameters are read from files in the safetensors format, which hold numbers only, and the settings from JSON: no
file can run code.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from plastic_agents.analysis.agent import Agent
from plastic_agents.models.config import NetworkConfig
from plastic_agents.plain_data import from_plain
from plastic_agents.pretrained.cards import CARD, FOLDER, PARAMETERS, Card, pretrained_card, pretrained_names, read_card
from plastic_agents.seeding import HELD_OUT_SPLITS, HeldOutSplit
from plastic_agents.training.supervised import SupervisedLearner
from plastic_agents.training.supervised_config import SupervisedConfig
from plastic_envs.validation import one_of


def load_pretrained(
    name: str | os.PathLike[str], *, split: HeldOutSplit = "test", device: str | torch.device = "cpu"
) -> Agent:
    """Load a trained network of the package or of a folder, as an agent that `plastic_agents.probe` accepts.

    ``plastic-rnn models`` and `plastic_agents.pretrained_names` list the networks, and `plastic_agents.pretrained_card`
    has the settings and scores of one.

    Args:
        name: name of the network, such as ``"cue-reward-hebbian"``, or a folder that `save_pretrained` wrote.
        split: the episodes that the agent's task is for, ``"test"`` or ``"validation"``. It makes a difference in a
            classification, in which these have other classes.
        device: device of the network, such as ``"cpu"`` or ``"cuda"``.

    Raises:
        TypeError: ``name`` is neither a str nor a path, or ``split`` is not a str.
        FileNotFoundError: a file of the folder is missing.
        ValueError: there is no network or folder of this name, ``split`` or ``device`` is unknown, or the files of the
            network are damaged.
    """
    if isinstance(name, str) and name not in pretrained_names() and Path(name).is_dir():
        name = Path(name)
    if isinstance(name, os.PathLike):
        card, path = _read_card(Path(name)), Path(name) / PARAMETERS
    else:
        card, path = pretrained_card(name), FOLDER / f"{name}.safetensors"
    is_test = one_of("split", split, HELD_OUT_SPLITS) == "test"
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != card.sha256:
        raise ValueError(f"{path} is damaged: its checksum must be {card.sha256}")
    learner: Any
    network = from_plain(card.network, "network", NetworkConfig)
    if card.algorithm == "supervised":
        config = from_plain(card.training, "training", SupervisedConfig)
        learner = SupervisedLearner(card.task, network, config, task_arguments=card.task_arguments, device=device)
    else:
        learner = _reinforcement_learner(card.task, network, card.training, card.task_arguments, device)
    network_of(learner).load_state_dict(load(data))
    agent: Agent = learner.evaluation_agent if is_test else learner.validation_agent
    return agent.eval()


def _read_card(folder: Path) -> Card:
    if not (folder / CARD).exists():
        advice = "no folder of save_pretrained"
        if (folder / "model.zip").exists():
            advice = "a folder of save_policy: read its model with RecurrentPPO.load or RecurrentA2C.load"
        raise FileNotFoundError(f"{folder} has no {CARD}: it is {advice}")
    return read_card(folder / CARD)


def network_of(learner: Any) -> torch.nn.Module:
    """Return the module whose parameters the files hold: the agent of a `SupervisedLearner`, or the policy."""
    module: torch.nn.Module = learner.agent if isinstance(learner, SupervisedLearner) else learner.model.policy
    return module


def _reinforcement_learner(
    task: str, network: NetworkConfig, training: dict[str, Any], task_arguments: dict[str, Any], device: Any
) -> Any:
    # Stable-Baselines3 takes seconds to import, and supervised networks do not need it.
    from plastic_agents.training.reinforcement import ReinforcementLearner
    from plastic_agents.training.reinforcement_config import ReinforcementConfig

    config = from_plain(training, "training", ReinforcementConfig)
    return ReinforcementLearner(task, network, config, task_arguments=task_arguments, device=device)
