"""Tables: what is printed, against the report's own numbers."""

import json
from dataclasses import replace

import pytest
from plastic_agents import comparison_table, over_seeds, report_table, write_report
from plastic_agents.analysis.probes import BY_STEP, Curve, Estimate, InterventionResult, Report
from plastic_agents.analysis.tables import interval

CURVES = {BY_STEP: Curve([0, 1], [0.1, 0.2], [0.0, 0.1], [0.2, 0.3])}
REPORT = Report(
    task="Task(n=3)",
    metric="mean squared error",
    episodes=12,
    spread="95 % interval over episodes",
    seed=1,
    step=0,
    oracle=Estimate(0.1, 0.0, 0.3),
    memoryless=Estimate(0.9, 0.8, 0.92),
    oracle_curves=CURVES,
    outcomes={
        "intact": InterventionResult(Estimate(0.2, 0.15, 0.3), Estimate(0.5, 0.4, 0.9), 0.875, CURVES),
        "fast_erased": InterventionResult(Estimate(0.9, 0.87, 0.91), Estimate(1.0, 0.9, 1.2), 0.0, CURVES),
    },
)


def cells(table):
    return {column.header: list(column.cells) for column in table.columns}


def test_an_interval_is_printed_as_its_mean_with_half_its_width():
    assert interval(Estimate(0.5, 0.4, 0.7)) == "0.500 ± 0.150"


def test_a_report_is_printed_with_every_number_and_what_they_are():
    table = report_table(REPORT, title="title")
    assert cells(table) == {
        "intervention": ["intact", "fast weights erased", "oracle", "memoryless"],
        "own targets": ["0.200 ± 0.075", "0.900 ± 0.020", "0.100 ± 0.150", "0.900 ± 0.060"],
        "twin's targets": ["0.500 ± 0.250", "1.000 ± 0.150", "", ""],
        "normalised": ["0.88", "0.00", "1.00", "0.00"],
    }
    assert table.title == "title"
    assert table.caption == (
        "mean squared error, 12 held-out episodes; ± half the 95 % interval over episodes; "
        "normalised: memoryless 0, oracle 1"
    )


@pytest.mark.parametrize(
    ("against", "expected"),
    [
        (
            "own",
            {
                "": ["intact", "  normalised score", "fast weights erased", "oracle", "memoryless"],
                "one": ["0.200 ± 0.075", "0.88", "0.900 ± 0.020", "0.100 ± 0.150", "0.900 ± 0.060"],
                "other": ["0.200 ± 0.075", "0.88", "-", "0.100 ± 0.150", "0.900 ± 0.060"],
            },
        ),
        (
            "twin",
            {
                "": ["intact", "fast weights erased"],
                "one": ["0.500 ± 0.250", "1.000 ± 0.150"],
                "other": ["0.500 ± 0.250", "-"],
            },
        ),
    ],
)
def test_networks_are_compared_side_by_side(against, expected):
    other = replace(REPORT, outcomes={"intact": REPORT.outcomes["intact"]})
    assert cells(comparison_table({"one": REPORT, "other": other}, against=against)) == expected


def test_several_seeds_say_what_their_spread_is():
    better = replace(REPORT.outcomes["intact"], own=Estimate(0.1, 0.05, 0.2), normalised_score=1.0)
    second = replace(REPORT, outcomes={**REPORT.outcomes, "intact": better})
    table = report_table(over_seeds([REPORT, second]))
    assert "12 held-out episodes; ± half the range over 2 training seeds; normalised" in table.caption
    assert cells(table)["own targets"][0] == "0.150 ± 0.050"
    assert cells(table)["normalised"][0] == "0.94"


def test_files_hold_the_report(tmp_path):
    write_report(tmp_path / "new", {"run": REPORT}, title="title")
    written = json.loads((tmp_path / "new" / "report.json").read_text())
    assert written["run"]["outcomes"]["intact"]["own"] == {"mean": 0.2, "low": 0.15, "high": 0.3}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"report.json", "adaptation.png"}
