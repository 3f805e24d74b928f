"""A Markdown extension that turns TeX formulas into MathML, which browsers render without scripts.

It converts the markup of `pymdownx.arithmatex` with `generic: true`, so that extension must be active as well.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.postprocessors import Postprocessor

# The markup of an inline formula or a display formula.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
# Letters with a tilde or a bar, which the converter writes as letters below an operator.
ACCENTED = re.compile(r'<mover>((?:(?!<mover).)*?<mo stretchy="\w+">&#x000(?:7E|AF);</mo></mover>)')
# The bars of a norm, which stretch to the height of the whole line.
NORM = "<mo>&#x02016;</mo>"
QUAD = r"\qquad"


class MathMLPostprocessor(Postprocessor):
    """Replace formulas in the HTML of a page."""

    def run(self, text: str) -> str:
        """Return the HTML with MathML in place of TeX."""
        return FORMULA.sub(formula, text)


def formula(match: re.Match[str]) -> str:
    r"""Return the HTML of a formula. Display formulas that \qquad separates are side by side if there is room."""
    if match[1] == "span":
        return mathml(match[2], "inline")
    return f'<div class="formulas">{"".join(mathml(part, "block") for part in match[2].split(QUAD))}</div>'


def mathml(tex: str, display: str) -> str:
    """Return MathML, with the repairs that the converter's output needs."""
    text = ACCENTED.sub(r'<mover accent="true">\1', convert(unescape(tex), display=display))
    return text.replace(NORM, NORM.replace("<mo>", '<mo stretchy="false">'))


class MathMLExtension(Extension):
    """Register the postprocessor after those that write the formulas' markup."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Add the postprocessor to a Markdown instance."""
        md.postprocessors.register(MathMLPostprocessor(md), "mathml", -10)


def makeExtension(**settings: Any) -> MathMLExtension:
    """Return the extension; Markdown calls this function."""
    return MathMLExtension(**settings)
