"""Animations of an episode: fast weights, observations, the rate eta, and answers against targets, step by step.

Each step has two frames. In the first one the network observes, in the second one it has answered and written. The
colours are those of Okabe and Ito, which colour-blind readers can tell apart. The ground is dark, which suits light and
dark pages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from plastic_agents.analysis.colours import ETA
from plastic_agents.analysis.figures import layer_label, panel_ratio, upright, weight_limit
from plastic_agents.analysis.recordings import Recording
from plastic_envs.rendering import ANSWER, observed_channels, played_observations

FRAMES_PER_STEP = 2
_GROUND, _PANEL, _BAND, _INK, _MUTED = "#0d1117", "#161b22", "#30363d", "#e6edf3", "#a3acb6"
_TARGET, _ANSWER = "#ffffff", f"#{bytes(ANSWER).hex()}"
_COLOURS = LinearSegmentedColormap.from_list(
    "signed",
    [(0.0, "#b6e3ff"), (0.25, "#2f93cf"), (0.5, _PANEL), (0.75, "#d98200"), (1.0, "#ffe2a0")],
    N=31,  # few colours make small files
)
_LABEL, _LABEL_BESIDE_TICKS = -0.012, -0.045  # right ends of labels, in widths of a panel
_STRIP_SCALE = 1.4  # observations are in [-1, 1]; the brightest colours are for fast weights
_SHOWN = 32  # rows and columns of a matrix: more would be too small to see
_GAPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class EpisodeAnimation:
    """The frames of a recorded episode, as changes of one figure.

    Args:
        recording: the episode.
        title: text at the top, such as the name of the network.
        figure: an empty figure to draw in, such as one in a window; by default a new one.

    Attributes:
        figure: the figure; `draw` changes it.
        n_frames: number of frames.
    """

    def __init__(self, recording: Recording, title: str, figure: Figure | None = None) -> None:
        self.recording = recording
        self.n_steps = recording.task.episode_length
        self.n_frames = FRAMES_PER_STEP * self.n_steps
        self.figure = Figure(dpi=100) if figure is None else figure
        self._height = 5.8 if recording.used else 3.6  # inches
        self.figure.set_size_inches(8, self._height)
        self.figure.set_facecolor(_GROUND)
        self._weights: list[tuple[Any, np.ndarray, np.ndarray]] = []
        self._strips: list[tuple[Any, np.ndarray]] = []
        self._bands: list[Any] = []
        self._text(0.02, 0.15, title, color=_INK, fontsize=14, fontweight="bold")
        self._step = self._text(0.98, 0.18, "", color=_INK, fontsize=11, ha="right")
        self._score = self._text(0.98, self._height - 0.1, "", color=_INK, fontsize=10, ha="right", va="bottom")
        if recording.used:
            self._text(0.02, 0.55, "fast weights of each layer, the largest first", fontsize=9)
            self._add_colour_bar()
            self._add_weights(2.9, 0.98)
        self._add_time_panels(3.35 if recording.used else 0.75)
        self.draw(0)

    def _below(self, inches: float) -> float:
        """Return the height at a distance from the top of the figure, as a fraction."""
        return 1 - inches / self._height

    def _text(self, x: float, y: float, text: str, **style: Any) -> Any:
        """Write at a fraction of the width and a distance from the top in inches."""
        return self.figure.text(x, self._below(y), text, **{"color": _MUTED, "va": "top", **style})

    def _add_colour_bar(self) -> None:
        self._text(0.80, 0.55, "negative", fontsize=9, ha="right")
        self._text(0.98, 0.55, "positive", fontsize=9, ha="right")
        axes = self.figure.add_axes((0.808, self._below(0.68), 0.1, 0.02))
        axes.imshow(np.linspace(-1, 1, 31)[None], cmap=_COLOURS, aspect="auto")
        axes.set_axis_off()

    def _add_weights(self, bottom: float, top: float) -> None:
        """Add a heat map for each matrix, with the rows and columns of the largest weights first."""
        pairs = {name: _largest(used, self.recording.written[name]) for name, used in self.recording.used.items()}
        ratios = [panel_ratio(used) for used, _ in pairs.values()]
        grid = GridSpec(
            1,
            len(pairs),
            self.figure,
            left=0.02,
            right=0.98,
            bottom=self._below(bottom),
            top=self._below(top),
            wspace=0.08,
            width_ratios=ratios,
        )
        for number, (name, (used, written)) in enumerate(pairs.items()):
            scale = weight_limit(written[-1] if written[-1].any() else written)
            axes = self._panel(grid[number])
            axes.set_xticks([])
            axes.set_yticks([])
            image = axes.imshow(used[0], cmap=_COLOURS, vmin=-scale, vmax=scale, aspect="auto", interpolation="nearest")
            axes.set_title(layer_label(name), color=_INK, fontsize=9, pad=4)
            self._weights.append((image, used, written))

    def _add_time_panels(self, top: float) -> None:
        """Add the panels over the steps of the episode: observations, eta, and answers against targets."""
        recording, eta = self.recording, self.recording.eta
        observation = played_observations(recording.task, recording.episode, recording.actions)
        channels = observed_channels(recording.task, observation)
        heights = [max(np.sqrt(values.shape[-1]), 1.4) if values.ndim == 2 else 5.0 for _, values, _, _ in channels]
        heights += [0.5 * sum(heights)] * (eta is not None) + [0.9 * sum(heights)]
        grid = GridSpec(
            len(heights),
            1,
            self.figure,
            left=0.13,
            right=0.98,
            bottom=0.44 / self._height,
            top=self._below(top),
            hspace=0.16,
            height_ratios=heights,
        )
        cells = iter(grid)
        for number, (name, values, low, high) in enumerate(channels):
            axes = self._time_panel(next(cells), name)
            if number == 0:
                self._mark_steps(axes)
            self._strips.append((self._strip(axes, values), values / max(-low, high)))
        if eta is not None:
            axes = self._time_panel(next(cells), "rate η", _LABEL_BESIDE_TICKS)
            self._eta = axes.bar(range(self.n_steps), np.zeros(self.n_steps), width=0.7, color=ETA)
            axes.set_ylim(0, 1.1 * float(eta.max()) or 1.0)
            axes.locator_params(axis="y", nbins=2)
        has_names = bool(recording.task.action_names)  # which take the place of a label
        axes = self._time_panel(next(cells), "" if has_names else "action", _LABEL_BESIDE_TICKS)
        self._text(0.19, self._height - 0.12, "○ target", color=_TARGET, fontsize=9, va="bottom")
        self._text(0.28, self._height - 0.12, "● answer", color=_ANSWER, fontsize=9, va="bottom")
        self._add_answers(axes)
        gap = next((gap for gap in _GAPS if self.n_steps <= 25 * gap), self.n_steps)
        axes.set_xticks(range(0, self.n_steps, gap))
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("step", color=_MUTED, fontsize=9, labelpad=2, loc="left")

    def _mark_steps(self, axes: Axes) -> None:
        """Write above the panel where the queries begin, and what the intervention is."""
        task, intervention = self.recording.task, self.recording.intervention
        # An interactive task has no support phase before its queries.
        marks = {} if task.interactive else {task.query_start: ("first query", _MUTED, "normal")}
        if intervention is not None:
            marks[self.recording.step] = (intervention.label, intervention.colour, "bold")
        for step, (label, colour, weight) in marks.items():
            late = step > 0.7 * self.n_steps
            axes.annotate(
                label,
                (step - 0.5, 1),
                (-3 if late else 3, 2),
                xycoords=axes.get_xaxis_transform(),
                textcoords="offset points",
                color=colour,
                fontsize=9,
                fontweight=weight,
                ha="right" if late else "left",
            )

    def _strip(self, axes: Axes, values: np.ndarray) -> Any:
        axes.set_yticks([])
        height = values.shape[1] if values.ndim == 2 else 1
        return axes.imshow(
            _revealed(values, 0, self.n_steps),
            cmap=_COLOURS,
            vmin=-_STRIP_SCALE,
            vmax=_STRIP_SCALE,
            aspect="auto",
            interpolation="nearest",
            extent=(-0.5, self.n_steps - 0.5, height - 0.5, -0.5),
        )

    def _add_answers(self, axes: Axes) -> None:
        task, space = self.recording.task, self.recording.task.action_space
        if isinstance(space, spaces.Discrete):
            axes.set_ylim(-0.6, int(space.n) - 0.4)
            axes.set_yticks(range(int(space.n)), task.action_names or [str(action) for action in range(int(space.n))])
        else:
            axes.set_ylim(-1.25 * task.action_scale, 1.25 * task.action_scale)
            axes.locator_params(axis="y", nbins=4)
            axes.axhline(0, color=_BAND, linewidth=0.8, zorder=1)
        self._errors = axes.vlines([], [], [], color=_ANSWER, linewidth=1.4, zorder=2)
        (self._answers,) = axes.plot([], [], "o", color=_ANSWER, markersize=5, zorder=3)
        (self._targets,) = axes.plot([], [], "o", color=_TARGET, fillstyle="none", markersize=8.5, zorder=4)

    def _panel(self, cell: Any) -> Axes:
        axes: Axes = self.figure.add_subplot(cell, facecolor=_PANEL)
        axes.spines[:].set_color(_BAND)
        axes.tick_params(colors=_MUTED, labelsize=8, length=0, pad=3)
        return axes

    def _time_panel(self, cell: Any, label: str, label_x: float = _LABEL) -> Axes:
        axes = self._panel(cell)
        axes.set_xlim(-0.5, self.n_steps - 0.5)
        axes.set_xticks([])
        axes.tick_params(labelbottom=False)
        # A text, because the labels of ticks would push the label of an axis to the side.
        axes.text(label_x, 0.5, label, color=_MUTED, fontsize=9, ha="right", va="center", transform=axes.transAxes)
        self._bands.append(axes.axvspan(-0.5, 0.5, color=_BAND, zorder=0, linewidth=0))
        if not self.recording.task.interactive:
            axes.axvline(self.recording.task.query_start - 0.5, color=_MUTED, linestyle=":", linewidth=1, zorder=5)
        if self.recording.intervention is not None:
            axes.axvline(self.recording.step - 0.5, color=self.recording.intervention.colour, linewidth=2.5, zorder=6)
        return axes

    def draw(self, frame: int) -> None:
        """Change the figure to a frame, of which the first is 0."""
        step, has_answered = frame // FRAMES_PER_STEP, frame % FRAMES_PER_STEP == 1
        n_answered = step + has_answered
        for image, used, written in self._weights:
            image.set_data((written if has_answered else used)[step])
        for strip, values in self._strips:
            strip.set_data(_revealed(values, step + 1, self.n_steps))
        if self.recording.eta is not None:
            for t, (bar, eta) in enumerate(zip(self._eta, self.recording.eta, strict=True)):
                bar.set_height(eta if t < n_answered else 0)
        for band in self._bands:
            band.set_x(step - 0.5)
        self._draw_answers(n_answered)
        self._step.set_text(f"step {step}")
        self._score.set_text(self._result() if frame == self.n_frames - 1 else "")

    def _draw_answers(self, n_answered: int) -> None:
        task, episode, actions = self.recording.task, self.recording.episode, self.recording.actions
        steps = np.flatnonzero(episode.scored[0, :n_answered])
        scale = 1 if isinstance(task.action_space, spaces.Discrete) else task.action_scale
        answers, targets = (scale * each.reshape(self.n_steps, -1)[steps] for each in (actions, episode.target[0]))
        x = np.repeat(steps, answers.shape[1])
        points = list(zip(x, answers.ravel(), targets.ravel(), strict=True))
        self._answers.set_data(x, answers.ravel())
        self._targets.set_data(x, targets.ravel())
        self._errors.set_segments([[(at, answer), (at, target)] for at, answer, target in points])

    def _result(self) -> str:
        """Return the score of the episode, with those of the oracle and the memoryless policy."""
        task, episode = self.recording.task, self.recording.episode
        is_error = not isinstance(task.action_space, spaces.Discrete)
        network, oracle, memoryless = (
            (-1 if is_error else 1) * float(task.score(episode, actions)[0])
            for actions in (self.recording.actions[None], task.oracle(episode), task.memoryless(episode))
        )
        name = "mean squared error" if is_error else task.score_name
        # The addition turns -0.0 into 0.0.
        return (
            f"{name} {network + 0.0:.3f}   ({task.oracle_name} {oracle + 0.0:.3f}, memoryless {memoryless + 0.0:.3f})"
        )


def _largest(used: np.ndarray, written: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both arrays [T, m, n] with the rows and columns of the largest weights only, in order of their size.

    Wide matrices are transposed (see `plastic_agents.analysis.figures.upright`).
    """
    used, written = upright(used), upright(written)
    size = np.abs(written).sum(axis=0)
    rows, columns = (np.argsort(-size.sum(axis=axis), kind="stable")[:_SHOWN] for axis in (1, 0))
    return used[:, rows][:, :, columns], written[:, rows][:, :, columns]


def _revealed(values: np.ndarray, n_seen: int, n_steps: int) -> np.ndarray:
    """Return the picture of a channel [n, size] or [n, C, H, W] up to a step, blank after it."""
    if values.ndim == 2:
        picture = np.zeros((values.shape[1], n_steps))
        picture[:, :n_seen] = values[:n_seen].T
        return picture
    _, channels, height, width = values.shape
    strip = np.full((height, n_steps, width, 3), 0.1)
    images = values[:n_seen].transpose(2, 0, 3, 1)
    strip[:, : images.shape[1]] = images if channels == 3 else images[..., :1]
    return strip.reshape(height, n_steps * width, 3)
