"""Run the notebooks of examples/notebooks, and store their outputs in them.

    python docs/run_notebooks.py

A test runs the same code at a small size, without storing anything.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"


def run(notebook: dict[str, Any], change: Callable[[str], str] = str) -> None:
    """Run the code cells of a notebook in one namespace, and put their outputs in the place of the old ones.

    Args:
        notebook: the content of an .ipynb file.
        change: a function of a cell's code that returns the code to run.
    """
    mpl.use("agg")
    from matplotlib import pyplot as plt

    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            value = execute(change("".join(cell["source"])), namespace)
        outputs: list[dict[str, Any]] = []
        if printed.getvalue():
            outputs.append({"name": "stdout", "output_type": "stream", "text": lines(printed.getvalue())})
        figures = [picture(plt.figure(figure)) for figure in plt.get_fignums()]
        plt.close("all")
        for data in figures:
            content = {"image/png": base64.b64encode(data).decode(), "text/plain": ["<Figure>"]}
            outputs.append({"data": content, "metadata": {}, "output_type": "display_data"})
        if value is not None and not figures:
            result = {"data": {"text/plain": lines(repr(value))}, "execution_count": number, "metadata": {}}
            outputs.append({**result, "output_type": "execute_result"})
        cell |= {"execution_count": number, "outputs": outputs}


def execute(code: str, namespace: dict[str, Any]) -> Any:
    """Run the code of a cell, and return the value of its last line if that is an expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), namespace)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), namespace)


def picture(figure: Any) -> bytes:
    """Return a figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, dpi=110, bbox_inches="tight", metadata={"Software": None})
    return file.getvalue()


def lines(text: str) -> list[str]:
    """Return text as the list of lines that notebooks store."""
    return text.splitlines(keepends=True)


def main() -> None:
    """Run all notebooks, or those that the command line names."""
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(FOLDER.glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        run(notebook)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
