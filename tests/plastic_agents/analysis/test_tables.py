"""Tables and files of reports."""

import io
import json
from dataclasses import replace

import pytest
from plastic_agents import (
    Estimate,
    InterventionResult,
    Report,
    adaptation_figure,
    comparison_table,
    over_seeds,
    report_table,
    write_report,
)
from plastic_agents.analysis.report import BY_STEP
from plastic_agents.analysis.statistics import Curve, Estimates, format_estimate
from rich.console import Console

CURVES = {BY_STEP: Curve([0, 1], [0.1, 0.2], [0.0, 0.1], [0.2, 0.3])}
INTACT = InterventionResult(
    label="intact",
    colour="blue",
    metric_is_error=True,
    metric=Estimate(0.2, 0.15, 0.3),
    twin_metric=Estimate(0.5, 0.4, 0.9),
    normalised=Estimate(0.875, 0.8, 0.9),
    curves=CURVES,
)
ERASED = InterventionResult(
    label="fast weights erased",
    colour="red",
    metric_is_error=True,
    metric=Estimate(0.9, 0.87, 0.91),
    twin_metric=Estimate(1.0, 0.9, 1.2),
    normalised=Estimate(0.0, -0.02, 0.02),
    curves=CURVES,
)
REPORT = Report(
    task="Task(n=3)",
    metric_name="mean squared error",
    metric_is_error=True,
    episodes=12,
    spread="95 % interval over episodes",
    seed=1,
    step=0,
    oracle=Estimate(0.1, 0.0, 0.3),
    memoryless=Estimate(0.9, 0.8, 0.92),
    oracle_curves=CURVES,
    results={"intact": INTACT, "fast_erased": ERASED},
)


MEASURED = replace(
    REPORT,
    oracle_secondary_metrics=Estimates(within=Estimate(0.32, 0.31, 0.33), first_query_accuracy=Estimate(1, 1, 1)),
    memoryless_secondary_metrics=Estimates(within=Estimate(0.04, 0.03, 0.05), first_query_accuracy=Estimate(0.2, 0, 1)),
    results={
        "intact": replace(
            INTACT,
            secondary_metrics=Estimates(within=Estimate(0.2, 0.1, 0.3), first_query_accuracy=Estimate(0.9, 0.8, 1)),
        ),
        "fast_erased": replace(ERASED, secondary_metrics=Estimates(within=Estimate(0.05, 0.04, 0.08))),
    },
)


def cells(table):
    return {column.header: list(column.cells) for column in table.columns}


def test_estimates_are_printed_with_half_the_width_of_their_interval():
    assert format_estimate(Estimate(0.5, 0.4, 0.7)) == "0.500 ± 0.150"
    assert format_estimate(Estimate(0.5, 0.4, 0.7), digits=1) == "0.5 ± 0.1"


def test_estimates_over_seeds_are_printed_with_the_lowest_and_the_highest():
    assert format_estimate(Estimate(0.5, 0.4, 0.7), n_seeds=2) == "0.500 [0.400,0.700]"


def test_report_table():
    table = report_table(REPORT, title="title")
    assert cells(table) == {
        "intervention": ["intact", "fast weights erased", "oracle", "memoryless"],
        "own targets": ["0.200 ± 0.075", "0.900 ± 0.020", "0.100 ± 0.150", "0.900 ± 0.060"],
        "twin's targets": ["0.500 ± 0.250", "1.000 ± 0.150", "", ""],
        "normalised": ["0.88 ± 0.05", "0.00 ± 0.02", "1.00", "0.00"],
    }
    assert table.title == "title"
    assert table.caption == (
        "mean squared error, 12 test episodes (seed 1); ± half the 95 % interval over episodes; "
        "normalised: memoryless 0, oracle 1"
    )


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (
            "own",
            {
                "": ["intact", "  normalised score", "fast weights erased", "oracle", "memoryless"],
                "hebbian": ["0.200 ± 0.075", "0.88 ± 0.05", "0.900 ± 0.020", "0.100 ± 0.150", "0.900 ± 0.060"],
                "none": ["0.200 ± 0.075", "0.88 ± 0.05", "-", "0.100 ± 0.150", "0.900 ± 0.060"],
            },
        ),
        (
            "twin",
            {
                "": ["intact", "fast weights erased"],
                "hebbian": ["0.500 ± 0.250", "1.000 ± 0.150"],
                "none": ["0.500 ± 0.250", "-"],
            },
        ),
    ],
)
def test_comparison_table(targets, expected):
    reports = {"hebbian": REPORT, "none": replace(REPORT, results={"intact": INTACT})}
    assert cells(comparison_table(reports, targets=targets)) == expected


