"""Rendering of an episode so far, as a picture or a table."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from gymnasium import spaces

from plastic_envs.font import text_mask
from plastic_envs.task import Array, EpisodeBatch, Task

Colour = tuple[int, int, int]

WIDTH, HEIGHT = 760, 560
_LEFT, _RIGHT = 150, 740
_HEAT_TOP, _HEAT_BOTTOM = 66, 290
_PLOT_TOP, _PLOT_BOTTOM = 350, 500
_INK: Colour = (40, 40, 40)
_GRID: Colour = (225, 225, 225)
_UNSEEN: Colour = (238, 238, 238)
_TARGET: Colour = (40, 40, 40)
# Colours of Okabe and Ito, which colour-blind readers can tell apart.
NEGATIVE: Colour = (0, 114, 178)
POSITIVE: Colour = (213, 94, 0)
ANSWER: Colour = (230, 159, 0)


def draw_episode(task: Task, episode: EpisodeBatch, actions: Array) -> Array:
    """Draw the observations so far, and the actions and targets.

    The upper panel has one column per step. Images are drawn as they are. Other channels have one row per number, blue
    below 0 and orange above, scaled to the bounds of the channel. The lower panel has the actions and targets of scored
    steps, in the task's units.

    Args:
        task: the task of the episode.
        episode: a batch of one episode.
        actions: the n actions taken so far, [n, A] or [n].

    Returns:
        uint8 [HEIGHT, WIDTH, 3].
    """
    canvas = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    score = played_rewards(task, episode, actions).sum()
    _write(canvas, 16, 12, type(task).__name__, scale=2)
    progress = f"step {len(actions)} of {task.episode_length}   reward so far {score:.3f}"
    _write(canvas, _RIGHT - _width(progress), 18, progress)
    _draw_observations(canvas, task, played_observations(task, episode, actions))
    _draw_answers(canvas, task, episode, actions)
    return canvas


def print_episode(task: Task, episode: EpisodeBatch, actions: Array) -> str:
    """Return a table of the observations, actions and rewards so far, one line per step.

    Args:
        task: the task of the episode.
        episode: a batch of one episode.
        actions: the n actions taken so far, [n, A] or [n].
    """
    observation = played_observations(task, episode, actions)
    rewards = played_rewards(task, episode, actions)
    lines = [f"{task!r}: step {len(actions)} of {task.episode_length}", ""]
    lines.append("step | " + " | ".join(name for name, _ in task.channels) + " | action | target | reward")
    for step, numbers in enumerate(observation):
        cells, start = [], 0
        for _, size in task.channels:
            cells.append(_numbers(numbers[start : start + size]))
            start += size
        is_answered = step < len(actions)
        is_rewarded = is_answered and bool(episode.scored[0, step])
        cells.append(_numbers(actions[step]) if is_answered else "?")
        cells.append(_numbers(episode.target[0, step]) if is_rewarded else "-")
        cells.append(f"{rewards[step]:.3f}" if is_rewarded else "-")
        lines.append(f"{step:4d} | " + " | ".join(cells))
    return "\n".join(lines)


def played_observations(task: Task, episode: EpisodeBatch, actions: Array) -> Array:
    """Return the observations up to the one after n actions, float32 [min(n + 1, T), D].

    `episode` is a batch of one episode.
    """
    return task.with_feedback(episode, _padded(episode, actions))[0, : len(actions) + 1]


def played_rewards(task: Task, episode: EpisodeBatch, actions: Array) -> Array:
    """Return the rewards of n actions, float64 [n]. `episode` is a batch of one episode."""
    return task.rewards(episode, _padded(episode, actions))[0, : len(actions)]


def _padded(episode: EpisodeBatch, actions: Array) -> Array:
    padded = np.zeros(episode.target.shape, dtype=np.float64 if episode.target.ndim == 3 else np.int64)
    padded[0, : len(actions)] = np.reshape(actions, (-1, *episode.target.shape[2:]))
    return padded


def _numbers(values: Array) -> str:
    return " ".join(f"{value:.0f}" if float(value).is_integer() else f"{value:.2f}" for value in np.atleast_1d(values))


def _draw_observations(canvas: Array, task: Task, observation: Array) -> None:
    _write(canvas, _LEFT, _HEAT_TOP - 20, "observations, by colour from -largest")
    bar = _LEFT + 6 * 38
    canvas[_HEAT_TOP - 22 : _HEAT_TOP - 10, bar : bar + 100] = _blend(np.arange(100) / 49.5 - 1)
    _write(canvas, bar + 108, _HEAT_TOP - 20, "to +largest")
    steps = task.episode_length
    channels = observed_channels(task, observation)
    gaps = 6 * (len(channels) - 1)
    # Heights are proportional to the root of a channel's size, so that flags beside long cues stay visible.
    weights = np.sqrt([values.shape[-1] for _, values, _, _ in channels])
    heights = np.maximum(weights / weights.sum() * (_HEAT_BOTTOM - _HEAT_TOP - gaps), 12)
    top = float(_HEAT_TOP)
    for (name, values, low, high), height in zip(channels, heights, strict=True):
        draw = _draw_images if values.ndim == 4 else _draw_numbers
        draw(canvas, values / max(-low, high), steps, top, height)
        _frame(canvas, _LEFT, round(top), _RIGHT, round(top + height))
        middle = round(top + height / 2)
        label = f"{name}: {low:.3g} to {high:.3g}"
        _write(canvas, _LEFT - 8 - _width(label), middle - 4, label)
        top += height + 6
    _draw_steps(canvas, steps, _HEAT_BOTTOM)


def observed_channels(task: Task, observation: Array) -> list[tuple[str, Array, float, float]]:
    """Return the name, the values [n, size] or [n, C, H, W] and the bounds of each channel of observations [n, D]."""
    space = task.observation_space
    if isinstance(space, spaces.Dict):
        boxes: dict[str, Any] = dict(space.items())
        values = task.observe(observation)
        return [(name, values[name], float(box.low.min()), float(box.high.max())) for name, box in boxes.items()]
    channels, start = [], 0
    for name, size in task.channels:
        entries = slice(start, start + size)
        low, high = float(space.low[entries].min()), float(space.high[entries].max())
        channels.append((name, observation[:, entries], low, high))
        start += size
    return channels


def _draw_numbers(canvas: Array, levels: Array, steps: int, top: float, height: float) -> None:
    """Draw levels [n, size] in [-1, 1] as colours, with one row per number."""
    size = levels.shape[-1]
    _fill(canvas, _LEFT, round(top), _RIGHT, round(top + height), _UNSEEN)
    rows = np.rint(top + np.arange(size + 1) * height / size).astype(int)
    columns = np.array([_column(step, steps) for step in range(len(levels) + 1)])
    region = canvas[rows[0] : rows[-1], columns[0] : columns[-1]]
    # Numbers are repeated for their pixels before `_blend`, because there can be more numbers than pixels.
    pixels = levels[np.repeat(np.arange(len(levels)), np.diff(columns))].T[np.repeat(np.arange(size), np.diff(rows))]
    region[:] = _blend(pixels[: len(region)])


def _draw_images(canvas: Array, images: Array, steps: int, top: float, height: float) -> None:
    """Draw images [n, C, H, W] with numbers in [0, 1], each in the column of its step."""
    _fill(canvas, _LEFT, round(top), _RIGHT, round(top + height), _UNSEEN)
    for step, image in enumerate(images):
        column_start, column_end = _column(step, steps), _column(step + 1, steps)
        side = max(min(column_end - column_start - 2, int(height) - 2), 1)
        rows, columns = (np.arange(side) * size // side for size in image.shape[1:])
        x, y = (column_start + column_end - side) // 2, round(top + (height - side) / 2)
        canvas[y : y + side, x : x + side] = 255 * image[:, rows[:, None], columns].transpose(1, 2, 0)


def _draw_answers(canvas: Array, task: Task, episode: EpisodeBatch, actions: Array) -> None:
    steps, space = task.episode_length, task.action_space
    if isinstance(space, spaces.Discrete):
        low, high = -0.5, float(space.n) - 0.5
        ticks = list(range(int(space.n)))
        labels = [*task.action_names] or [str(tick) for tick in ticks]
    else:
        scale = 1.15 * task.action_scale
        low, high = scale * float(space.low.min()), scale * float(space.high.max())
        ticks = [round(task.action_scale * action) for action in (-1, 0, 1)]
        labels = [f"{tick:g}" for tick in ticks]

    def height(value: float) -> int:
        fraction = (min(max(value, low), high) - low) / (high - low)
        return round(_PLOT_BOTTOM - fraction * (_PLOT_BOTTOM - _PLOT_TOP))

    _write(canvas, _LEFT, _PLOT_TOP - 18, "at scored steps:    target      answer")
    _ring(canvas, _LEFT + 6 * 18, _PLOT_TOP - 15, _TARGET)
    _disc(canvas, _LEFT + 6 * 30, _PLOT_TOP - 15, ANSWER)
    for tick, label in zip(ticks, labels, strict=True):
        y = height(tick)
        _fill(canvas, _LEFT, y, _RIGHT, y + 1, _GRID)
        _write(canvas, _LEFT - 8 - _width(label), y - 4, label)
    unit = "action" if task.action_scale == 1 else f"{task.action_scale:g} x action"
    _write(canvas, 16, (_PLOT_TOP + _PLOT_BOTTOM) // 2 - 4, unit)
    _frame(canvas, _LEFT, _PLOT_TOP, _RIGHT, _PLOT_BOTTOM)
    for step in range(len(actions)):
        if not episode.scored[0, step]:
            continue
        x = (_column(step, steps) + _column(step + 1, steps)) // 2
        targets, answers = np.atleast_1d(episode.target[0, step]), np.atleast_1d(actions[step])
        for target, answer in zip(targets * task.action_scale, answers * task.action_scale, strict=True):
            y_top, y_bottom = sorted((height(target), height(answer)))
            _fill(canvas, x, y_top, x + 1, y_bottom + 1, ANSWER)
            _disc(canvas, x, height(answer), ANSWER)
            _ring(canvas, x, height(target), _TARGET)
    _draw_steps(canvas, steps, _PLOT_BOTTOM)


def _draw_steps(canvas: Array, steps: int, bottom: int) -> None:
    """Draw the numbers of steps below a panel."""
    gap = next(gap for gap in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, steps) if steps <= 22 * gap or gap == steps)
    for step in range(0, steps, gap):
        label = str(step)
        middle = (_column(step, steps) + _column(step + 1, steps)) // 2
        _fill(canvas, middle, bottom + 1, middle + 1, bottom + 5, _INK)
        _write(canvas, middle - _width(label) // 2, bottom + 8, label)
    _write(canvas, (_LEFT + _RIGHT - _width("step")) // 2, bottom + 24, "step")


def _column(step: int, steps: int) -> int:
    """Return the left edge of a step's column."""
    return _LEFT + round(step * (_RIGHT - _LEFT) / steps)


