"""``plastic-rnn envs``."""

from __future__ import annotations

import inspect
import shutil
import textwrap
from dataclasses import dataclass

from plastic_agents.cli.commands.recipes import REINFORCEMENT_FAMILIES, SUPERVISED_FAMILIES


@dataclass(frozen=True)
class Envs:
    """List the environments, and the names with which their recipes begin."""

    def __call__(self) -> None:
        """Print the list."""
        from plastic_envs import make_task, registered_ids

        width = shutil.get_terminal_size().columns
        for env_id in registered_ids():
            lines = [(inspect.getdoc(make_task(env_id)) or "").partition("\n")[0]]
            for families, label in (
                (SUPERVISED_FAMILIES, "recipes"),
                (REINFORCEMENT_FAMILIES, "recipes with --algo ppo or a2c"),
            ):
                if env_id in families:
                    lines.append(f"{label}: {', '.join(families[env_id])}")
            print(env_id)
            for line in lines:
                print(textwrap.fill(line, width, initial_indent="  ", subsequent_indent="    "))
            print()
        text = (
            "A recipe's name ends with its plasticity rule, as in cue-reward-hebbian, or with the network without "
            "plasticity: -lstm, -gru, -rnn or -attention, a transformer. plastic-rnn train --help lists all recipes, "
            "and plastic-rnn train --algo ppo --help those of reinforcement learning. The options --network.rule and "
            "--network.cell change rule and cell."
        )
        print(textwrap.fill(text, width))
