"""Write docs/images/fast_weights.gif: the fast weights of a trained network of the package during an episode.

python docs/generate_animations.py
"""

from __future__ import annotations

from pathlib import Path

from plastic_agents import load_pretrained
from plastic_agents.analysis.animation import EpisodeAnimation
from plastic_agents.analysis.animation_output import write_animation
from plastic_agents.analysis.recordings import record

IMAGES = Path(__file__).parent / "images"
NETWORK = "cue-reward-hebbian"
TITLE = "A Hebbian network learns the rewards of five cues"
SEED = 10


def main() -> None:
    """Write the animation."""
    animation = EpisodeAnimation(record(load_pretrained(NETWORK), seed=SEED), TITLE)
    write_animation(IMAGES / "fast_weights.gif", animation)


if __name__ == "__main__":
    main()
