"""The networks that ``evaluate``, ``probe`` and ``watch`` play."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from plastic_agents.analysis.agent import Agent

Split = Literal["validation", "test"]  # as in plastic_agents.seeding, which needs NumPy


def learner_class(algo: str) -> Any:
    """Return the class that trains by an algorithm."""
    if algo == "supervised":
        from plastic_agents.training.supervised import SupervisedLearner

        return SupervisedLearner
    from plastic_agents.training.reinforcement import ReinforcementLearner

    return ReinforcementLearner


def is_pretrained(model: Path) -> bool:
    """Return whether the argument of a command is the name of a trained network of the package.

    A checkpoint, a run folder or a folder of `save_pretrained` of that name comes first.
    """
    from plastic_agents.pretrained.cards import pretrained_names

    return str(model) in pretrained_names() and not checkpoint_path(model).exists() and not is_shared(model)


def is_shared(model: Path) -> bool:
    """Return whether the argument of a command is a folder that `save_pretrained` wrote, and no run folder."""
    from plastic_agents.pretrained.cards import CARD

    return (model / CARD).is_file() and not checkpoint_path(model).exists()


def model_name(model: Path) -> str:
    """Return the name for a report on a network: the name of the network, or that of its run folder."""
    if is_pretrained(model):
        return str(model)
    checkpoint = checkpoint_path(model)
    return checkpoint.resolve().parent.name or checkpoint.stem


def checkpoint_path(path: Path) -> Path:
    """Return the path of a checkpoint, given that path or the run folder."""
    from plastic_agents.training.learner import CHECKPOINT

    return path / CHECKPOINT if path.is_dir() else path


def load_agent(model: Path, device: str, split: Split) -> Agent:
    """Return a trained agent on the task of a split.

    Args:
        model: a run folder, the checkpoint in it, a folder that `save_pretrained` wrote, or the name of a trained
            network of the package.
        device: device of the agent.
        split: validation or test.

    Raises:
        FileNotFoundError: there is neither such a file nor such a network.
        ValueError: the file is no checkpoint of a run, or ``device`` is unknown.
    """
    from plastic_agents.checkpoint import checkpoint_kind
    from plastic_agents.pretrained.cards import pretrained_names

    checkpoint = checkpoint_path(model)
    if is_pretrained(model) or is_shared(model):
        from plastic_agents.pretrained.load import load_pretrained

        # A path is a folder, also if the package has a network of its name.
        return load_pretrained(model if is_shared(model) else str(model), split=split, device=device)
    if not checkpoint.exists():
        similar = get_close_matches(str(model), pretrained_names())
        raise FileNotFoundError(
            f"there is no checkpoint at {checkpoint}, and no trained network of this name in plastic-rnn models"
            f"{'; perhaps you meant ' if similar else ''}{' or '.join(similar)}"
        )
    algos = {"supervised": "supervised", "policy": "ppo"}  # by the kind of the checkpoint
    kind = checkpoint_kind(checkpoint)
    if kind not in algos:
        raise ValueError(f"{checkpoint} must be a checkpoint from plastic-rnn train, got one of kind {kind!r}")
    learner = learner_class(algos[kind]).load(checkpoint, device=device)
    agent: Agent = learner.evaluation_agent if split == "test" else learner.validation_agent
    return agent
