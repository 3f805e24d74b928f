"""The tasks, one file for each."""

from plastic_envs.tasks.cue_choice import CueChoice
from plastic_envs.tasks.cue_reward import CueReward
from plastic_envs.tasks.few_shot_classification import FewShotClassification
from plastic_envs.tasks.few_shot_regression import FewShotRegression
from plastic_envs.tasks.sequence_reproduction import SequenceReproduction

__all__ = ["CueChoice", "CueReward", "FewShotClassification", "FewShotRegression", "SequenceReproduction"]
