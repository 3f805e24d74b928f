"""`load_pretrained`: the trained networks of the package as agents.

The parameters are read from files in the safetensors format, which hold numbers only, and the settings from JSON: no
file can run code.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from safetensors.torch import load

from plastic_agents.analysis.agent import Agent
from plastic_agents.models.config import NetworkConfig
from plastic_agents.plain_data import from_plain
from plastic_agents.pretrained.cards import FOLDER, pretrained_card
from plastic_agents.seeding import HELD_OUT_SPLITS, HeldOutSplit
from plastic_agents.training.supervised import SupervisedLearner
from plastic_agents.training.supervised_config import SupervisedConfig
from plastic_envs.validation import one_of


def load_pretrained(name: str, *, split: HeldOutSplit = "test", device: str | torch.device = "cpu") -> Agent:
    """Load a trained network of the package, as an agent on its task that `plastic_agents.probe` accepts.

    ``plastic-rnn models`` and `plastic_agents.pretrained_names` list the networks, and `plastic_agents.pretrained_card`
    has the settings and scores of one.

    Args:
        name: name of the network, such as ``"cue-reward-hebbian"``.
        split: the episodes that the agent's task is for, ``"test"`` or ``"validation"``. It makes a difference in a
            classification, in which these have other classes.
        device: device of the network, such as ``"cpu"`` or ``"cuda"``.

    Raises:
        TypeError: ``name`` or ``split`` is not a str.
        ValueError: the package has no network of this name, ``split`` or ``device`` is unknown, or the files of the
            network are damaged.
    """
    card = pretrained_card(name)
    is_test = one_of("split", split, HELD_OUT_SPLITS) == "test"
    path = FOLDER / f"{name}.safetensors"
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
