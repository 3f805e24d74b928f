"""Write docs/surgery/RULE.js: the trained networks that the page "Surgery on a memory" runs, with their scores.

    python docs/generate_surgery.py [--runs runs/surgery]

The script trains a small network for each rule by its recipe, or reuses the finished runs in the folder. A test
compares the JavaScript of the page with Python, and the scores with those of the networks.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from plastic_agents import (
    INTERVENTIONS,
    SUPERVISED_RECIPES,
    SupervisedAgent,
    SupervisedLearner,
    layer_interventions,
    probe,
)
from plastic_agents.atomic_files import replacing
from plastic_agents.models.plastic.cells import CELLS
from plastic_agents.models.plastic.network import PlasticNetwork

FOLDER = Path(__file__).parent / "surgery"
RULES = ("hebbian", "gradient", "delta")
# Four cues of 3 x 3 pixels, which people can tell apart.
TASK_ARGUMENTS = {"n_cues": 4, "cue_size": 9, "noise": 0.1, "n_support": 8, "n_queries": 8}
HIDDEN_SIZE = 32
STEPS = 4000
EPISODES = 2000
PREFIX = "(globalThis.trainedNetworks ??= {})."  # before the assignment of a network


def trained(rule: str, runs: Path) -> SupervisedLearner:
    """Return a trained network, from an earlier run with the same settings if there is one."""
    recipe = SUPERVISED_RECIPES[f"cue-reward-{rule}"]
    learner = SupervisedLearner.start_or_resume(
        recipe.task,
        replace(recipe.network, hidden_size=HIDDEN_SIZE),
        replace(recipe.training, steps=STEPS),
        task_arguments=TASK_ARGUMENTS,
        run_dir=runs / rule,
    )
    learner.learn()
    return learner


def exported(agent: SupervisedAgent) -> dict[str, Any]:
    """Return the equations' settings and the parameters of a network as plain data, for docs/surgery/network.js.

    Raises:
        ValueError: the network is not plastic, has several recurrent layers, or a constant rate: network.js knows none
            of these.
    """
    core: Any = agent.core
    if not isinstance(core, PlasticNetwork) or len(core.recurrent_layers) > 1 or not core.settings.modulated:
        raise ValueError(f"agent must have a plastic network with one recurrent layer and a modulated rate, got {core}")
    layers = {}
    for name, layer in core.layers.items():
        parameters = {"weight": layer.weight, "bias": layer.bias}
        if layer.plastic and core.settings.alpha_init != "absent":
            parameters["alpha_weight"] = layer.alpha_weight
            if layer.plastic_bias:
                parameters["alpha_bias"] = layer.alpha_bias
        if layer.plastic and core.rule_name == "delta":
            value = core.rule_parameters[name].value
            parameters |= {"value_weight": value.weight.T, "value_bias": value.bias}
        layers[name] = {"plastic": layer.plastic, **{key: plain(tensor) for key, tensor in parameters.items()}}
    settings = core.settings
    rescale: Any = agent.observation_encoder.rescale[0]
    return {
        "observation_centre": plain(rescale.centre),
        "observation_half_range": plain(rescale.half_range),
        "rule": core.rule_name,
        "cell": next(name for name in ("rnn", "tanh_rnn") if core.cell is CELLS[name]),
        "rate": settings.rate,
        "decay": settings.decay,
        "max_norm": None if settings.max_norm == math.inf else settings.max_norm,
        "readout_loss_weight": plain(core.readout_loss_weight) if core.rule.uses_loss_gradient else None,
        "layers": layers,
    }


def plain(tensor: torch.Tensor) -> Any:
    """Return numbers as nested lists, with as many digits as float32 has."""
    return np.vectorize(lambda number: float(str(np.float32(number))), otypes=[float])(tensor.detach().numpy()).tolist()


def scores(agent: SupervisedAgent) -> dict[str, Any]:
    """Return mean squared errors of test episodes: of the oracle and others, and by intervention against both twins."""
    report = probe(agent, episodes=EPISODES, interventions=[*INTERVENTIONS, *layer_interventions(agent.core)])
    return {
        "episodes": EPISODES,
        "oracle": round(report.oracle.mean, 4),
        "memoryless": round(report.memoryless.mean, 4),
        "interventions": {
            name: {
                "label": result.label,
                "own": round(result.metric.mean, 4),
                "twin": round(result.twin_metric.mean, 4),
            }
            for name, result in report.items()
        },
    }


def read(rule: str) -> dict[str, Any]:
    """Return the content of a network's file."""
    assignment = (FOLDER / f"{rule}.js").read_text(encoding="utf-8").partition(f"{PREFIX}{rule} = ")[2]
    content: dict[str, Any] = json.loads(assignment.removesuffix(";\n"))
    return content


def write(rule: str, content: Mapping[str, Any]) -> None:
    """Write the file of a network: a script that works from disk too, where pages cannot fetch JSON."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    with replacing(FOLDER / f"{rule}.js") as temporary:
        temporary.write_text(f"// Written by docs/generate_surgery.py.\n{PREFIX}{rule} = {text};\n", encoding="utf-8")


def main() -> None:
    """Train the networks and write their files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/surgery"), help="folder of the runs")
    runs = parser.parse_args().runs
    for rule in RULES:
        learner = trained(rule, runs)
        training = {"recipe": f"cue-reward-{rule}", "steps": STEPS, "seed": learner.config.seed}
        facts = {"task": TASK_ARGUMENTS, "training": training, "scores": scores(learner.agent)}
        write(rule, {**facts, **exported(learner.agent)})


if __name__ == "__main__":
    main()
