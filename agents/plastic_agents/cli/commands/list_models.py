"""``plastic-rnn models``."""

from __future__ import annotations

from dataclasses import dataclass

from plastic_agents.cli.commands.options import console


@dataclass(frozen=True)
class Models:
    """List the trained networks of the package, with their scores on test episodes.

    evaluate, probe and watch take these names, and so does plastic_agents.load_pretrained.
    """

    def __call__(self) -> None:
        """Print a table for each task."""
        from rich.table import Table

        from plastic_agents.analysis.statistics import format_estimate
        from plastic_agents.pretrained.cards import pretrained_card, pretrained_names
        from plastic_envs import make_task

        cards = {name: pretrained_card(name) for name in pretrained_names()}
        for task, metric_name, episodes in dict.fromkeys(
            (card.task, card.metric_name, card.episodes) for card in cards.values()
        ):
            of_task = {name: card for name, card in cards.items() if card.task == task}
            example = next(iter(of_task.values()))
            oracle_name = make_task(task, **example.task_arguments).oracle_name
            table = Table(
                title=task,
                caption=f"{metric_name}, {episodes} test episodes; ± half the 95 % interval over episodes; "
                f"normalised: memoryless 0, {oracle_name} 1",
            )
            table.add_column("name", no_wrap=True)
            for column in ("parameters", "score", "normalised"):
                table.add_column(column, justify="right", no_wrap=True)
            for name, card in sorted(of_task.items(), key=lambda item: -item[1].normalised_score):
                table.add_row(name, str(card.parameters), format_estimate(card.score), f"{card.normalised_score:.2f}")
            table.add_section()
            table.add_row(oracle_name, "", format_estimate(example.oracle), "1.00")
            table.add_row("memoryless", "", format_estimate(example.memoryless), "0.00")
            console().print(table)
