"""``plastic-rnn watch``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from plastic_agents.cli.commands.models import Split, load_agent, model_name

# A test compares them with plastic_agents.INTERVENTIONS, which need torch.
InterventionName = Literal[
    "intact", "no_writing", "fast_erased", "hidden_erased", "fast_transplant", "hidden_transplant"
]


@dataclass(frozen=True)
class Watch:
    """Show a network at work in one episode, as an animation.

    The animation shows the observations, the fast weights of each layer, the rate eta, the answers and the targets,
    step by step, and the moment of an intervention.

    Attributes:
        model: run folder of train, the checkpoint.pt in it, a folder of save_pretrained, or the name of a network of
            plastic-rnn models.
        episode_seed: seed of the episode.
        intervention: what to do to the network's state at a step of the episode.
        step: intervene before this step; by default, before the first query.
        split: test or validation episodes.
        out: file to write, a .gif, a .mp4 (which needs ffmpeg) or a .png (the last step); by default, a window shows
            the animation.
        device: device to play on, such as cpu or cuda.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    episode_seed: int = 0
    intervention: InterventionName = "intact"
    step: int | None = None
    split: Split = "test"
    out: Path | None = None
    device: str = "cpu"

    def __call__(self) -> None:
        """Play, and show or write."""
        from plastic_agents.analysis.animation import EpisodeAnimation
        from plastic_agents.analysis.animation_output import (
            check_animation_path,
            check_display,
            show_animation,
            write_animation,
        )
        from plastic_agents.analysis.recordings import record

        if self.out is None:
            check_display()
        else:
            check_animation_path(self.out)
        recording = record(
            load_agent(self.model, self.device, self.split),
            seed=self.episode_seed,
            intervention=self.intervention,
            step=self.step,
            split=self.split,
        )
        title = model_name(self.model)
        if self.out is None:
            show_animation(recording, title)
        else:
            write_animation(self.out, EpisodeAnimation(recording, title))
            print(f"wrote {self.out}")
