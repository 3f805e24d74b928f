"""Plastic recurrent networks, their training and the probes that show where their memory lives."""

from agents.figures import adaptation_figure
from agents.files import replacing
from agents.networks.factory import Network, NetworkConfig
from agents.plasticity.rules import Plasticity
from agents.probes import INTERVENTIONS, Report, over_seeds, probe
from agents.recipes import RECIPES, Recipe
from agents.report import comparison_table, report_table, write_json, write_report
from agents.supervised import Curriculum, SupervisedConfig, SupervisedLearner
from agents.task_network import TaskNetwork

__all__ = [
    "INTERVENTIONS",
    "RECIPES",
    "Curriculum",
    "Network",
    "NetworkConfig",
    "Plasticity",
    "Recipe",
    "Report",
    "SupervisedConfig",
    "SupervisedLearner",
    "TaskNetwork",
    "adaptation_figure",
    "comparison_table",
    "over_seeds",
    "probe",
    "replacing",
    "report_table",
    "write_json",
    "write_report",
]