def test_order_of_comparison_table_is_that_of_the_longest_report():
    hidden_erased = replace(ERASED, label="hidden state erased")
    without_fast = replace(REPORT, results={"intact": INTACT, "hidden_erased": hidden_erased})
    plastic = replace(REPORT, results={"intact": INTACT, "fast_erased": ERASED, "hidden_erased": hidden_erased})
    reports = {"none": without_fast, "hebbian": plastic}
    labels = cells(comparison_table(reports, targets="twin"))[""]
    assert labels == ["intact", "fast weights erased", "hidden state erased"]


@pytest.mark.parametrize("draw", [comparison_table, adaptation_figure])
def test_reports_without_names_are_refused(draw):
    message = r"reports must be one or more reports by the name of the network, such as \{'hebbian': report\}, got "
    for reports in (REPORT, {}, [REPORT]):
        with pytest.raises(TypeError, match=message + type(reports).__name__):
            draw(reports)


def test_comparison_table_names_bad_targets():
    with pytest.raises(ValueError, match="targets must be one of own, twin, got 'other'"):
        comparison_table({"hebbian": REPORT}, targets="other")


def over_two_seeds():
    better = replace(INTACT, metric=Estimate(0.1, 0.05, 0.2), normalised=Estimate(1.0, 0.9, 1.1))
    return over_seeds([REPORT, replace(REPORT, results={"intact": better, "fast_erased": ERASED})])


def test_tables_over_seeds_have_the_lowest_and_the_highest_seed():
    table = report_table(over_two_seeds())
    assert (
        r"12 test episodes (seed 1); mean \[lowest, highest] of 2 training seeds; oracle and memoryless ± half the "
        "95 % interval over episodes; normalised" in table.caption
    )
    columns = cells(table)
    assert columns["own targets"][0] == "0.150 [0.100,0.200]"
    assert columns["own targets"][2] == "0.100 ± 0.150"
    assert columns["normalised"][0] == "0.94 [0.88,1.00]"
    compared = cells(comparison_table({"seeds": over_two_seeds(), "one": REPORT}))
    assert compared["seeds"][:2] == ["0.150 [0.100,0.200]", "0.94 [0.88,1.00]"]
    assert compared["one"][:2] == ["0.200 ± 0.075", "0.88 ± 0.05"]


def test_a_comparison_of_many_networks_is_whole_on_a_narrow_terminal():
    console = Console(width=100, file=io.StringIO())
    console.print(comparison_table({f"network{number}": over_two_seeds() for number in range(4)}))
    printed = console.file.getvalue()
    assert "…" not in printed
    assert printed.count("[0.100,0.200]") == 4


def test_report_files(tmp_path):
    write_report(tmp_path / "new", {"run": REPORT}, title="title")
    written = json.loads((tmp_path / "new" / "report.json").read_text())
    assert written["run"]["results"]["intact"]["metric"] == {"mean": 0.2, "low": 0.15, "high": 0.3}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"report.json", "adaptation.png"}


def test_report_table_has_a_column_for_each_secondary_metric():
    columns = cells(report_table(MEASURED))
    assert columns["within"] == ["0.200 ± 0.100", "0.050 ± 0.020", "0.320 ± 0.010", "0.040 ± 0.010"]
    assert columns["first query\naccuracy"] == ["0.900 ± 0.100", "-", "1.000 ± 0.000", "0.200 ± 0.500"]
    assert {name: columns[name] for name in cells(report_table(REPORT))} == cells(report_table(REPORT))


def test_numbers_of_a_report_table_are_whole_on_a_narrow_terminal():
    console = Console(width=80, file=io.StringIO())
    console.print(
        report_table(replace(MEASURED, oracle_secondary_metrics=Estimates(within=Estimate(0.32, 0.31, 0.33))))
    )
    printed = console.file.getvalue()
    assert "…" not in printed
    assert all(number in printed for number in ("0.900 ± 0.020", "1.000 ± 0.150", "0.88 ± 0.05", "0.050 ± 0.020"))


def test_comparison_table_has_rows_for_secondary_metrics():
    columns = cells(comparison_table({"hebbian": MEASURED, "none": REPORT}))
    assert columns[""] == [
        *("intact", "  normalised score", "  within", "  first query accuracy", "fast weights erased"),
        *("oracle", "  within", "  first query accuracy", "memoryless", "  within", "  first query accuracy"),
    ]
    assert columns["hebbian"][2:4] == ["0.200 ± 0.100", "0.900 ± 0.100"]
    assert columns["hebbian"][6] == "0.320 ± 0.010"
    assert columns["hebbian"][9] == "0.040 ± 0.010"
    assert [columns["none"][row] for row in (2, 3, 6, 7, 9, 10)] == ["-"] * 6
    assert "  within" not in cells(comparison_table({"hebbian": MEASURED}, targets="twin"))[""]
