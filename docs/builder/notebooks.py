"""Turn a Jupyter notebook into a page: its text, its code, and the outputs that it stores.

The entry `alt` of a cell's metadata is the alternative text of the cell's figures.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any


def notebook_page(file: Path) -> tuple[str, dict[str, bytes]]:
    """Return the text of a notebook's page, and its pictures by file name."""
    parts = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{file.stem}-{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![{cell['metadata'].get('alt', 'Figure of the cell above')}]({name})")
            else:
                parts.append(f"```{{.text .output}}\n{output_text(output)}\n```")
    parts.insert(1, f"This page is the notebook `{file.name}` of `examples/notebooks`.")
    return "\n\n".join(parts) + "\n", pictures


def output_text(output: dict[str, Any]) -> str:
    """Return the text of an output, printed or the value of the last expression."""
    text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
    return "".join(text).rstrip("\n")
