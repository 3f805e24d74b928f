"""The tasks, one file each."""

from plastic_envs.tasks.cue_reward import CueReward

__all__ = ["CueReward"]
