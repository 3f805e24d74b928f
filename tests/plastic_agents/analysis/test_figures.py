"""Figures of probes and traces."""

from dataclasses import replace

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from plastic_agents import INTERVENTIONS, NetworkConfig, SupervisedAgent, Trace, adaptation_figure, probe
from plastic_agents.analysis.figures import trace_figure
from plastic_agents.analysis.report import BY_SHOWING, BY_STEP

from plastic_envs import make_task

TASK = "PlasticRNN/CueReward-v0"


@pytest.fixture(scope="module")
def report():
    return probe(SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4)), episodes=30)


def test_adaptation_figure_labels_its_axes_and_all_curves(report):
    figure = adaptation_figure({"network": report}, title="title")
    (panel,) = figure.axes
    assert panel.get_xlabel() == BY_SHOWING
    assert panel.get_ylabel() == "mean squared error"
    assert panel.get_ylim()[0] == 0
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["oracle", "memoryless", *(intervention.label for intervention in INTERVENTIONS.values())]
    colours = {line.get_label(): to_hex(line.get_color()).upper() for line in panel.lines}
    for intervention in INTERVENTIONS.values():
        assert colours[intervention.label] == intervention.colour


def test_adaptation_figure_can_show_steps(report):
    (panel,) = adaptation_figure({"network": report}, axis=BY_STEP).axes
    assert panel.get_xlabel() == BY_STEP
    assert list(panel.lines[0].get_xdata()) == list(range(10, 20))


def test_y_axis_of_a_reward_does_not_start_at_zero():
    agent = SupervisedAgent(make_task("PlasticRNN/CueChoice-v0"), NetworkConfig(hidden_size=4))
    (panel,) = adaptation_figure({"": probe(agent, episodes=30, interventions=("intact",))}).axes
    assert panel.get_ylabel() == "reward per scored step from step 12 on"
    assert panel.get_ylim()[0] < 0


@pytest.mark.parametrize("n_networks", [1, 2, 3, 4])
@pytest.mark.parametrize("names", [("intact",), tuple(INTERVENTIONS)[:4], tuple(INTERVENTIONS)])
def test_legend_fits_into_the_figure(n_networks, names):
    agent = SupervisedAgent(make_task(TASK), NetworkConfig(hidden_size=4))
    report = probe(agent, episodes=30, interventions=names)
    figure = adaptation_figure({f"network {number}": report for number in range(n_networks)})
    FigureCanvasAgg(figure).draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.width


def test_legend_with_long_labels_fits_into_the_figure(report):
    long = replace(report["intact"], label="an intervention with a rather long label")
    figure = adaptation_figure({"": replace(report, results={**report.results, "long": long})})
    FigureCanvasAgg(figure).draw()
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= figure.bbox.width


def test_trace_figure_has_a_panel_for_each_quantity():
    values = {"input": [0.0, 1.0], "hidden_to_hidden": [0.0, 2.0]}
    figure = trace_figure(Trace(eta=[0.1, 0.2], norm=values, rank=values), query_start=1, title="title")
    assert [panel.get_ylabel() for panel in figure.axes] == [
        "rate eta",
        "Frobenius norm of the fast weight",
        "effective rank of the fast weight",
    ]
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.1, 0.2]
    assert list(figure.axes[1].lines[1].get_ydata()) == [0, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["input", "hidden to hidden"]


def test_trace_figure_leaves_out_quantities_that_the_agent_lacks():
    values = {"memory": [0.0, 1.0]}
    without_rate = trace_figure(Trace(eta=None, norm=values, rank=values), query_start=1)
    assert len(without_rate.axes) == 2
    assert list(without_rate.axes[0].lines[0].get_ydata()) == [0, 1]
    without_matrices = trace_figure(Trace(eta=[0.1, 0.2], norm={}, rank={}), query_start=1)
    assert [panel.get_ylabel() for panel in without_matrices.axes] == ["rate eta"]
    assert not without_matrices.legends


def test_trace_figure_of_many_matrices_tells_them_apart():
    values = {f"layer {number}": [0.0, 1.0] for number in range(14)}
    figure = trace_figure(Trace(eta=None, norm=values, rank=values), query_start=1)
    lines = figure.axes[0].lines[:14]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 14


def test_trace_figure_refuses_an_empty_trace():
    with pytest.raises(ValueError, match="got an empty trace"):
        trace_figure(Trace(eta=None, norm={}, rank={}), query_start=1)
