"""``plastic-rnn train``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from plastic_agents.cli.commands.models import learner_class
from plastic_agents.cli.commands.options import EMPTY, console, import_module_of, read_pair, unique
from plastic_agents.cli.commands.recipes import Algo


@dataclass(frozen=True)
class Train:
    """Train a network by a recipe; options change its settings.

    Attributes:
        recipe: the task, the network and the settings of training.
        out: run folder, for the checkpoint and TensorBoard's files; the command resumes an interrupted run there.
        algo: supervised learning from the targets, or reinforcement learning from the reward with ppo or a2c; --algo
            ppo --help lists the recipes of ppo.
        task_arguments: arguments of the task that differ from the recipe's, such as delay=20 noise=0.2.
        device: device to train on, such as cpu or cuda.
    """

    recipe: Any
    out: Path
    algo: Algo = "supervised"
    task_arguments: Annotated[tuple[str, ...], EMPTY] = ()
    device: str = "cpu"

    def __call__(self) -> None:
        """Train and print the score on test episodes."""
        from plastic_agents.analysis.tables import report_table
        from plastic_agents.training.distributed import ProcessGroup

        task_arguments = unique("--task-arguments", map(read_pair, self.task_arguments))
        import_module_of(self.recipe.task)
        learner = learner_class(self.algo).start_or_resume(
            self.recipe.task,
            self.recipe.network,
            self.recipe.training,
            task_arguments={**self.recipe.task_arguments, **task_arguments},
            run_dir=self.out,
            device=self.device,
        )
        learner.learn()
        if ProcessGroup.from_env().is_main:
            console().print(report_table(learner.evaluate("test"), title=str(self.out)))
