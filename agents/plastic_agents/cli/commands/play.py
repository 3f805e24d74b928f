"""``plastic-rnn play``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from plastic_agents.cli.commands.options import EMPTY, import_module_of, read_pair, unique


@dataclass(frozen=True)
class Play:
    """Play an episode of a task yourself, in the terminal, with the past hidden.

    Each step shows its observation only. At the end you see your score, and those of the oracle and of the memoryless
    policy on the same episode. Answers can also come from a pipe, one a line.

    Attributes:
        task: id of the environment, such as PlasticRNN/CueChoice-v0, CueChoice or my_module:Mine/MyTask-v0.
        seed: seed of the episode; by default, another one each time.
        task_arguments: arguments of the task that differ from its defaults, such as n_cues=3 noise=0.
    """

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")]
    seed: int | None = None
    task_arguments: Annotated[tuple[str, ...], EMPTY] = ()

    def __call__(self) -> None:
        """Play."""
        import secrets

        from plastic_envs import make_task
        from plastic_envs.play import play

        arguments = unique("--task-arguments", map(read_pair, self.task_arguments))
        import_module_of(self.task)
        has_namespace = "/" in self.task or ":" in self.task
        task = make_task(self.task if has_namespace else f"PlasticRNN/{self.task}", **arguments)
        play(task, secrets.randbelow(1_000_000) if self.seed is None else self.seed)
