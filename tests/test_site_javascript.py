"""The JavaScript of the site: tables sort by a column, and the keys do what the mouse does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import quickjs

from tests.browser import CHROMIUM, browser

SCRIPT = Path(__file__).parents[1] / "docs" / "javascripts" / "site.js"
PAGE = """<!doctype html><meta charset="utf-8"><body class="md-content">
<img alt="a figure" src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">
<table>
<thead><tr><th>method</th><th><a href="#study">error</a></th></tr></thead>
<tbody><tr><td>a</td><td>0.3</td></tr><tr><td>b</td><td>0.1</td></tr>
<tr><td>c</td><td><em>not run</em></td></tr><tr><td>d</td><td>0.2</td></tr></tbody>
</table>
"""
KEYS = {"Enter": {"code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}}
KEYS[" "] = {"code": "Space", "windowsVirtualKeyCode": 32, "text": " "}


@pytest.mark.parametrize(
    ("cells", "upwards", "downwards"),
    [
        (["0.061 ± 0.004", "\u22120.5", "not run", "2"], [1, 0, 3, 2], [3, 0, 1, 2]),
        (["-", "not run", "1"], [2, 0, 1], [2, 1, 0]),
        (["1,000", "20", "3,000,000", "500\u202f000"], [1, 0, 3, 2], [2, 3, 0, 1]),
        (["2, 10", "1,5", "3"], [1, 0, 2], [2, 0, 1]),
    ],
)
def test_a_table_sorts_by_numbers_and_has_texts_last(cells, upwards, downwards):
    context = quickjs.Context()
    context.eval("globalThis.document = { querySelectorAll: () => [] };")
    context.eval(SCRIPT.read_text())
    rows = f"{json.dumps(cells)}.map((textContent, index) => ({{ index, cells: [{{ textContent }}] }}))"
    for up, order in [("true", upwards), ("false", downwards)]:
        script = f"{rows}.sort((a, b) => compare(sortKey(a, 0), sortKey(b, 0), {up})).map(({{ index }}) => index)"
        assert json.loads(context.eval(f"JSON.stringify({script})")) == order


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("key", KEYS)
def test_keys_open_figures_and_sort_tables(tmp_path, key):
    page = tmp_path / "page.html"
    page.write_text(f'{PAGE}<script src="{SCRIPT.as_uri()}"></script>')

    def press(element):
        chromium.evaluate(f"document.querySelector('{element}').focus()")
        for kind in ("keyDown", "keyUp"):
            chromium.call("Input.dispatchKeyEvent", type=kind, key=key, **KEYS[key])

    with browser(tmp_path / "profile") as chromium:
        chromium.open(page.as_uri(), 800, 600)
        column = "[...document.querySelectorAll('tbody tr')].map((row) => row.cells[0].textContent).join('')"
        for order in ("bdac", "adbc"):
            press("th:nth-child(2) button")
            assert chromium.evaluate(column) == order
        press("th button")
        assert chromium.evaluate(column) == "abcd"
        names = "[...document.querySelectorAll('th button')].map((b) => b.ariaLabel ?? b.textContent)"
        assert chromium.evaluate(names) == ["method", "Sort by error"]
        chromium.evaluate("addEventListener('keydown', (event) => (globalThis.prevented = event.defaultPrevented))")
        press("img")
        assert chromium.evaluate("document.querySelectorAll('dialog[open]').length") == 1
        assert chromium.evaluate("prevented")  # Space does not scroll the page
        assert chromium.errors == []
