"""Build the documentation as a site in build/site, or serve it while you write.

    python docs/builder            # build; a dead link is an error
    python docs/builder --serve    # serve at http://localhost:8000, and build again at each change

Zensical builds the site from the sources that `staging.py` writes in build/docs.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

from checks import faults
from staging import ROOT, stage

# Zensical colours its messages, each character of its own, in files and pipes as well.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def zensical(folder: Path, *arguments: str) -> int:
    """Run Zensical on the sources in a folder, and return its exit status."""
    # Zensical imports the Markdown extension of this folder by its name.
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "zensical", *arguments, "--config-file", str(folder / "mkdocs.yml")]
    if sys.stdout.isatty():
        return subprocess.run(command, env=environment, check=False).returncode
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    print(COLOUR.sub("", done.stdout.decode()), end="")
    return done.returncode


def stage_repeatedly(folder: Path) -> None:
    """Write changed pages every second, for a server to notice."""
    while True:
        time.sleep(1)
        try:
            stage(folder)
        except (OSError, ValueError, SyntaxError) as error:  # a file in the middle of a change
            print(error, file=sys.stderr)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", action="store_true", help="serve the site, and build it again at each change")
    parser.add_argument("--out", type=Path, default=ROOT / "build", help="folder for the sources and the site")
    arguments = parser.parse_args()
    if find_spec("zensical") is None:
        parser.error(
            "the site needs Zensical, an optional dependency, and Python 3.11 or newer: "
            "run pip install -e '.[docs]' in the project's folder"
        )
    folder = arguments.out.resolve()
    stage(folder)
    if arguments.serve:
        threading.Thread(target=stage_repeatedly, args=(folder,), daemon=True).start()
        return zensical(folder, "serve")
    # The cache does not know that the API reference depends on the code.
    status = zensical(folder, "build", "--strict", "--clean")
    found = faults(folder / "site") if status == 0 else []
    for fault in found:
        print(f"error: {fault}", file=sys.stderr)
    if status == 0 and not found:
        print(f"The site is in {folder / 'site'}. Open it: {(folder / 'site' / 'index.html').as_uri()}")
    return status or bool(found)


if __name__ == "__main__":
    sys.exit(main())
