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


@pytest.fixture
def press(chromium):
    """A function that presses a button of the page."""
    return lambda selector: chromium.evaluate(f"document.querySelector(`#surgery {selector}`).click()")


@pytest.fixture
def text(chromium):
    """A function that returns the text of an element of the page."""
    return lambda selector: chromium.evaluate(f"document.querySelector(`#surgery {selector}`).textContent")


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_operations_change_the_answers(url, chromium, press, text, width, dark):
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
    press('[data-action="remove"]')  # the last showing
    press('[data-cue="2"] [data-action="ask"]')
    assert text(".message").startswith("Asked about cue C: hebbian ")
    # The slider of the episode has the focus, and obeys the keys.
    chromium.evaluate("document.querySelector('#surgery .position').focus()")
    for kind in ("keyDown", "keyUp"):
        chromium.call("Input.dispatchKeyEvent", type=kind, key="ArrowLeft", code="ArrowLeft", windowsVirtualKeyCode=37)
    assert text(".position-text") == "7 / 8"
    # Nothing is wider than the window, nothing fails, and all controls have names.
    assert chromium.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert chromium.errors == []
    nameless = """[...document.querySelectorAll("#surgery :is(button, input, select, canvas[role])")].filter((e) =>
        !(e.textContent.trim() || e.getAttribute("aria-label") || e.closest("label"))).length"""
    assert chromium.evaluate(nameless) == 0


def test_messages_say_what_the_networks_observed(url, chromium, press, text):
    chromium.open(url, 1440, 900)
    assert re.search(r"Strongest colours: \|W\| ≥ 0\.\d+, \|h\| ≥ \d\.\d\.$", text('[data-rule="delta"] .numbers'))
    press('[data-action="empty"]')
    assert chromium.evaluate("document.querySelector('#surgery .play').disabled")
    assert text('[data-rule="delta"] .numbers').strip() == "No cue has been shown."
    press('[data-kind="erase_fast"]')
    assert text(".message") == "W erased: no cue has been shown yet."
    press('[data-action="remove"]')
    assert text(".message") == "Removed: W erased."
    press('[data-cue="0"] [data-action="show"]')
    assert not chromium.evaluate("document.querySelector('#surgery .play').disabled")
    press('[data-cue="0"] [data-action="ask"]')
    assert "(not shown)" not in text(".message")
    press('[data-cue="1"] [data-action="ask"]')
    assert re.search(r"; right .\d\.\d\d \(not shown\), for the twin ", text(".message"))


def test_answers_are_those_that_count(url, chromium, press, text):
    """Answers outside the task's range count as its bounds, in the message as in the dots."""
    chromium.open(url, 1440, 900)
    # A readout without weights answers with its bias, and never writes.
    chromium.evaluate("""Object.values(trainedNetworks).forEach((network) => {
        const { readout } = network.layers;
        readout.weight = readout.weight.map((row) => row.map(() => 0));
        readout.bias = readout.bias.map((_, i, { length }) => (i === 0 ? 3 : i === length - 1 ? -100 : 0));
    })""")
    press('[data-cue="0"] [data-action="ask"]')
    assert "hebbian +1.00, gradient +1.00, delta +1.00; right " in text(".message")
