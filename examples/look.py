"""Probe three trained networks of the package on CueReward, to see where each one stores its memory, without training.

Run ``make look`` or ``python examples/look.py`` in the root of the project. The script prints a table and writes
``adaptation.png`` to ``runs/look``. ``examples/demo.py`` trains such networks first.
"""

from pathlib import Path

from plastic_agents import adaptation_figure, comparison_table, load_pretrained, probe
from plastic_agents.atomic_files import replacing
from rich.console import Console

NETWORKS = {
    "cue-reward-hebbian": "Hebbian plasticity",
    "cue-reward-gradient": "gradient plasticity",
    "cue-reward-lstm": "LSTM with as many parameters",
}
INTERVENTIONS = ("intact", "no_writing", "fast_erased", "hidden_erased")
EPISODES = 500
OUT = Path("runs/look")


def main() -> None:
    """Load and probe the networks, print the table and draw the figure."""
    reports = {
        name: probe(load_pretrained(name), episodes=EPISODES, seed=1, interventions=INTERVENTIONS) for name in NETWORKS
    }
    by_title = {title: reports[name] for name, title in NETWORKS.items()}
    columns = {name.removeprefix("cue-reward-"): report for name, report in reports.items()}
    Console().print(comparison_table(columns, title="Mean squared error at queries"))
    with replacing(OUT / "adaptation.png") as path:
        adaptation_figure(by_title, title="CueReward: error at queries of trained networks").savefig(path)
    print(f"wrote {OUT}/adaptation.png; plastic-rnn models lists the networks, plastic-rnn watch shows one at work")


if __name__ == "__main__":
    main()
