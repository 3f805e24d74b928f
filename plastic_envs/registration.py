"""One row per environment id, and how ids become tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium

from plastic_envs.task import Task
from plastic_envs.tasks import CueChoice, CueReward, FewShotRegression, SequenceReproduction

# id: (task, arguments that make it this id). Whatever else the task takes is given to `gymnasium.make` by keyword.
TASKS: dict[str, tuple[type[Task], Mapping[str, Any]]] = {}


def register(env_id: str, task: type[Task], **preset: Any) -> None:
    """Give a task an environment id, for `gymnasium.make`, `gymnasium.make_vec` and `make_task`.

    Saying the same twice is harmless. Other processes have to say it too: import the module that does, or name it
    before the id, as in `gymnasium.make("my_module:Mine/MyTask-v0")`.

    Args:
        env_id: such as "Mine/MyTask-v0".
        task: the class.
        **preset: arguments of the task that are other than its defaults under this id.

    Raises:
        ValueError: the id is taken by something else.
    """
    row = (task, preset)
    if TASKS.get(env_id, row) != row or (env_id in gymnasium.registry and env_id not in TASKS):
        raise ValueError(f"env_id {env_id!r} is taken already, by {TASKS.get(env_id, gymnasium.registry.get(env_id))}")
    TASKS[env_id] = row
    if env_id not in gymnasium.registry:
        gymnasium.register(
            env_id,
            entry_point="plastic_envs.env:TaskEnv",
            vector_entry_point="plastic_envs.vector_env:TaskVectorEnv",
            kwargs={"task": env_id},
        )


def register_all() -> None:
    """Register the ids of this package."""
    register("PlasticRNN/CueReward-v0", CueReward)
    register("PlasticRNN/CueChoice-v0", CueChoice)
    register("PlasticRNN/SequenceReproduction-v0", SequenceReproduction)
    register("PlasticRNN/FewShotRegression-v0", FewShotRegression)
    register("PlasticRNN/FewShotRegressionMLP-v0", FewShotRegression, input_size=6, hidden_size=2)


def registered_ids() -> list[str]:
    """The ids of all registered tasks, sorted."""
    return sorted(TASKS)


def make_task(env_id: str, **arguments: Any) -> Task:
    """Make the task behind an environment id.

    Args:
        env_id: such as "PlasticRNN/CueReward-v0", with or without "plastic_envs:" before it.
        **arguments: keyword arguments of the task.

    Raises:
        ValueError: there is no such id, or an argument is out of range.
        TypeError: the task has no such argument, or it is of the wrong type.
    """
    name = env_id.removeprefix("plastic_envs:") if isinstance(env_id, str) else env_id
    if name not in TASKS:
        raise ValueError(f"unknown environment id {env_id!r}, known are: {', '.join(registered_ids())}")
    task, preset = TASKS[name]
    return task(**{**preset, **arguments})


def as_task(task: Task | str, arguments: Mapping[str, Any]) -> Task:
    """The task itself, or the one behind an id made with `arguments`.

    Raises:
        TypeError: `task` is neither, or arguments come with a task that is made already.
    """
    if isinstance(task, str):
        return make_task(task, **arguments)
    if not isinstance(task, Task):
        raise TypeError(f"task must be a Task or the id of one, got {task!r}")
    if arguments:
        raise TypeError(f"{task!r} is made already and takes no more arguments, got {', '.join(sorted(arguments))}")
    return task
