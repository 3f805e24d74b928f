"""The page "Surgery on a memory": its JavaScript computes Python's numbers, and its scores are right."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import quickjs
import torch
from plastic_agents import NetworkConfig, Plasticity, SupervisedAgent, layer_interventions, probe
from plastic_agents.analysis.interventions import INTERVENTIONS
from plastic_agents.models.plastic.network import PlasticNetwork

from plastic_envs import make_task

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "surgery"
spec = importlib.util.spec_from_file_location("generate_surgery", ROOT / "docs" / "generate_surgery.py")
assert spec is not None
assert spec.loader is not None
surgery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(surgery)

TASK = make_task("PlasticRNN/CueReward-v0", **surgery.TASK_ARGUMENTS)
QUERY = TASK.query_start
TOLERANCE = 1e-4
# Operations before the first query, as events of the page.
OPERATIONS = {
    "intact": [],
    "fast_erased": [{"kind": "erase_fast"}],
    "hidden_erased": [{"kind": "erase_hidden"}],
    "fast_transplant": [{"kind": "transplant_fast"}],
    "hidden_transplant": [{"kind": "transplant_hidden"}],
    "input_erased": [{"kind": "erase_fast", "layer": "input"}],
    "hidden_to_hidden_erased": [{"kind": "erase_fast", "layer": "hidden_to_hidden"}],
    "input_to_hidden_transplant": [{"kind": "transplant_fast", "layer": "input_to_hidden"}],
}


def agent_of(network):
    """Return the agent of a file of the page."""
    settings = {"rate": network["rate"], "decay": network["decay"], "max_norm": network["max_norm"] or math.inf}
    layers = network["layers"]
    hidden_size, readout_size = np.shape(layers["readout"]["weight"])
    plastic = tuple(name for name in layers if layers[name]["plastic"])
    plasticity = Plasticity(**settings, extra=readout_size - 2, layers=plastic)
    core = PlasticNetwork(len(layers["input"]["weight"]), hidden_size, 1, network["cell"], network["rule"], plasticity)
    parameters = dict(core.named_parameters())
    for name, layer in layers.items():
        for key, value in layer.items():
            if key.startswith("value"):
                path, value = f"rule_parameters.{name}.{key.replace('_', '.')}", np.transpose(value)
            else:
                path = f"{name}.{key}"
            if key != "plastic":
                parameters.pop(path).data.copy_(torch.tensor(value))
    if network["readout_loss_weight"]:
        parameters.pop("readout_loss_weight").data.copy_(torch.tensor(network["readout_loss_weight"]))
    assert not parameters
    return SupervisedAgent(TASK, core)


def random_agent(rule):
    """Return an agent whose updates exceed the limit on their norm, if the rule has one."""
    torch.manual_seed(0)
    cell = "tanh_rnn" if rule == "delta" else "rnn"
    config = NetworkConfig(rule, cell, 12, Plasticity(max_norm=None if rule == "delta" else 0.3, rate=0.9))
    return SupervisedAgent(TASK, config)


def played(agent, episode, hooks, rate_factor=1.0):
    """Return answers [T], rates [T] and the last state of one episode, from Python."""
    core = agent.core
    settings = core.settings
    core.settings = settings._replace(rate=rate_factor * settings.rate, decay=rate_factor * settings.decay)
    with torch.no_grad():
        xs = agent.preprocess(torch.as_tensor(episode.observation).swapaxes(0, 1))
        output, state = core.unroll(xs, hooks=hooks, form="dense")
    core.settings = settings
    return output.y[:, 0, 0].numpy(), output.eta[:, 0].numpy(), state


def events_of(episode, operations, rate_factor):
    """Return an episode of the environment as that of the page, with operations before the first query."""
    cues, item = episode.latent["cues"][0], episode.item[0]
    noise = episode.observation[0, :, : TASK.cue_size] - cues[item]
    steps = [
        {"kind": "show" if t < QUERY else "ask", "cue": int(item[t]), "noise": noise[t].astype(float).tolist()}
        for t in range(TASK.episode_length)
    ]
    factor = [{"kind": "scale_rate", "factor": rate_factor}]
    return [*factor, *steps[:QUERY], *operations, *steps[QUERY:]]


def page_context():
    """Return JavaScript with the page's networks, their equations and their episodes."""
    context = quickjs.Context()
    for name in (*surgery.RULES, "network", "episode"):
        context.eval((FOLDER / f"{name}.js").read_text())
    return context


@pytest.fixture(scope="module")
def javascript():
    """A function that plays an episode by the page's JavaScript."""
    context = page_context()
    context.eval(
        """globalThis.playAsJson = (...values) => {
            const positions = Episode.play(...values.map(JSON.parse));
            return JSON.stringify({
                answers: positions.map(({ answer }) => answer),
                etas: positions.map(({ eta }) => eta),
                state: positions.at(-1).state,
            });
        }"""
    )
    play = context.get("playAsJson")
    return lambda *values: json.loads(play(*map(json.dumps, values)))


