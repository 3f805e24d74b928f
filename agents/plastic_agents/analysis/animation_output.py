"""Animations as files (GIF, MP4, PNG) and in a window."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.animation import FFMpegWriter, FuncAnimation
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from plastic_agents.analysis.animation import EpisodeAnimation
from plastic_agents.analysis.gif import write_gif
from plastic_agents.analysis.recordings import Recording
from plastic_agents.atomic_files import replacing
from plastic_envs.validation import one_of

SUFFIXES = (".gif", ".mp4", ".png")
MILLISECONDS = 300  # of a frame
_LAST_FRAME = 3000  # milliseconds


def check_animation_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of an animation.

    Raises:
        ValueError: its suffix is unknown, or ffmpeg, which an MP4 needs, is not installed.
    """
    path = Path(path)
    one_of("suffix of an animation", path.suffix.lower(), SUFFIXES)
    if path.suffix.lower() == ".mp4" and not FFMpegWriter.isAvailable():
        raise ValueError(f"an MP4 needs the program ffmpeg, which is not installed: choose a .gif instead of {path}")
    return path


def write_animation(path: str | os.PathLike[str], animation: EpisodeAnimation) -> None:
    """Write an animation, atomically: as GIF or MP4, or its last frame as PNG, by the suffix of the path.

    Raises:
        ValueError: as `check_animation_path` does.
    """
    path = check_animation_path(path)
    suffix = path.suffix.lower()
    with replacing(path) as temporary:
        if suffix == ".png":
            Image.fromarray(render(animation, animation.n_frames - 1)).save(temporary, "PNG")
        elif suffix == ".gif":
            milliseconds = [MILLISECONDS] * (animation.n_frames - 1) + [_LAST_FRAME]
            write_gif(temporary, partial(render, animation), milliseconds)
        else:
            writer = FFMpegWriter(fps=round(1000 / MILLISECONDS), extra_args=["-pix_fmt", "yuv420p"])
            with writer.saving(animation.figure, str(temporary), dpi=100):
                for frame in range(animation.n_frames):
                    animation.draw(frame)
                    writer.grab_frame(facecolor=animation.figure.get_facecolor())


def check_display() -> None:
    """Check that Matplotlib can open a window.

    Raises:
        ValueError: there is no display, or Matplotlib has no library for windows.
    """
    figure = pyplot.figure()
    framework = getattr(figure.canvas, "required_interactive_framework", None)
    pyplot.close(figure)
    if framework is None:
        raise ValueError("a window needs a display and a library such as PyQt: give --out, such as --out episode.gif")


def show_animation(recording: Recording, title: str) -> None:
    """Show an episode in a window, again and again until the window is closed.

    Raises:
        ValueError: there is no display, or Matplotlib has no library for windows.
    """
    check_display()
    figure = pyplot.figure()
    if figure.canvas.manager is not None:
        figure.canvas.manager.set_window_title(title)
    animation = EpisodeAnimation(recording, title, figure)

    def draw(frame: int) -> list[Artist]:
        animation.draw(frame)
        return []

    # The window plays as long as there is a reference to the object.
    player = FuncAnimation(figure, draw, animation.n_frames, interval=MILLISECONDS, repeat_delay=_LAST_FRAME)
    pyplot.show()
    del player


def render(animation: EpisodeAnimation, frame: int) -> np.ndarray:
    """Return a frame as a picture, uint8 [height, width, 3]."""
    animation.draw(frame)
    canvas: Any = FigureCanvasAgg(animation.figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
