"""The page "Surgery on a memory" in a browser. The test needs Chromium, and is skipped without it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, browser

FOLDER = Path(__file__).parents[1] / "docs" / "surgery"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The elements of the page without the theme of the site, opened from the disk."""
    elements = "\n".join(re.findall(r"^<.*>$", (FOLDER / "README.md").read_text(), flags=re.MULTILINE))
    path = tmp_path_factory.mktemp("surgery") / "page.html"
    path.write_text(
        f'''<!doctype html><html style="font-size: 125%"><meta charset="utf-8"><base href="{FOLDER.as_uri()}/">
        <meta name="viewport" content="width=device-width"><body style="font-family: sans-serif">{elements}</html>'''
    )
    return path.as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_operations_change_the_answers(url, chromium, width, dark):
    def press(selector):
        chromium.evaluate(f"document.querySelector(`#surgery {selector}`).click()")

    def verdicts():
        return set(chromium.evaluate("[...document.querySelectorAll('#surgery .verdict')].map((v) => v.textContent)"))

    chromium.open(url, width, 900, dark)
    assert verdicts() == {"fits its episode"}
    for kind, verdict in [
        ("erase_fast", "fits neither episode"),
        ("transplant_fast", "fits the twin's episode"),
        ("erase_hidden", "fits its episode"),
        ("transplant_hidden", "fits its episode"),
    ]:
        press(f'[data-kind="{kind}"]')
        assert verdicts() == {verdict}, kind
        press('[data-action="heal"]')
        assert verdicts() == {"fits its episode"}
    press('[data-action="first"]')
    press('[data-action="stop-writing"]')
    press('[data-action="last"]')
    assert verdicts() == {"fits neither episode"}
    press('[data-action="heal"]')
    chromium.evaluate("""new Promise((done) => {
        const reward = document.querySelector("#surgery [data-cue='0'] input");
        reward.value = -0.5;
        reward.dispatchEvent(new Event("input", {bubbles: true}));
        requestAnimationFrame(() => requestAnimationFrame(done));
    })""")
    answers = "[...document.querySelectorAll('#surgery [data-cue=\"0\"] [data-rule] .value')].map((e) => e.textContent)"
    given = [float(answer.replace("\u2212", "-")) for answer in chromium.evaluate(answers)]
    assert given == pytest.approx([-0.5] * 3, abs=0.3)  # the episode was played again with the new reward
    press('[data-action="undo"]')  # the last showing
    press('[data-cue="2"] [data-action="ask"]')
    message = chromium.evaluate("document.querySelector('#surgery .message').textContent")
    assert message.startswith("Asked about cue C: hebbian ")
    # The slider of the episode has the focus, and obeys the keys.
    chromium.evaluate("document.querySelector('#surgery .position').focus()")
    for kind in ("keyDown", "keyUp"):
        chromium.call("Input.dispatchKeyEvent", type=kind, key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37)
    assert chromium.evaluate("document.querySelector('#surgery .position-text').textContent") == "7 / 8"
    # Nothing is wider than the window, nothing fails, and all controls have names.
    assert chromium.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert chromium.errors == []
    nameless = """[...document.querySelectorAll("#surgery :is(button, input, select, canvas[role])")].filter((e) =>
        !(e.textContent.trim() || e.getAttribute("aria-label") || e.closest("label"))).length"""
    assert chromium.evaluate(nameless) == 0
