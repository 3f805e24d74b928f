"""Every form reproduces the vectors computed by the published code of the paper's authors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.golden import FORMS, TOLERANCE, Golden, errors

FILES = sorted((Path(__file__).parent / "data").glob("*.npz"))


def test_there_is_a_file_for_each_cell_and_rule():
    assert [path.stem for path in FILES] == ["lstm_gradient", "lstm_hebbian", "rnn_gradient", "rnn_hebbian"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)], ids=["f64", "f32"])
def test_golden(path, form, dtype, tolerance):
    found = errors(Golden(path), form, dtype)
    wanted = {"outputs", "eta", "hidden_final", "loss"}
    wanted |= {
        f"{group}/{layer}.{kind}"
        for group in ("fast_final", "grad_slow", "grad_alpha")
        for layer in ("input", "input_to_hidden", "hidden_to_hidden", "readout")
        for kind in ("weight", "bias")
    }
    assert set(found) == wanted | {"grad_readout_loss_weight"}
    assert max(found.values()) < tolerance, found


def test_a_wrong_parameter_is_noticed():
    golden = Golden(FILES[0])
    with torch.no_grad():
        golden.network.readout.alpha_weight[0, 0] += 1e-2
    assert max(errors(golden, "dense", torch.float64).values()) > TOLERANCE
