"""The colours and lines of figures: a network, an intervention or a layer has the same colour wherever it is drawn.

Readers with protanopia or deuteranopia can tell the colours apart, too. They are those of Okabe and Ito without yellow,
and eight others that are as far from them, and from the black and the grey of oracle and memoryless policy, as
possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from plastic_agents.models.config import NO_PLASTICITY

_BLUE, _VERMILION, _GREEN = "#0072B2", "#D55E00", "#009E73"
_ORANGE, _PINK, _SKY = "#E69F00", "#CC79A7", "#56B4E9"
_VIOLET, _PLUM, _BROWN, _ROSE = "#7766FF", "#550055", "#5C3A00", "#FF99AA"
_INDIGO, _LIME, _KHAKI, _PINE = "#221199", "#99CC77", "#776633", "#004433"

PALETTE = (
    *(_BLUE, _VERMILION, _GREEN, _ORANGE, _PINK, _SKY, _VIOLET),
    *(_PLUM, _BROWN, _ROSE, _INDIGO, _LIME, _KHAKI, _PINE),
)
"""All colours."""

_TURNS = ("-", "--", ":", "-.")  # lines of Matplotlib
_WIDEST, _THINNEST = 4.5, 1.5  # lines, in points

ETA = _SKY
"""The colour of the rate eta."""


class Style(NamedTuple):
    """The colour and the line of a curve, as Matplotlib takes them."""

    colour: str
    line: str


_RULES = {
    "hebbian": _BLUE,
    "gradient": _VERMILION,
    "oja": _GREEN,
    "bcm": _PINK,
    "retroactive": _ORANGE,
    "delta": _VIOLET,
    "gated_delta": _SKY,
    "longhorn": _PLUM,
    "rls": _BROWN,
    "self_referential": _ROSE,
}
_NOT_PLASTIC = {"lstm": _INDIGO, "gru": _LIME, "rnn": _KHAKI, "attention": _PINE}

NETWORK_STYLES: Mapping[str, Style] = MappingProxyType(
    {
        **{rule: Style(colour, "-") for rule, colour in _RULES.items()},
        **{f"{rule}-lstm": Style(colour, "-.") for rule, colour in _RULES.items()},
        **{name: Style(colour, "--") for name, colour in _NOT_PLASTIC.items()},
    }
)
"""The styles of the project's networks by name: solid with plasticity, dashed without, and dash-dotted with LSTM cells
and plasticity."""

INTERVENTION_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "intact": _BLUE,
        "no_writing": _ORANGE,
        "fast_erased": _VERMILION,
        "hidden_erased": _SKY,
        "fast_transplant": _PINK,
        "hidden_transplant": _GREEN,
        "unrelated_transplant": _PLUM,
        "noise": _KHAKI,
        "frozen": _BROWN,
        "alpha_permuted": _LIME,
        "twin_directions": _INDIGO,
        "twin_rates": _VIOLET,
        "rule_state_erased": _ROSE,
        "rule_state_transplant": _PINE,
    }
)
"""The colours of the built-in interventions and the controls, by name."""

# Styles that no network of the project has; the colours of networks without plasticity come first.
_FREE = [
    style
    for line in (":", "-.", "--", "-")
    for style in (Style(colour, line) for colour in reversed(PALETTE))
    if style not in NETWORK_STYLES.values()
]


def network_name(rule: str, cell: str) -> str:
    """Return the name under which a network has a style: its rule, or without plasticity its cell."""
    return cell if rule == NO_PLASTICITY else rule


def network_styles(names: Iterable[str]) -> dict[str, Style]:
    """Return the style of each network, by name.

    Names that are not in `NETWORK_STYLES`, such as that of a rule of your own, have the next free style, in
    alphabetical order.
    """
    names = list(names)
    others = sorted(set(names) - NETWORK_STYLES.keys())
    styles = {**NETWORK_STYLES, **{name: _FREE[index % len(_FREE)] for index, name in enumerate(others)}}
    return {name: styles[name] for name in names}


def layer_colours(names: Iterable[str]) -> dict[str, str]:
    """Return the colour of each layer, by name, from the names of all layers of a network in their order."""
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def distinct_styles(colours: Mapping[str, str]) -> dict[str, Style]:
    """Return a style for each curve, by name: lines take turns, and curves of the same colour have different lines."""
    styles: dict[str, Style] = {}
    for index, (name, colour) in enumerate(colours.items()):
        turns = [Style(colour, _TURNS[(index + shift) % len(_TURNS)]) for shift in range(len(_TURNS))]
        styles[name] = next((style for style in turns if style not in styles.values()), turns[0])
    return styles


def line_widths(n_curves: int) -> list[float]:
    """Return the widths of curves in the order in which they are drawn.

    Wide lines are below thin ones, so curves that coincide are all visible.
    """
    return [float(width) for width in np.geomspace(_THINNEST, _WIDEST, n_curves)[::-1]]
