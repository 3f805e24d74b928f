"""Atomic files, locks of folders, and checkpoints: damaged files are refused, and loading runs no code."""

import errno
import os
import pickle
import random
import signal
import subprocess
import sys

import pytest
import torch
from plastic_agents import atomic_files, checkpoint
from plastic_agents.atomic_files import locked, remove_temporaries, replacing
from plastic_agents.checkpoint import FORMAT, load_checkpoint, save_checkpoint, with_checksum


def test_replacing_keeps_the_old_file_if_writing_fails(tmp_path):
    path = tmp_path / "folder" / "result.json"
    with replacing(path) as temporary:
        assert not path.exists()
        temporary.write_text("first")
    with pytest.raises(RuntimeError, match="disk"), replacing(path) as temporary:
        temporary.write_text("sec")
        raise RuntimeError("disk")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_replacing_sets_the_usual_permissions(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    with replacing(tmp_path / "ours") as temporary:
        temporary.write_text("")
    assert (tmp_path / "ours").stat().st_mode == plain.stat().st_mode


def test_replacing_syncs_the_file_before_it_renames(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def syncing(handle):
        calls.append(("fsync", os.fstat(handle).st_size))
        fsync(handle)

    def renaming(source, target):
        calls.append(("replace", os.stat(source).st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", renaming)
    with replacing(tmp_path / "result") as temporary:
        temporary.write_text("whole")
    assert calls == [("fsync", 5), ("replace", 5)]


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "a.pt", "kind", {"number": 1})
    before = path.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        save_checkpoint(path, "kind", {"number": 2})
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


_KILLED = """
import os, signal, sys
from pathlib import Path
from plastic_agents.atomic_files import locked, replacing
with locked(sys.argv[1]), replacing(Path(sys.argv[1]) / "checkpoint.pt") as temporary:
    temporary.write_text("half")
    print("written", flush=True)
    os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == "die" else sys.stdin.read()
"""


def test_a_killed_process_leaves_no_lock_and_its_temporary_file_can_be_removed(tmp_path):
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), "die"], timeout=300, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    other_files = [
        tmp_path / name for name in (".tmp-a-other.pt", ".tmp-mine", "checkpoint.pt", "x.tmp-a-checkpoint.pt")
    ]
    for path in other_files:
        path.touch()
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".tmp-")]) == 3
    with locked(tmp_path) as is_locked:
        assert is_locked
        remove_temporaries(tmp_path / "checkpoint.pt")
    assert sorted(tmp_path.iterdir()) == sorted(other_files)


def test_another_process_cannot_lock_a_locked_folder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path), "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"written\n"
        with (
            pytest.raises(
                BlockingIOError,
                match=rf"{tmp_path.name} is in use by another run \(process {other.pid} on .*choose another",
            ),
            locked(tmp_path),
        ):
            pass
        other.stdin.close()
        assert other.wait(300) == 0
    with locked(tmp_path) as is_locked:
        assert is_locked
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_folder_cannot_be_locked_twice_but_can_be_locked_again_after_release(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "new"):
            with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"), locked(tmp_path / "new"):
                pass
            assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]
        assert not list((tmp_path / "new").iterdir())


def test_a_lock_on_a_removed_lock_file_is_not_accepted(tmp_path, monkeypatch):
    lock, calls = atomic_files._lock, []

    def losing(file):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(file)
        lock(file)

    monkeypatch.setattr(atomic_files, "_lock", losing)
    with locked(tmp_path):
        monkeypatch.undo()
        assert len(calls) == 2
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch):
    def unsupported(file):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(atomic_files, "_lock", unsupported)
    with pytest.warns(UserWarning, match="cannot be locked .*not supported.* would overwrite each other"):  # noqa: SIM117
        with locked(tmp_path) as is_locked:
            assert not is_locked


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


def test_a_checkpoint_with_any_bit_flipped_is_refused(tmp_path):
    content = {"tensor": torch.arange(7.0), "number": 0.1, "nested": {"list": [1, None]}}
    path = save_checkpoint(tmp_path / "a.pt", "kind", content)
    whole = path.read_bytes()
    rng = random.Random(0)
    bits = rng.sample(range(8 * len(whole)), 500) + list(range(8 * (len(whole) - 30), 8 * len(whole)))
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.pt cannot be read as a checkpoint: .*damaged"):
            load_checkpoint(path, "kind")
    for kept in range(0, len(whole), 31):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="is cut short, damaged"):
            load_checkpoint(path, "kind")
    path.write_bytes(whole)
    assert torch.equal(load_checkpoint(path, "kind")["tensor"], content["tensor"])


def test_other_tools_can_read_checkpoints(tmp_path):
    path = save_checkpoint(tmp_path / "a.pt", "kind", {"tensor": torch.arange(3.0)})
    file = torch.load(path, weights_only=True)
    assert (file["format"], file["kind"]) == (FORMAT, "kind")
    assert file["content"]["tensor"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("number", [0, FORMAT + 1])
def test_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch, number):
    monkeypatch.setattr(checkpoint, "FORMAT", number)
    path = save_checkpoint(tmp_path / "a.pt", "kind", {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"a checkpoint of format {number}, this version reads format {FORMAT}"):
        load_checkpoint(path, "kind")


@pytest.mark.parametrize("file", [3, {}, {"format": FORMAT, "kind": "kind"}, {"format": FORMAT, "content": {}}])
def test_signed_files_with_other_content_are_refused(tmp_path, file):
    torch.save(file, tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(with_checksum((tmp_path / "a.pt").read_bytes()))
    with pytest.raises(ValueError, match="is a checkpoint of format"):
        load_checkpoint(tmp_path / "a.pt", "kind")


def test_checkpoint_of_another_kind_is_refused(tmp_path):
    path = save_checkpoint(tmp_path / "a.pt", "supervised", {})
    with pytest.raises(ValueError, match="kind 'supervised', expected 'other'"):
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
