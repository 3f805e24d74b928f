"""Plastic recurrent networks, their training and the probes that show where their memory lives."""

from agents import requirements as requirements
from agents.actor_critic.a2c import RecurrentA2C
from agents.actor_critic.config import ActorCriticConfig
from agents.actor_critic.player import PolicyPlayer
from agents.actor_critic.policy import RecurrentPolicy
from agents.actor_critic.ppo import RecurrentPPO
from agents.actor_critic.schedules import CosineSchedule, LinearSchedule
from agents.actor_critic.training import PolicyLearner
from agents.figures import adaptation_figure
from agents.files import replacing
from agents.networks.factory import Network, NetworkConfig
from agents.networks.output import Output
from agents.plasticity.rules import Plasticity
from agents.plasticity.state import Hooks, State
from agents.player import Player
from agents.probes import INTERVENTIONS, Report, held_out_rng, over_seeds, probe
from agents.recipes import POLICY_RECIPES, RECIPES, PolicyRecipe, Recipe
from agents.report import comparison_table, report_table, write_json, write_report
from agents.sb3_vec_env import SB3VecEnv, make_sb3_vec_env
from agents.supervised import SupervisedLearner
from agents.supervised_config import Curriculum, SupervisedConfig
from agents.task_network import TaskNetwork

__all__ = [
    "INTERVENTIONS",
    "POLICY_RECIPES",
    "RECIPES",
    "ActorCriticConfig",
    "CosineSchedule",
    "Curriculum",
    "Hooks",
    "LinearSchedule",
    "Network",
    "NetworkConfig",
    "Output",
    "Plasticity",
    "Player",
    "PolicyLearner",
    "PolicyPlayer",
    "PolicyRecipe",
    "Recipe",
    "RecurrentA2C",
    "RecurrentPPO",
    "RecurrentPolicy",
    "Report",
    "SB3VecEnv",
    "State",
    "SupervisedConfig",
    "SupervisedLearner",
    "TaskNetwork",
    "adaptation_figure",
    "comparison_table",
    "held_out_rng",
    "make_sb3_vec_env",
    "over_seeds",
    "probe",
    "replacing",
    "report_table",
    "write_json",
    "write_report",
]
