"""The tasks, one file for each."""

from plastic_envs.tasks.bandit import Bandit
from plastic_envs.tasks.cue_choice import CueChoice
from plastic_envs.tasks.cue_reward import CueReward
from plastic_envs.tasks.few_shot_classification import FewShotClassification
from plastic_envs.tasks.few_shot_regression import FewShotRegression
from plastic_envs.tasks.harlow import Harlow
from plastic_envs.tasks.sequence_reproduction import SequenceReproduction

__all__ = [
    "Bandit",
    "CueChoice",
    "CueReward",
    "FewShotClassification",
    "FewShotRegression",
    "Harlow",
    "SequenceReproduction",
]
