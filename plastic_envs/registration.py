"""The registry of environment ids."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from plastic_envs.task import Task
from plastic_envs.tasks import (
    Bandit,
    CueChoice,
    CueReward,
    FewShotClassification,
    FewShotRegression,
    Harlow,
    SequenceReproduction,
)

# The class of each id's task, and the arguments that the id sets. `gymnasium.make` accepts the others by keyword.
TASKS: dict[str, tuple[type[Task], Mapping[str, Any]]] = {}


def register(env_id: str, task: type[Task], **preset: Any) -> None:
    """Register an environment id for `gymnasium.make`, `gymnasium.make_vec` and `make_task`.

    Repeating a registration has no effect. A class that is defined again, for example by rerunning a notebook cell,
    replaces the class of the same name. Every process must register the id: import the module that does so, or prefix
    the id with it, as in `gymnasium.make("my_module:Mine/MyTask-v0")`.

    Args:
        env_id: the id, such as "Mine/MyTask-v0".
        task: the class of the task.
        **preset: arguments of the task that the id sets.

    Raises:
        TypeError: `env_id` is not a str, `task` is not a subclass of Task, or the task has no argument of a preset's
            name.
        ValueError: the id is taken, or has a module prefix.
        gymnasium.error.Error: Gymnasium rejects the id.
    """
    if not isinstance(env_id, str):
        raise TypeError(f"env_id must be a str, such as 'Mine/MyTask-v0', got {env_id!r}")
    if ":" in env_id:
        raise ValueError(f"env_id must have no module prefix (gymnasium.make accepts one), got {env_id!r}")
    if not isinstance(task, type) or not issubclass(task, Task):
        raise TypeError(f"task must be a class derived from Task, got {task!r}")
    _check_names(task, preset)
    entry = (task, preset)
    old_entry = TASKS.get(env_id)
    if old_entry is None:
        is_taken = env_id in gymnasium.registry
    else:
        is_taken = old_entry != entry and not _is_redefinition(old_entry[0], task)
    if is_taken:
        raise ValueError(f"env_id {env_id!r} is already taken by {old_entry or gymnasium.registry.get(env_id)}")
    if env_id not in gymnasium.registry:
        gymnasium.register(
            env_id,
            entry_point="plastic_envs.env:TaskEnv",
            vector_entry_point="plastic_envs.vector_env:TaskVectorEnv",
            kwargs={"task": env_id},
        )
    TASKS[env_id] = entry


def _is_redefinition(old: type[Task], new: type[Task]) -> bool:
    return old is not new and (old.__module__, old.__qualname__) == (new.__module__, new.__qualname__)


def register_all() -> None:
    """Register the ids of this package."""
    register("PlasticRNN/CueReward-v0", CueReward)
    register("PlasticRNN/CueChoice-v0", CueChoice)
    register("PlasticRNN/SequenceReproduction-v0", SequenceReproduction)
    register("PlasticRNN/FewShotRegression-v0", FewShotRegression)
    register("PlasticRNN/FewShotRegressionMLP-v0", FewShotRegression, input_size=6, hidden_size=2)
    register("PlasticRNN/FewShotClassification-v0", FewShotClassification)
    register("PlasticRNN/Bandit-v0", Bandit)
    register("PlasticRNN/Harlow-v0", Harlow)


def registered_ids() -> list[str]:
    """Return the ids of all registered tasks, sorted."""
    return sorted(TASKS)


def make_task(env_id: str, **arguments: Any) -> Task:
    """Make the task of an environment id.

    Args:
        env_id: the id, such as "PlasticRNN/CueReward-v0". As in `gymnasium.make`, an id without a version means the
            latest version. A module prefix, as in "plastic_envs:PlasticRNN/CueReward-v0", is ignored: no module is
            imported.
        **arguments: keyword arguments of the task.

    Raises:
        ValueError: the id is unknown, or an argument is out of range.
        TypeError: `env_id` is not a str, the task has no argument of that name, or an argument has the wrong type.
    """
    if not isinstance(env_id, str):
        raise TypeError(f"env_id must be a str, such as {registered_ids()[0]!r}, got {env_id!r}")
    task, preset = TASKS[registered_id(env_id)]
    _check_names(task, arguments)
    return task(**{**preset, **arguments})


def registered_id(env_id: str) -> str:
    """Return an id as `TASKS` has it, with its version and without a module prefix.

    Raises:
        ValueError: the id is unknown.
    """
    module, _, name = env_id.rpartition(":")
    if name not in TASKS:
        name = _latest(name) or name
    if name not in TASKS:
        advice = f" (import {module} first if it registers the id)" if module not in ("", "plastic_envs") else ""
        raise ValueError(f"unknown environment id {env_id!r}{advice}; known ids: {', '.join(registered_ids())}")
    return name


def _latest(name: str) -> str | None:
    """Return the id of the latest version of a name without version, or None."""
    versions = [env_id for env_id in TASKS if re.fullmatch(re.escape(name) + r"-v\d+", env_id)]
    return max(versions, key=lambda env_id: int(env_id.rpartition("-v")[2]), default=None)


def _check_names(task: type[Task], arguments: Mapping[str, Any]) -> None:
    parameters = inspect.signature(task).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name, value in arguments.items():
        if name not in parameters:
            raise TypeError(
                f"{task.__name__} got an unexpected keyword argument {name!r} of {value!r}; "
                f"its arguments are: {', '.join(parameters) or 'none'}"
            )


class SpecCheck:
    """Mixin of environments that refuse a spec with the id of one task and another `task` argument.

    `gymnasium.make` sets such a spec if it gets both.
    """

    _spec: EnvSpec | None = None

    @property
    def spec(self) -> EnvSpec | None:
        """The spec of the environment if `gymnasium.make` or `make_vec` made it, else None."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        if spec is not None and spec.id in TASKS and spec.kwargs.get("task") != spec.id:
            raise TypeError(f"task must not be passed with the id {spec.id!r}, got {spec.kwargs.get('task')!r}")
        self._spec = spec


def as_task(task: Task | str, arguments: Mapping[str, Any]) -> Task:
    """Return `task` itself, or make it if it is an id.

    Raises:
        TypeError: `task` is neither a task nor an id, or `arguments` were passed with a task.
    """
    if isinstance(task, str):
        return make_task(task, **arguments)
    if not isinstance(task, Task):
        raise TypeError(f"task must be a Task or an environment id, got {task!r}")
    if arguments:
        raise TypeError(f"task {task!r} must be passed without arguments, got {', '.join(sorted(arguments))}")
    return task
