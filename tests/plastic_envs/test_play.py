"""The game in the terminal, driven by a pipe and by a pretended terminal, and keys for Gymnasium's own."""

import io
import re

import gymnasium
import numpy as np
import pytest

from plastic_envs import make_task
from plastic_envs.play import play


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class Ascii(io.StringIO):
    encoding = "ascii"


def played(task, lines, seed=3, source=io.StringIO, out=io.StringIO):
    printed = out()
    finished = play(task, seed, source("".join(f"{line}\n" for line in lines)), printed)
    return finished, printed.getvalue()


def cue_reward(**arguments):
    return make_task("PlasticRNN/CueReward-v0", **{"n_cues": 2, "n_support": 3, "n_queries": 2, **arguments})


def test_right_answers_have_the_score_of_the_targets():
    task = cue_reward()
    episode = task.sample(np.random.default_rng(3), 1)
    answers = [f"{target:.6f}" for target in episode.target[0, 3:, 0]]
    finished, printed = played(task, answers)
    assert finished
    assert "you         0.000" in printed
    assert "oracle      0.000" in printed
    memoryless = -task.score(episode, task.memoryless(episode))[0]
    assert f"memoryless  {memoryless:.3f}" in printed
    assert "you have 1.00." in printed
    assert re.findall(r"step (\d) of 5", printed) == ["1", "2", "3", "4", "5"]
    assert printed.count("Your answer: ") == 2
    assert "\x1b" not in printed


def test_the_answers_of_the_person_are_scored():
    task = cue_reward()
    episode = task.sample(np.random.default_rng(3), 1)
    actions = np.array([[[0], [0], [0], [0.5], [-0.25]]])
    _, printed = played(task, ["0.5", "-0,25"])
    assert f"you         {-task.score(episode, actions)[0]:.3f}" in printed


def test_answers_are_in_the_units_of_the_task():
    task = make_task("PlasticRNN/FewShotRegression-v0", n_support=1, n_queries=1)
    target = task.action_scale * task.sample(np.random.default_rng(3), 1).target[0, 1, 0]
    assert task.action_scale == 4
    _, printed = played(task, [f"{target:.5f}"])
    assert f"number from {-task.action_scale:g} to {task.action_scale:g}" in printed
    assert "you         0.000" in printed


@pytest.mark.parametrize("bad", ["", "yes", "nan", "1.01", "0 0"])
def test_a_wrong_answer_is_asked_again(bad):
    _, printed = played(cue_reward(), [bad, "0", "0"])
    assert f"the answer must be a number from -1 to 1, got {bad!r}" in printed
    assert printed.count("Your answer: ") == 3


def test_choices_are_numbers_or_names_and_have_consequences():
    task = make_task("PlasticRNN/CueChoice-v0", n_trials=2)
    value = task.sample(np.random.default_rng(3), 1).stake[0, 0]
    finished, printed = played(task, ["approach", "2", "0"])
    assert finished
    assert "Answer with 0 (avoid) or 1 (approach)." in printed
    assert f"outcome       {value:+.2f}" in printed
    assert "the answer must be a number from 0 to 1, got '2'" in printed
    assert f"you         {value / 2:.3f}" in printed


def test_images_and_labels_are_shown():
    task = make_task("PlasticRNN/FewShotClassification-v0", n_way=2, n_queries=2)
    labels = task.sample(np.random.default_rng(3), 1).target[0]
    finished, printed = played(task, labels[2:])
    assert finished
    assert "you         1.000" in printed
    shown = re.findall(r"label  (\w+)", printed)
    assert sorted(shown[:2]) == ["0", "1"]
    assert set(shown[2:]) == {"none"}
    assert "█" in printed
    _, plain = played(task, labels[2:], out=Ascii)
    assert plain.isascii()
    assert "#" in plain


@pytest.mark.parametrize("lines", [[], ["0.5"]])
def test_the_end_of_the_input_ends_the_game(lines):
    finished, printed = played(cue_reward(), lines)
    assert not finished
    assert printed.endswith(f"The game ended at step {4 + len(lines)} of 5. Goodbye.\n")


def test_ctrl_c_ends_the_game():
    class Interrupted(io.StringIO):
        def readline(self):
            raise KeyboardInterrupt

    assert not played(cue_reward(), [], source=Interrupted)[0]


def test_a_terminal_shows_one_step_at_a_time():
    finished, printed = played(cue_reward(), ["", "", "", "", "0", "0"], source=Terminal, out=Terminal)
    assert finished
    _, game, result = re.split(r"\x1b\[\?1049[hl]", printed)  # to the alternate screen and back
    empty, *screens = game.split("\x1b[2J\x1b[H")
    assert (empty, len(screens)) == ("", 5)
    assert all(screen.startswith(f"step {number} of 5") for number, screen in enumerate(screens, start=1))
    assert all(screen.count("cue  ") == 1 for screen in screens)
    assert result.startswith("step  your answer  target")
    assert "\x1b[3J" not in printed, "erases the lines above the terminal's window"


@pytest.mark.parametrize("reads", [2, 5])
def test_ctrl_c_leaves_the_alternate_screen(reads):
    class Interrupted(Terminal):
        def readline(self):
            line = super().readline()
            if not line:
                raise KeyboardInterrupt
            return line

    finished, printed = played(cue_reward(), ["0"] * reads, source=Interrupted, out=Terminal)
    assert not finished
    assert (printed.count("\x1b[?1049h"), printed.count("\x1b[?1049l")) == (1, 1)
    assert printed.partition("\x1b[?1049l")[2] == f"\n\nThe game ended at step {reads} of 5. Goodbye.\n"


def test_keys_for_the_game_of_gymnasium():
    env = gymnasium.make("PlasticRNN/FewShotClassification-v0", n_way=3)
    assert env.has_wrapper_attr("get_keys_to_action")
    assert env.get_wrapper_attr("get_keys_to_action")() == {(ord("0"),): 0, (ord("1"),): 1, (ord("2"),): 2}
    with pytest.raises(TypeError, match=r"keys need a task with Discrete actions, got Box"):
        gymnasium.make("PlasticRNN/CueReward-v0").unwrapped.get_keys_to_action()
    with pytest.raises(ValueError, match="keys need a task with at most 10 actions, got 11"):
        gymnasium.make("PlasticRNN/FewShotClassification-v0", n_way=11).unwrapped.get_keys_to_action()
