"""Gymnasium environments for memory and learning within an episode, each with an optimal or near-optimal oracle."""

from plastic_envs import testing, wrappers
from plastic_envs.env import TaskEnv
from plastic_envs.registration import make_task, register, register_all, registered_ids
from plastic_envs.task import EpisodeBatch, StepValues, Task, normalised_score
from plastic_envs.vector_env import TaskVectorEnv
from plastic_envs.version import __version__

__all__ = [
    "EpisodeBatch",
    "StepValues",
    "Task",
    "TaskEnv",
    "TaskVectorEnv",
    "__version__",
    "make_task",
    "normalised_score",
    "register",
    "registered_ids",
    "testing",
    "wrappers",
]

register_all()