def _blend(levels: Array) -> Array:
    """Return colours uint8 [..., 3] of levels [...], from blue at -1 over white at 0 to orange at 1."""
    levels = levels.astype(np.float64)[..., None]
    saturated = np.where(levels < 0, np.array(NEGATIVE), np.array(POSITIVE))
    return (255 + (saturated - 255) * np.minimum(np.abs(levels), 1)).astype(np.uint8)


def _fill(canvas: Array, x0: int, y0: int, x1: int, y1: int, colour: Colour) -> None:
    canvas[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = colour


def _frame(canvas: Array, x0: int, y0: int, x1: int, y1: int) -> None:
    for edge in (x0, x1):
        _fill(canvas, edge, y0, edge + 1, y1 + 1, _INK)
    for edge in (y0, y1):
        _fill(canvas, x0, edge, x1 + 1, edge + 1, _INK)


def _disc(canvas: Array, x: int, y: int, colour: Colour, radius: float = 3.5, hole: float = -1.0) -> None:
    rows, columns = _disc_pixels(radius, hole)
    canvas[np.clip(rows + y, 0, HEIGHT - 1), np.clip(columns + x, 0, WIDTH - 1)] = colour


@cache
def _disc_pixels(radius: float, hole: float) -> tuple[Array, Array]:
    """Return the rows and columns of a disc's pixels, relative to its centre."""
    half_width = int(radius) + 1
    offset = np.arange(-half_width, half_width + 1)
    distance = np.hypot(offset[:, None], offset[None, :])
    rows, columns = np.nonzero((distance <= radius) & (distance > hole))
    return rows - half_width, columns - half_width


def _ring(canvas: Array, x: int, y: int, colour: Colour) -> None:
    _disc(canvas, x, y, colour, radius=5.5, hole=3.9)


def _width(text: str) -> int:
    return int(text_mask(text).shape[1])


def _write(canvas: Array, x: int, y: int, text: str, scale: int = 1) -> None:
    mask = text_mask(text).repeat(scale, axis=0).repeat(scale, axis=1)
    region = canvas[y : y + mask.shape[0], max(x, 0) : max(x, 0) + mask.shape[1]]
    region[mask[: region.shape[0], : region.shape[1]]] = _INK
