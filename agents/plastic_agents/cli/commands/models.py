"""The networks that ``evaluate`` and ``probe`` play."""

from __future__ import annotations

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


def checkpoint_path(path: Path) -> Path:
    """Return the path of a checkpoint, given that path or the run folder."""
    from plastic_agents.training.learner import CHECKPOINT

    return path / CHECKPOINT if path.is_dir() else path


def load_agent(checkpoint: Path, device: str, split: Split) -> Agent:
    """Return the agent that a run trained, by supervised or reinforcement learning, on the task of a split."""
    from plastic_agents.checkpoint import checkpoint_kind

    algos = {"supervised": "supervised", "policy": "ppo"}  # by the kind of the checkpoint
    kind = checkpoint_kind(checkpoint)
    if kind not in algos:
        raise ValueError(f"{checkpoint} must be a checkpoint from plastic-rnn train, got one of kind {kind!r}")
    learner = learner_class(algos[kind]).load(checkpoint, device=device)
    agent: Agent = learner.evaluation_agent if split == "test" else learner.validation_agent
    return agent
