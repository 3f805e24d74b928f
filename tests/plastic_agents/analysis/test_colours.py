"""Colours and lines of figures: distinct, also for colour-blind readers, and the same in all figures."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from plastic_agents import CONTROLS, INTERVENTIONS
from plastic_agents.analysis.colours import (
    INTERVENTION_COLOURS,
    NETWORK_STYLES,
    PALETTE,
    distinct_styles,
    layer_colours,
    line_widths,
    network_name,
    network_styles,
)
from plastic_agents.models.plastic.rule import RULES
from plastic_agents.sweep.studies import METHODS, STUDIES

from plastic_envs.rendering import NEGATIVE, POSITIVE

SURGERY = Path(__file__).parents[3] / "docs" / "surgery" / "surgery.css"
# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


def lab(colour, vision):
    """Return the coordinates in CIELAB, in which a distance of 2.3 is just noticeable."""
    levels = np.array(to_rgb(colour))
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    seen = np.clip(VISION[vision] @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(to_xyz @ seen / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_distinct(vision):
    distances = [np.linalg.norm(lab(first, vision) - lab(second, vision)) for first, second in combinations(PALETTE, 2)]
    assert min(distances) > 15
    assert set(INTERVENTION_COLOURS.values()) <= set(PALETTE)
    assert {style.colour for style in NETWORK_STYLES.values()} <= set(PALETTE)


def test_each_network_of_the_project_has_a_style_and_each_intervention_a_colour():
    rules = {name for name, rule in RULES.items() if rule.__module__.startswith("plastic_agents.")}
    lstms = STUDIES["paper-cue-reward-lstm"].methods.keys()
    assert rules | METHODS.keys() | lstms <= NETWORK_STYLES.keys()
    assert len(set(NETWORK_STYLES.values())) == len(NETWORK_STYLES)
    assert len({NETWORK_STYLES[name].colour for name in METHODS}) == len(METHODS)
    assert NETWORK_STYLES["hebbian-lstm"].colour == NETWORK_STYLES["hebbian"].colour
    assert [network_name("oja", "lstm"), network_name("none", "lstm")] == ["oja", "lstm"]
    colours = {name: intervention.colour for name, intervention in {**INTERVENTIONS, **CONTROLS}.items()}
    assert colours == INTERVENTION_COLOURS
    assert len(set(colours.values())) == len(colours)


def test_other_networks_have_free_styles_in_a_stable_order():
    styles = network_styles(["mine", "hebbian", "another"])
    assert list(styles) == ["mine", "hebbian", "another"]
    assert styles["hebbian"] == NETWORK_STYLES["hebbian"]
    assert network_styles(["lstm", "another", "mine"]) == {
        "lstm": NETWORK_STYLES["lstm"],
        "another": styles["another"],
        "mine": styles["mine"],
    }
    others = network_styles([f"rule {number}" for number in range(20)])
    assert len(set(others.values()) - set(NETWORK_STYLES.values())) == 20


def test_curves_of_the_same_colour_have_different_lines_and_lower_curves_are_wider():
    styles = distinct_styles({**layer_colours("ab"), "c": PALETTE[0], "d": PALETTE[0], "e": PALETTE[0]})
    assert [style.colour for style in styles.values()] == [*PALETTE[:2], *PALETTE[:1] * 3]
    assert len(set(styles.values())) == 5
    assert line_widths(3) == sorted(line_widths(3), reverse=True)
    assert line_widths(1)[0] < line_widths(3)[0]


def test_the_page_about_surgery_has_the_colours_of_the_figures():
    css = SURGERY.read_text()
    light = css[css.index("#surgery {") : css.index("}")]
    for rule in ("hebbian", "gradient", "delta"):
        assert f"--{rule}: {NETWORK_STYLES[rule].colour.lower()};" in light, rule
    for sign, colour in (("negative", NEGATIVE), ("positive", POSITIVE)):
        assert f"--{sign}: {to_hex([level / 255 for level in colour])};" in light
    operations = dict(re.findall(r"#surgery \.(\w+) \{\n  --operation: (#\w+);", css))
    for operation, intervention in {
        "erase_fast": "fast_erased",
        "transplant_fast": "fast_transplant",
        "erase_hidden": "hidden_erased",
        "transplant_hidden": "hidden_transplant",
        "scale_rate": "no_writing",
    }.items():
        assert operations[operation] == INTERVENTION_COLOURS[intervention].lower(), operation
