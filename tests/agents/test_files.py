"""Files and checkpoints: whole or not at all, and nothing read can run code."""

import pickle

import pytest
import torch

from agents.checkpoint import FORMAT, load_checkpoint, save_checkpoint, with_checksum
from agents.files import replacing


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "folder" / "result.json"
    with replacing(path) as temporary:
        assert not path.exists()
        temporary.write_text("first")
    with pytest.raises(RuntimeError, match="disk"), replacing(path) as temporary:
        temporary.write_text("sec")
        raise RuntimeError("disk")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_replacing_gives_the_usual_rights(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    with replacing(tmp_path / "ours") as temporary:
        temporary.write_text("")
    assert (tmp_path / "ours").stat().st_mode == plain.stat().st_mode


def test_checkpoint_round_trip(tmp_path):
    content = {"tensor": torch.arange(3.0), "number": 0.1, "name": "x", "nested": {"list": [1, None]}}
    loaded = load_checkpoint(save_checkpoint(tmp_path / "a.pt", "kind", content), "kind")
    assert torch.equal(loaded["tensor"], content["tensor"])
    assert (loaded["number"], loaded["name"], loaded["nested"]) == (0.1, "x", {"list": [1, None]})


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*nowhere\.pt"):
        load_checkpoint(tmp_path / "nowhere.pt", "kind")


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_checkpoint_cut_short_is_refused(tmp_path, kept):
    path = save_checkpoint(tmp_path / "a.pt", "kind", {"tensor": torch.zeros(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"a\.pt cannot be read as a checkpoint"):
        load_checkpoint(path, "kind")


def test_checkpoint_of_another_kind_is_refused(tmp_path):
    path = save_checkpoint(tmp_path / "a.pt", "supervised", {})
    with pytest.raises(ValueError, match="kind 'supervised', wanted 'other'"):
        load_checkpoint(path, "other")


def test_foreign_torch_file_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(2)}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt cannot be read as a checkpoint: it does not end with a checksum"):
        load_checkpoint(tmp_path / "a.pt", "kind")


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    "save",
    [
        lambda value, path: torch.save(value, path),
        lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2)),
    ],
)
def test_loading_runs_no_code(tmp_path, save):
    trap = tmp_path / "trap"
    save({"format": FORMAT, "kind": "kind", "content": {"x": _Hostile(trap)}}, tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(with_checksum((tmp_path / "a.pt").read_bytes()))
    with pytest.raises(ValueError, match="it holds more than tensors and plain data"):
        load_checkpoint(tmp_path / "a.pt", "kind")
    assert not trap.exists()
