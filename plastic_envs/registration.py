"""One row per environment id, and how ids become tasks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import gymnasium

from plastic_envs.task import Task
from plastic_envs.tasks import CueChoice, CueReward, FewShotClassification, FewShotRegression, SequenceReproduction

# id: (task, arguments that make it this id). Whatever else the task takes is given to `gymnasium.make` by keyword.
TASKS: dict[str, tuple[type[Task], Mapping[str, Any]]] = {}


def register(env_id: str, task: type[Task], **preset: Any) -> None:
    """Give a task an environment id, for `gymnasium.make`, `gymnasium.make_vec` and `make_task`.

    Saying the same twice is harmless, and a class that is defined again, as by running a cell of a notebook once more,
    takes the place of the one of its name. Other processes have to say it too: import the module that does, or name it
    before the id, as in `gymnasium.make("my_module:Mine/MyTask-v0")`.

    Args:
        env_id: such as "Mine/MyTask-v0".
        task: the class.
        **preset: arguments of the task that are other than its defaults under this id.

    Raises:
        TypeError: the id is no str, the task no class of tasks, or a preset no argument of the task's.
        ValueError: the id is taken by something else, or has a module prefix.
        gymnasium.error.Error: Gymnasium takes no such id.
    """
    if not isinstance(env_id, str):
        raise TypeError(f"env_id must be a str, such as 'Mine/MyTask-v0', got {env_id!r}")
    if ":" in env_id:
        raise ValueError(f"env_id must have no module prefix, which only gymnasium.make takes, got {env_id!r}")
    if not isinstance(task, type) or not issubclass(task, Task):
        raise TypeError(f"task must be a class derived from Task, got {task!r}")
    _check_names(task, preset)
    row = (task, preset)
    taken = TASKS.get(env_id)
    again = taken is None or taken == row or _defined_again(taken[0], task)
    if not again or (env_id in gymnasium.registry and taken is None):
        raise ValueError(f"env_id {env_id!r} is taken already, by {taken or gymnasium.registry.get(env_id)}")
    if env_id not in gymnasium.registry:
        gymnasium.register(
            env_id,
            entry_point="plastic_envs.env:TaskEnv",
            vector_entry_point="plastic_envs.vector_env:TaskVectorEnv",
            kwargs={"task": env_id},
        )
    TASKS[env_id] = row


def _defined_again(old: type[Task], new: type[Task]) -> bool:
    names = ((kind.__module__, kind.__qualname__) for kind in (old, new))
    return old is not new and next(names) == next(names)


def register_all() -> None:
    """Register the ids of this package."""
    register("PlasticRNN/CueReward-v0", CueReward)
    register("PlasticRNN/CueChoice-v0", CueChoice)
    register("PlasticRNN/SequenceReproduction-v0", SequenceReproduction)
    register("PlasticRNN/FewShotRegression-v0", FewShotRegression)
    register("PlasticRNN/FewShotRegressionMLP-v0", FewShotRegression, input_size=6, hidden_size=2)
    register("PlasticRNN/FewShotClassification-v0", FewShotClassification)


def registered_ids() -> list[str]:
    """The ids of all registered tasks, sorted."""
    return sorted(TASKS)


def make_task(env_id: str, **arguments: Any) -> Task:
    """Make the task behind an environment id.

    Args:
        env_id: such as "PlasticRNN/CueReward-v0". As with `gymnasium.make`, an id without a version means the latest
            version. A module prefix, as in "plastic_envs:PlasticRNN/CueReward-v0", is ignored: nothing is imported.
        **arguments: keyword arguments of the task.

    Raises:
        ValueError: there is no such id, or an argument is out of range.
        TypeError: the id is no str, the task has no such argument, or it is of the wrong type.
    """
    if not isinstance(env_id, str):
        raise TypeError(f"env_id must be a str, such as {registered_ids()[0]!r}, got {env_id!r}")
    module, _, name = env_id.rpartition(":")
    if name not in TASKS:
        name = _latest(name) or name
    if name not in TASKS:
        advice = f" (import {module} first if it registers the id)" if module not in ("", "plastic_envs") else ""
        raise ValueError(f"unknown environment id {env_id!r}{advice}, known are: {', '.join(registered_ids())}")
    task, preset = TASKS[name]
    _check_names(task, arguments)
    return task(**{**preset, **arguments})


def _latest(name: str) -> str | None:
    """Return the id of the latest version of a name without version, or None."""
    versions = [each for each in TASKS if re.fullmatch(re.escape(name) + r"-v\d+", each)]
    return max(versions, key=lambda each: int(each.rpartition("-v")[2]), default=None)


def _check_names(task: type[Task], arguments: Mapping[str, Any]) -> None:
    known = inspect.signature(task).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name, value in arguments.items():
        if name not in known:
            raise TypeError(
                f"{task.__name__} got an unexpected keyword argument {name!r} of {value!r}; "
                f"its arguments are: {', '.join(known) or 'none'}"
            )


def checked_spec(spec: Any) -> Any:
    """Return an environment's spec.

    Raises:
        TypeError: the spec has the id of one task and the argument of another, as if `gymnasium.make` was given both.
    """
    if spec is not None and spec.id in TASKS and spec.kwargs.get("task") != spec.id:
        raise TypeError(f"task must not be given beside the id {spec.id!r}, got {spec.kwargs.get('task')!r}")
    return spec


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
