"""Figures of probes and traces."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from plastic_agents import INTERVENTIONS, NetworkConfig, SupervisedAgent, Trace, adaptation_figure, probe
from plastic_agents.analysis.colours import ETA, layer_colours
from plastic_agents.analysis.figures import fast_weights_figure, trace_figure, weight_limit
from plastic_agents.analysis.report import BY_SHOWING, BY_STEP, over_seeds

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
    assert figure.get_suptitle() == "title\n30 test episodes, band: 95 % interval"


def test_curves_that_coincide_are_all_visible(report):
    same = {name: replace(result, curves=report["intact"].curves) for name, result in report.items()}
    (panel,) = adaptation_figure({"network": replace(report, results=same)}).axes
    curves = panel.lines[-len(same) :]
    assert [line.get_label() for line in curves] == [result.label for result in same.values()]
    widths = [line.get_linewidth() for line in curves]
    assert all(below > above for below, above in pairwise(widths))
    assert len({line.get_zorder() for line in curves}) == 1
    styles = [line.get_linestyle() for line in curves]
    assert all(below != above for below, above in pairwise(styles))


def test_an_unknown_axis_raises(report):
    with pytest.raises(ValueError, match=f"axis must be .*{BY_STEP}.*, got 'time'"):
        adaptation_figure({"network": report}, axis="time")


def test_lines_do_not_depend_on_networks_that_lack_interventions(report):
    fewer = replace(report, results={name: report[name] for name in ("intact", "hidden_erased")})
    panels = adaptation_figure({"without": fewer, "with": report}).axes
    styles = [
        {line.get_label(): (line.get_linestyle(), line.get_linewidth()) for line in panel.lines} for panel in panels
    ]
    assert styles[0].items() <= styles[1].items()


def test_titles_say_the_task_and_the_number_of_training_seeds(report):
    several = over_seeds([report, report, report])
    title = adaptation_figure({"network": several}).get_suptitle()
    assert title == "CueReward\n30 test episodes, 3 training seeds, band: lowest and highest"


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
    assert figure.get_suptitle() == "title"
    assert list(figure.axes[0].lines[0].get_ydata()) == [0.1, 0.2]
    assert figure.axes[0].lines[0].get_color() == ETA
    assert [line.get_color() for line in figure.axes[1].lines[:2]] == list(layer_colours(values).values())
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


def test_fast_weights_figure_has_a_heat_map_for_each_layer_with_the_weight_of_the_strongest_colour():
    wide = np.linspace(-1, 2, 300).reshape(10, 30)
    figure = fast_weights_figure({"input_to_hidden": wide, "readout": np.zeros((2, 3, 4))}, title="title")
    (axes,) = figure.axes
    limit = weight_limit(wide)
    assert np.mean(np.abs(wide) > limit) <= 0.01
    labels = [text.get_text() for text in axes.texts]
    assert labels == [f"input → hidden\n±{limit:.2g}", "readout\n±1", "negative", "positive"]
    first, second, scale = (image.get_array() for image in axes.images)
    np.testing.assert_allclose(first, wide.T / limit)  # high panels fit in a row
    assert second.shape == (6, 4)
    assert [scale.min(), scale.max()] == [-1, 1]
    assert {image.get_clim() for image in axes.images} == {(-1, 1)}
    assert figure.get_suptitle() == "title"
    with pytest.raises(ValueError, match="matrices must be one or more, got none"):
        fast_weights_figure({})
