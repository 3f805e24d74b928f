"""The command in a terminal of 80 columns with colours, in which tyro and rich print differently than to a pipe."""

import os
import re
import struct
import subprocess
import sys

import pytest
from plastic_agents import __version__

pty = pytest.importorskip("pty")
fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

MISTAKES = {
    ("train", "cue-reward-hebian", "--out", "x"): "perhaps you meant cue-reward-hebbian",
    ("train", "cue-reward-hebbian"): "Missing from plastic-rnn train: --out PATH",
    ("train", "cue-reward-rnn", "--out", "x", "--steps", "10"): "--steps, 10; perhaps you meant --training.steps (see",
    (
        "train",
        "cue-reward-rnn",
        "--out",
        "x",
        "--training.steps",
        "many",
    ): "--training.steps: a whole number is needed, got 'many'",
    (
        "train",
        "cue-reward-rnn",
        "--out",
        "x",
        "--training.steps",
        "0",
    ): "steps must be at least 1, got 0",
    ("frobnicate",): "unknown command frobnicate; it must be one of envs, ",
    ("train", "--algo", "dqn", "cue-reward-rnn"): "'dqn'",
    ("evaluate", "missing"): "there is no checkpoint at missing",
}
TRAIN = [
    *("train", "cue-reward-hebbian", "--out", "run", "--task-arguments", "n_cues=2", "--network.hidden-size", "4"),
    *("--training.steps", "2", "--training.batch-size", "2", "--training.evaluation-episodes", "3"),
]
OTHERS = [
    (),
    ("--version",),
    ("envs",),
    ("train", "cue-reward-rnn", "--help"),
    tuple(TRAIN),
    ("evaluate", "run", "--episodes", "3"),
]
SCRIPT = """
import sys
from plastic_agents.cli.main import main
for arguments in {commands!r}:
    code = 0
    try:
        main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    print("CODE", code, flush=True)
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """The output of each command in a terminal, and its exit code."""
    commands = [*MISTAKES, *OTHERS]
    parent_end, child_end = pty.openpty()
    fcntl.ioctl(child_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(commands=commands)],
        stdin=child_end,
        stdout=child_end,
        stderr=child_end,
        cwd=tmp_path_factory.mktemp("terminal"),
        env={**environment, "PYTHONUTF8": "1"},
    )
    os.close(child_end)
    output = b""
    try:
        while True:
            try:
                received = os.read(parent_end, 65536)
            except OSError:  # Linux raises it once the other end is closed
                break
            if not received:
                break
            output += received
    finally:
        process.kill()
        process.wait()
        os.close(parent_end)
    pieces = output.decode().replace("\r\n", "\n").split("CODE ")
    codes = [int(piece.partition("\n")[0]) for piece in pieces[1:]]
    texts = [pieces[0], *(piece.partition("\n")[2] for piece in pieces[1:-1])]
    return dict(zip(commands, zip(texts, codes, strict=True), strict=True))


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_without_colours_or_frames(arguments, printed):
    text, code = printed[arguments]
    assert code == 2
    assert MISTAKES[arguments] in text
    assert text.startswith("plastic-rnn: ")
    assert text.count("\n") == 1
    assert text.isascii()
    assert text[:-1].isprintable()
    assert "--- " not in text


@pytest.mark.parametrize("arguments", [(), ("envs",), ("train", "cue-reward-rnn", "--help")], ids=" ".join)
def test_pages_fit_the_terminal(arguments, printed):
    text, code = printed[arguments]
    assert code == (0 if arguments else 2)
    assert all(len(line) <= 80 and (line + " ").isprintable() for line in text.splitlines())
    assert "`" not in text
    assert "(default: )" not in text
    if arguments != ("envs",):
        assert text.startswith("usage: plastic-rnn")
        assert "╭─ options ──" in text


def test_version_prints_one_line(printed):
    assert printed["--version",] == (f"plastic-rnn {__version__}\n", 0)


def test_training_and_evaluating_print_tables_that_fit(printed):
    for arguments in (tuple(TRAIN), ("evaluate", "run", "--episodes", "3")):
        sent, code = printed[arguments]
        text = re.sub("\x1b\\[[0-9;]*[mAK]", "", sent)
        assert code == 0
        assert sent != text
        assert "3 test episodes" in " ".join(text.split())
        rows = [line for line in text.splitlines() if line.startswith("│")]
        assert [row.split("│")[1].strip() for row in rows] == ["intact", "oracle", "memoryless"]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert len(rows[0]) <= 80
