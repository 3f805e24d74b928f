"""Write docs/results: pages with tables and figures of the project's studies, from the files of their methods.

    python docs/generate_results.py [--runs runs/reproduce]

With ``--runs``, the script first copies the files from a folder of ``plastic-rnn reproduce``. A test fails if the pages
are stale, or if a recipe differs from the settings of the study that chose it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from plastic_agents.sweep.studies import STUDIES
from plastic_agents.sweep.study_pages import write_pages

FOLDER = Path(__file__).parent / "results"


def main() -> None:
    """Copy the files and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of plastic-rnn reproduce")
    runs = parser.parse_args().runs
    for name, study in STUDIES.items() if runs else ():
        for method in study.methods:
            path = runs / name / f"{method}.json"
            if path.exists():
                (FOLDER / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(path, FOLDER / name)
    write_pages(FOLDER)


if __name__ == "__main__":
    main()
