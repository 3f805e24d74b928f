"""Write the trained networks of the package, with their cards, from run folders.

    python docs/export_pretrained.py --studies runs/reproduce
    python docs/export_pretrained.py --runs runs/mine --commit 9122f45

With ``--studies``, the folder of ``plastic-rnn reproduce``, the script exports a network of each method whose results
are in docs/results and whose settings come from a search: of its final trials, that with the median validation score,
if it has learned anything.
With ``--runs``, it exports the networks of run folders, under the names of the folders. Networks that are already there
and are not named stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from plastic_agents import __version__
from plastic_agents.atomic_files import replacing, write_json
from plastic_agents.checkpoint import checkpoint_kind
from plastic_agents.pretrained.cards import FOLDER
from plastic_agents.pretrained.save import make_card
from plastic_agents.training.learner import CHECKPOINT
from plastic_agents.training.reinforcement import ReinforcementLearner
from plastic_agents.training.supervised import SupervisedLearner

RESULTS = Path(__file__).parent / "results"
# Those of `plastic-rnn evaluate`, which therefore prints the score of the card.
EPISODES, EPISODE_SEED = 1000, 1
LEAST_SCORE = 0.01  # normalised; a network below it has learned nothing
MAX_BYTES, MAX_TOTAL_BYTES = 400_000, 6_000_000


class Source(NamedTuple):
    """A trained network to export: its name, its run folder, how it was chosen, and the versions that trained it."""

    name: str
    run: Path
    choice: str
    commit: str
    version: str


def of_studies(folder: Path) -> Iterator[Source]:
    """Yield the network of each method in docs/results that has settings from a search and runs in the folder."""
    for path in sorted(RESULTS.glob("*/*.json")):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if not (cell["chosen"] or cell["settings_from"]):
            continue
        runs = sorted((folder / "trials" / cell["study"] / cell["method"] / "final" / "trials").glob("*"))
        finished = [run for run in runs if json.loads((run / "result.json").read_text())["status"] == "finished"]
        if not finished:
            continue
        scores = {run: validation_score(run) for run in finished}
        run = sorted(finished, key=scores.__getitem__)[len(finished) // 2]
        if scores[run] < LEAST_SCORE:
            continue
        choice = f"the training seed with the median validation score of {len(finished)}, of the study {cell['study']}"
        made_with = cell["made_with"]
        yield Source(f"{cell['study']}-{cell['method']}", run, choice, made_with["commit"], made_with["plastic-rnn"])


def validation_score(run: Path) -> float:
    """Return the score of the last evaluation of a run."""
    return float(load_learner(run).progress.evaluations[-1]["normalised_score"])


def load_learner(run: Path) -> Any:
    """Return the learner of a run folder."""
    kinds = {"supervised": SupervisedLearner, "policy": ReinforcementLearner}
    return kinds[checkpoint_kind(run / CHECKPOINT)].load(run / CHECKPOINT)


def export(source: Source) -> None:
    """Score a network on test episodes, and write its parameters and its card.

    Raises:
        ValueError: the run is not finished, or the parameters need more than 400 kB.
    """
    learner = load_learner(source.run)
    if learner.progress.step < learner._total_steps(learner.config):
        raise ValueError(f"{source.run} must hold a finished run, got one with {learner.progress.step} steps")
    card, data = make_card(learner, EPISODES, EPISODE_SEED, source.choice, source.commit, source.version)
    if len(data) > MAX_BYTES:
        raise ValueError(f"the parameters of {source.name} must have at most {MAX_BYTES} bytes, got {len(data)}")
    with replacing(FOLDER / f"{source.name}.safetensors") as path:
        path.write_bytes(data)
    write_json(FOLDER / f"{source.name}.json", asdict(card))
    print(f"{source.name}: {len(data)} bytes, {card.metric_name} {card.score.mean:.4f}, {source.run}")


def main() -> None:
    """Export the networks that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, help="folder of plastic-rnn reproduce")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="run folders, with the names of the networks")
    parser.add_argument("--commit", help="commit of the code that trained the runs")
    arguments = parser.parse_args()
    if arguments.runs and not arguments.commit:
        parser.error("--runs needs --commit, the commit of the code that trained them")
    for source in of_studies(arguments.studies) if arguments.studies else ():
        export(source)
    for run in arguments.runs:
        export(Source(run.name, run, "the only training seed", arguments.commit, __version__))
    total = sum(path.stat().st_size for path in FOLDER.iterdir())
    if total > MAX_TOTAL_BYTES:
        raise ValueError(f"all networks together must have at most {MAX_TOTAL_BYTES} bytes, got {total}")
    print(f"{total} bytes in all")


if __name__ == "__main__":
    main()
