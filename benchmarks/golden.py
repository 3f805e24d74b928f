"""Check the plastic networks against golden vectors: ``python benchmarks/golden.py [FILE...]``.

A golden file has the parameters, inputs and targets of a network, and the results of the code published by the paper's
authors in float64: outputs, rates, final state and the gradient of the outer loss. For each file and form, the script
prints the largest absolute error of all results. The exit code is 1 if an error is above 1e-9, and 2 if a file can't be
read.
"""

from __future__ import annotations

import argparse
import copy
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# The script runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "agents"))

from plastic_agents.models.core import State
from plastic_agents.models.plastic.cells import CELLS
from plastic_agents.models.plastic.forms import compiled
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.update import Plasticity

# Without a C compiler, a warning is shown and the compiled form is skipped.
FORMS = (
    "step",
    *(["compiled"] if compiled.available(torch.zeros((), dtype=torch.float64)) else []),
    "dense",
    "implicit",
)
LAYERS = ("input", "input_to_hidden", "hidden_to_hidden", "readout")
TOLERANCE = 1e-9


class Golden:
    """A golden file: its arrays, and a network with its sizes and parameters.

    Raises:
        ValueError: the file is no golden file; the message names the file and the fault.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as file:
                self.arrays = dict(file)
            self.network = self._build()
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, RuntimeError, AttributeError) as error:
            raise ValueError(f"{path} is no golden file: {error}") from error

    def _build(self) -> PlasticNetwork:
        meta = {key.removeprefix("meta/"): value.item() for key, value in self.arrays.items() if key[:5] == "meta/"}
        if meta["rnn"].lower() not in CELLS:
            raise ValueError(f"meta/rnn is {meta['rnn']!r}, not one of {tuple(CELLS)}")
        network = PlasticNetwork(
            meta["input_size"],
            meta["hidden_size"],
            meta["output_size"],
            cell=meta["rnn"].lower(),
            rule=meta["rule"].lower(),
            plasticity=Plasticity(
                modulated=bool(meta["modulation"]),
                rate=2 * meta["eta0_half"],
                decay=2 * meta["decay_half"],
                extra=meta["extra_dim"],
                max_norm=meta["max_norm"],
            ),
        ).double()
        with torch.no_grad():
            for name in LAYERS:
                layer = network.layers[name]
                for kind in ("weight", "bias"):
                    self._fill(getattr(layer, kind), f"slow/{name}.{kind}")
                    if kind == "weight" or layer.plastic_bias:
                        self._fill(getattr(layer, f"alpha_{kind}"), f"alpha/{name}.{kind}")
            if network.rule.uses_loss_gradient:
                self._fill(network.readout_loss_weight, "readout_loss_weight")
        return network

    def _fill(self, parameter: Tensor, key: str) -> None:
        value = torch.from_numpy(self.arrays[key])
        if value.shape != parameter.shape:
            raise ValueError(f"{key} has shape {list(value.shape)}, the sizes in meta/ ask for {list(parameter.shape)}")
        parameter.copy_(value)


def run(network: PlasticNetwork, xs: Tensor, form: str) -> tuple[Tensor, Tensor, State]:
    """Return outputs [T, B, O], rates [T, B] and the final state over xs [T, B, I] (``"step"``: by repeated `step`)."""
    if form != "step":
        output, state = network.unroll(xs, form=form)  # type: ignore[arg-type]
        return output.y, output.eta, state
    state = network.initial_state(xs.shape[1])
    outputs = []
    for x in xs:
        output, state = network.step(x, state)
        outputs.append(output)
    return torch.stack([output.y for output in outputs]), torch.stack([output.eta for output in outputs]), state


def errors(golden: Golden, form: str, dtype: torch.dtype = torch.float64) -> dict[str, float]:
    """Return the largest absolute error of each array in the file, by its key."""
    network, arrays = copy.deepcopy(golden.network).to(dtype), golden.arrays
    x, target = (torch.from_numpy(arrays[key]).to(dtype) for key in ("x", "target"))
    y, eta, state = run(network, x.unsqueeze(1), form)
    loss = (y[:, 0] - target).square().mean()
    loss.backward()
    results = {
        "outputs": y[:, 0],
        "eta": eta[:, 0],
        "loss": loss,
        "hidden_final": torch.cat(tuple(state.hidden), -1)[0],
    }
    for name in LAYERS:
        layer = network.layers[name]
        for kind in ("weight", "bias"):
            results[f"fast_final/{name}.{kind}"] = getattr(state.fast[name], kind)[0]
            results[f"grad_slow/{name}.{kind}"] = gradient(getattr(layer, kind))
            results[f"grad_alpha/{name}.{kind}"] = gradient(getattr(layer, f"alpha_{kind}"))
    results["grad_readout_loss_weight"] = (
        gradient(network.readout_loss_weight)
        if network.rule.uses_loss_gradient
        else torch.zeros(len(arrays["grad_readout_loss_weight"]))
    )
    return {
        key: float(np.abs(value.detach().double().numpy() - arrays[key]).max(initial=0.0))
        for key, value in results.items()
    }


def gradient(parameter: Tensor) -> Tensor:
    """Return the parameter's gradient; zero if the rule does not use the parameter."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def main() -> int:
    """Print a line for each file and form; return the exit code."""
    parser = argparse.ArgumentParser(description="Check the plastic networks against golden vectors.")
    repository = Path(__file__).resolve().parents[1]
    test_data = sorted((repository / "tests/plastic_agents/models/plastic/data").glob("*.npz"))
    parser.add_argument(
        "files", nargs="*", default=test_data, metavar="FILE", help="golden files (default: those of the tests)"
    )
    largest_error = 0.0
    for path in parser.parse_args().files:
        try:
            golden = Golden(path)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        for form in FORMS:
            # A NaN counts as the largest error.
            key, error_size = max(errors(golden, form).items(), key=lambda item: (np.isnan(item[1]), item[1]))
            verdict = "ok" if error_size <= TOLERANCE else f"WRONG (tolerance {TOLERANCE:g})"
            print(f"{path} {form}: largest error {error_size:.1e} ({key}) {verdict}", flush=True)
            largest_error = max(largest_error, np.inf if np.isnan(error_size) else error_size)
    return int(largest_error > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
