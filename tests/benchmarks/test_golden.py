"""benchmarks/golden.py on files outside data/: other sizes and settings, wrong numbers, missing and invalid files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from plastic_agents.models.plastic.reference import reference_unroll
from plastic_agents.models.plastic.update import Plasticity

from benchmarks import golden
from tests.plastic_agents.models.plastic.test_forms import make_network


def write_golden(path, cell, rule, plasticity, **changes):
    """Write a golden file computed by the slow reference instead of the published code."""
    network = make_network(cell, rule, 4, 11, 3, plasticity)
    with torch.no_grad():  # unlimited updates of strong weights explode, and absolute errors with them
        for layer in network.layers.values():
            layer.weight.div_(2.0)
    x, target = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    (y, eta), state = reference_unroll(network, x.unsqueeze(1))
    loss = (y[:, 0] - target).square().mean()
    loss.backward()
    loss_weight = getattr(network, "readout_loss_weight", torch.ones_like(network.readout.bias))
    arrays = {
        "x": x,
        "target": target,
        "outputs": y[:, 0],
        "eta": eta[:, 0],
        "loss": loss,
        "hidden_final": torch.cat(tuple(state.hidden), -1)[0],
        "readout_loss_weight": loss_weight,
        "grad_readout_loss_weight": golden.gradient(loss_weight),
    }
    for name, layer in network.layers.items():
        for kind in ("weight", "bias"):
            arrays[f"slow/{name}.{kind}"] = getattr(layer, kind)
            arrays[f"alpha/{name}.{kind}"] = getattr(layer, f"alpha_{kind}")
            arrays[f"fast_final/{name}.{kind}"] = getattr(state.fast[name], kind)[0]
            arrays[f"grad_slow/{name}.{kind}"] = golden.gradient(getattr(layer, kind))
            arrays[f"grad_alpha/{name}.{kind}"] = golden.gradient(getattr(layer, f"alpha_{kind}"))
    meta = {
        "rnn": cell.upper(),
        "rule": rule,
        "input_size": 4,
        "hidden_size": 11,
        "output_size": 3,
        "extra_dim": plasticity.extra,
        "modulation": int(plasticity.modulated),
        "max_norm": network.settings.max_norm,
        "eta0_half": network.settings.rate / 2,
        "decay_half": network.settings.decay / 2,
    }
    arrays = {key: value.detach().numpy() for key, value in arrays.items()}
    arrays |= {f"meta/{key}": np.asarray(value) for key, value in meta.items()}
    np.savez(path, **{**arrays, **changes})
    return str(path)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["golden.py", *arguments])
    return golden.main()


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize("rule", ["hebbian", "gradient"])
@pytest.mark.parametrize(
    "plasticity",
    [
        Plasticity(modulated=False, extra=0),
        Plasticity(rate=0.4, decay=0.1, extra=8, max_norm=100),
        Plasticity(rate=1.0, extra=1, max_norm=0.1),
    ],
    ids=["unmodulated", "hardly limited", "full rate"],
)
def test_other_sizes_and_switches(cell, rule, plasticity, tmp_path, monkeypatch, capsys):
    path = write_golden(tmp_path / "other.npz", cell, rule, plasticity)
    assert run(monkeypatch, path, path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(golden.FORMS)
    assert all(line.endswith("ok") for line in lines)


@pytest.mark.parametrize("wrong", [1e-6, np.nan])
def test_wrong_numbers(wrong, tmp_path, monkeypatch, capsys):
    right = write_golden(tmp_path / "right.npz", "rnn", "gradient", Plasticity())
    with np.load(right) as file:
        gradient = file["grad_alpha/input.bias"].copy()
    gradient[0] += wrong
    path = write_golden(tmp_path / "wrong.npz", "rnn", "gradient", Plasticity(), **{"grad_alpha/input.bias": gradient})
    assert run(monkeypatch, right, path) == 1
    out = capsys.readouterr().out
    assert out.count("WRONG") == len(golden.FORMS)
    assert "grad_alpha/input.bias" in out


def test_missing_and_invalid_files_are_named(tmp_path, monkeypatch, capsys):
    missing, text = str(tmp_path / "missing.npz"), tmp_path / "text.npz"
    text.write_text("not arrays")
    cut = write_golden(tmp_path / "cut.npz", "rnn", "gradient", Plasticity(), **{"slow/input.bias": np.zeros(3)})
    bad_cell = write_golden(tmp_path / "cell.npz", "rnn", "gradient", Plasticity(), **{"meta/rnn": "elman"})
    for path, message in {
        missing: "missing.npz",
        str(text): "text.npz",
        cut: "slow/input.bias",
        bad_cell: "'elman'",
    }.items():
        assert run(monkeypatch, path) == 2
        assert message in capsys.readouterr().err