@pytest.mark.parametrize("rule", surgery.RULES)
@pytest.mark.parametrize("kind", ["shipped", "random"])
def test_numbers_equal_those_of_python(rule, kind, javascript):
    network = surgery.read(rule) if kind == "shipped" else surgery.exported(random_agent(rule))
    agent = agent_of(network)
    known = {**INTERVENTIONS, **{each.name: each for each in layer_interventions(agent.core)}}
    episode, twin = TASK.sample_yoked(np.random.default_rng(3), 1)
    page_episode = {
        "cues": episode.latent["cues"][0].astype(float).tolist(),
        "rewards": episode.latent["rewards"][0].astype(float).tolist(),
        "twinRewards": twin.latent["rewards"][0].astype(float).tolist(),
    }
    donors = []
    played(agent, twin, {QUERY: lambda state: donors.append(state) or state})
    cases = [(name, 1.0) for name in OPERATIONS] + [("intact", 0.0), ("fast_transplant", 0.5), ("intact", 2.0)]
    answers = set()
    for name, rate_factor in cases:
        intervention = known.get(name, INTERVENTIONS["intact"])  # nothing to erase in a layer that is not plastic
        hooks = intervention.make_hooks(QUERY, TASK.episode_length, donors[0])
        y, eta, state = played(agent, episode, hooks, rate_factor)
        result = javascript(network, page_episode, events_of(episode, OPERATIONS[name], rate_factor))
        # Positions after steps: the first two are the start and the factor, and operations come before the query.
        steps = [*range(2, 2 + QUERY), *range(2 + QUERY + len(OPERATIONS[name]), len(result["etas"]))]
        pairs = [
            (y, np.array(result["answers"])[steps]),
            (eta, np.array(result["etas"])[steps]),
            (state.hidden.h[0], result["state"]["hidden"]),
        ]
        assert result["state"]["fast"].keys() == state.fast.keys()
        for layer, fast in state.fast.items():
            last = result["state"]["fast"][layer]
            pairs += [(fast.weight[0], last["weight"]), (fast.bias[0], last["bias"])]
        for expected, given in pairs:
            np.testing.assert_allclose(given, expected, rtol=0, atol=TOLERANCE, err_msg=f"{name}, {rate_factor}")
        answers.add(y.tobytes())
    n_without_effect = sum(name not in known for name in OPERATIONS)
    assert len(answers) == len(cases) - n_without_effect


@pytest.mark.parametrize("rule", surgery.RULES)
def test_files_are_those_of_the_generator(rule):
    network = surgery.read(rule)
    agent = agent_of(network)
    again = {key: network[key] for key in ("task", "training", "scores")} | surgery.exported(agent)
    assert json.loads(json.dumps(again)) == network
    assert network["task"] == surgery.TASK_ARGUMENTS
    assert (FOLDER / f"{rule}.js").stat().st_size < 150_000
    scored = probe(agent, episodes=surgery.EPISODES, interventions=["intact", "fast_transplant"])
    for name, result in scored.items():
        scores = network["scores"]["interventions"][name]
        assert (result.metric.mean, result.twin_metric.mean) == pytest.approx((scores["own"], scores["twin"]), abs=1e-3)


@pytest.mark.parametrize(
    ("given", "rewards", "twin_rewards", "verdict"),
    [
        ([0.7, -0.6], [0.8, -0.5], [-0.9, 0.4], "fits its episode"),
        ([-0.8, 0.4], [0.8, -0.5], [-0.9, 0.4], "fits the twin's episode"),
        ([0.0, 0.0], [0.8, -0.5], [-0.9, 0.4], "fits neither episode"),
        ([0.4, -0.2], [0.8, -0.8], [-0.9, 0.4], "fits its episode in part"),
        # Where the right answer is near 0, a small error is a large share of it.
        ([0.08], [0.02], [0.9], "fits its episode, as 0 does"),
        ([0.08], [-0.9], [0.02], "fits the twin's episode, as 0 does"),
        ([0.4], [0.05], [0.9], "fits neither episode"),
        ([0.5], [0.55], [0.45], "fits both episodes, so it cannot be told which"),
    ],
)
def test_verdict_names_the_episode_that_the_answers_fit(given, rewards, twin_rewards, verdict):
    context = page_context()
    assert context.eval(f"Episode.verdict({given}, {rewards}, {twin_rewards})[1]") == verdict


def test_page_prints_the_decay_and_the_limit_of_each_network():
    context = page_context()
    context.eval("Object.assign(trainedNetworks.gradient, { decay: 0, max_norm: 3 })")
    context.eval((FOLDER / "markup.js").read_text())
    table = json.loads(context.eval("JSON.stringify(Markup.table(4))")).replace("\u2212", "-")
    assert re.findall(r'<p class="equation">W ← (.*?) \+ .*<br>(.*)</p>', table) == [
        ("(1 - d) W", "d = 0.25 η, norm of an update ≤ 10"),
        ("W", "no decay, norm of an update ≤ 3"),
        ("W", "no decay, no limit"),
    ]
