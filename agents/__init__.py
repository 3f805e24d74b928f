"""Plastic recurrent networks, their training and the probes that show where their memory lives."""

from agents.figures import adaptation_figure
from agents.files import replacing
from agents.networks.factory import Network, NetworkConfig
from agents.plasticity.rules import Plasticity
from agents.probes import INTERVENTIONS, Report, probe
from agents.supervised import SupervisedConfig, SupervisedLearner
from agents.task_network import TaskNetwork

__all__ = [
    "INTERVENTIONS",
    "Network",
    "NetworkConfig",
    "Plasticity",
    "Report",
    "SupervisedConfig",
    "SupervisedLearner",
    "TaskNetwork",
    "adaptation_figure",
    "probe",
    "replacing",
]
