"""A game in the terminal: a person plays an episode of a task with the past hidden.

Each step shows the observation of that step only. The person answers at scored steps, and at the end sees the score
beside those of the oracle and the memoryless policy on the same episode.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import numpy as np
from gymnasium import spaces

from plastic_envs.rendering import observed_channels, played_observations
from plastic_envs.task import Array, Task, normalised_score
from plastic_envs.validation import whole_number

_CLEAR = "\x1b[2J\x1b[H"
# The alternate screen keeps no lines that are scrolled out of it, and leaves those of the normal screen as they were.
_TO_ALTERNATE_SCREEN, _TO_NORMAL_SCREEN = "\x1b[?1049h", "\x1b[?1049l"
_BLOCKS, _ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "0123456789"
_LARGEST_PICTURE = 32  # pixels


def play(task: Task, seed: int, source: TextIO | None = None, out: TextIO | None = None) -> bool:
    """Let a person play an episode of a task.

    In a terminal, each step erases the one before it, and at the end the terminal shows again what it showed before the
    game, with the result below. Otherwise steps follow each other, and only scored steps take a line of the input. The
    end of the input (Ctrl-D) or Ctrl-C ends the game.

    Args:
        task: the task.
        seed: seed of the episode.
        source: the answers, one a line; by default standard input.
        out: the text to print to; by default standard output.

    Returns:
        Whether the person played to the end.

    Raises:
        TypeError, ValueError: ``seed`` is not a whole number of at least 0.
    """
    game = _Game(task, whole_number("seed", seed, at_least=0), source or sys.stdin, out or sys.stdout)
    try:
        game.play()
    except (EOFError, KeyboardInterrupt):
        game.write(f"\n\nThe game ended at step {len(game.actions) + 1} of {task.episode_length}. Goodbye.")
        return False
    game.write_result()
    return True


class _Game:
    """An episode and the actions so far."""

    def __init__(self, task: Task, seed: int, source: TextIO, out: TextIO) -> None:
        self.task, self.seed, self.source, self.out = task, seed, source, out
        self.episode = task.sample(np.random.default_rng(seed), 1)
        self.actions: list[Array] = []
        self.is_terminal = source.isatty() and out.isatty()
        space = task.action_space
        self.discrete = isinstance(space, spaces.Discrete)
        self.n_actions = int(space.n) if isinstance(space, spaces.Discrete) else 0
        encoding = out.encoding or "utf-8"  # a stream in memory has none, and holds any text
        self.blocks = _BLOCKS if _can_encode(_BLOCKS, encoding) else _ASCII_BLOCKS

    def play(self) -> None:
        summary = (inspect.getdoc(type(self.task)) or type(self.task).__name__).partition("\n")[0]
        self.write(f"{type(self.task).__name__}, seed {self.seed}: {summary}")
        self.write(f"You see one step at a time. Values that a step does not tell are 0. {self._how_to_answer()}")
        self.write("Ctrl-D ends the game.\n")
        if self.is_terminal:
            self._read_line("Press Enter to start. ")
        with self._alternate_screen():
            for step in range(self.task.episode_length):
                self._play_step(step)

    @contextmanager
    def _alternate_screen(self) -> Iterator[None]:
        """Use the alternate screen of a terminal, also if Ctrl-C ends the game."""
        if not self.is_terminal:
            yield
            return
        self.out.write(_TO_ALTERNATE_SCREEN)
        try:
            yield
        finally:
            self.out.write(_TO_NORMAL_SCREEN)
            self.out.flush()

    def _play_step(self, step: int) -> None:
        if self.is_terminal:
            self.out.write(_CLEAR)
        self.write(f"step {step + 1} of {self.task.episode_length}")
        for line in self._observation():
            self.write(f"  {line}")
        if self.episode.scored[0, step]:
            self.actions.append(self._ask())
        else:
            if self.is_terminal:
                self._read_line("Press Enter to go on. ")
            self.actions.append(np.zeros_like(self.episode.target[0, step]))
        self.write("")

    def write(self, line: str) -> None:
        self.out.write(f"{line}\n")

    def write_result(self) -> None:
        """Print answers beside targets, and the scores."""
        actions = np.array(self.actions)[None]
        self.write("step  your answer  target")
        for step in np.flatnonzero(self.episode.scored[0]):
            answer, target = (self._in_words(array[0, step]) for array in (actions, self.episode.target))
            self.write(f"{step + 1:4d}  {answer:>11}  {target}")
        best = self.task.oracle_name
        policies = {"you": actions, best: self.task.oracle(self.episode)}
        policies["memoryless"] = self.task.memoryless(self.episode)
        scores = {name: float(self.task.score(self.episode, taken)[0]) for name, taken in policies.items()}
        self.write(f"\n{self.task.score_name if self.discrete else 'mean squared error'}:")
        for name, score in scores.items():
            # The addition turns -0.0 into 0.0.
            self.write(f"  {name:11} {(score if self.discrete else -score) + 0.0:.3f}")
        normalised = normalised_score(scores["you"], scores["memoryless"], scores[best])
        if np.isfinite(normalised):
            self.write(f"On a scale from 0 (memoryless) to 1 ({best}), you have {normalised:.2f}.")

    def _how_to_answer(self) -> str:
        if self.discrete:
            if self.task.action_names:
                names = (f"{number} ({name})" for number, name in enumerate(self.task.action_names))
                return f"Answer with {' or '.join(names)}."
            return f"Answer with a number from 0 to {self.n_actions - 1}."
        size = self.episode.target.shape[-1]
        numbers = "a number" if size == 1 else f"{size} numbers"
        return f"Answer with {numbers} from {-self.task.action_scale:g} to {self.task.action_scale:g}."

    def _observation(self) -> Iterator[str]:
        """Yield a line for each channel, or several for an image."""
        actions = np.array(self.actions).reshape(len(self.actions), *self.episode.target.shape[2:])
        observation = played_observations(self.task, self.episode, actions)[-1:]
        channels = observed_channels(self.task, observation)
        width = max(len(name) for name, *_ in channels)
        for name, values, low, high in channels:
            if values.ndim == 4:
                yield f"{name}:"
                yield from _picture(values[0] / high, self.blocks is _BLOCKS)
            elif values.shape[1] == 1 and (low, high) == (0, 1):
                yield f"{name:{width}}  {'yes' if values[0, 0] else 'no'}"
            elif (low, high) == (0, 1) and np.isin(values, (0, 1)).all():
                yield f"{name:{width}}  {' '.join(map(str, np.flatnonzero(values[0]))) or 'none'}"
            elif values.shape[1] == 1:
                yield f"{name:{width}}  {values[0, 0]:+.2f}"
            else:
                levels = (values[0] - low) / (high - low) * (len(self.blocks) - 1)
                yield f"{name:{width}}  {' '.join(self.blocks[round(float(level))] for level in levels)}"

    def _ask(self) -> Array:
        """Ask until the answer is valid, and return the action."""
        while True:
            line = self._read_line("Your answer: ")
            try:
                return self._action(line)
            except ValueError as error:
                self.write(f"  {error}")

    def _action(self, line: str) -> Array:
        words = line.split()
        if self.discrete:
            names = list(self.task.action_names)
            number = names.index(line.strip()) if line.strip() in names else _number(line)
            if number not in range(self.n_actions):
                raise ValueError(f"the answer must be a number from 0 to {self.n_actions - 1}, got {line.strip()!r}")
            return np.array(number)
        size, scale = self.episode.target.shape[-1], self.task.action_scale
        try:
            values = np.array([float(word.replace(",", ".")) for word in words])
        except ValueError:
            values = np.array([np.nan])
        if values.shape != (size,) or not (np.abs(values) <= scale).all():
            numbers = "a number" if size == 1 else f"{size} numbers"
            raise ValueError(f"the answer must be {numbers} from {-scale:g} to {scale:g}, got {line.strip()!r}")
        return values / scale

    def _in_words(self, action: Array) -> str:
        if self.discrete:
            return self.task.action_names[int(action)] if self.task.action_names else str(int(action))
        return " ".join(f"{self.task.action_scale * value:+.2f}" for value in action)

    def _read_line(self, prompt: str) -> str:
        self.out.write(prompt)
        self.out.flush()
        line = self.source.readline()
        if not line:
            raise EOFError
        if not self.is_terminal:
            self.out.write("\n")
        return line


def _number(word: str) -> int | None:
    return int(word) if word.strip().isdecimal() else None


def _can_encode(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _picture(image: Array, has_blocks: bool) -> Iterator[str]:
    """Yield the lines of an image [C, H, W] with numbers in [0, 1], of two rows of pixels each."""
    stride = -(-max(image.shape[1:]) // _LARGEST_PICTURE)
    bright = image.mean(axis=0)[::stride, ::stride] > 0.4
    bright = np.pad(bright, [(0, bright.shape[0] % 2), (0, 0)])
    marks = " ▄▀█" if has_blocks else " .'#"
    for upper, lower in zip(bright[::2], bright[1::2], strict=True):
        yield "".join(marks[2 * int(top) + int(bottom)] for top, bottom in zip(upper, lower, strict=True))
