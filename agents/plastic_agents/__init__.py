"""Plastic recurrent networks, their training, and probes that show where their memory lives.

Names are imported at their first use: a network needs torch alone, not Stable-Baselines3 or matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from plastic_envs.version import __version__ as __version__

if TYPE_CHECKING:  # for type checkers; "as" re-exports a name
    from plastic_agents.actor_critic.a2c import RecurrentA2C as RecurrentA2C
    from plastic_agents.actor_critic.agent import PolicyAgent as PolicyAgent
    from plastic_agents.actor_critic.callbacks import EvaluationCallback as EvaluationCallback
    from plastic_agents.actor_critic.normalisation import load_vec_normalize as load_vec_normalize
    from plastic_agents.actor_critic.normalisation import save_vec_normalize as save_vec_normalize
    from plastic_agents.actor_critic.policy import RecurrentPolicy as RecurrentPolicy
    from plastic_agents.actor_critic.ppo import RecurrentPPO as RecurrentPPO
    from plastic_agents.actor_critic.schedules import CosineSchedule as CosineSchedule
    from plastic_agents.actor_critic.schedules import LinearSchedule as LinearSchedule
    from plastic_agents.actor_critic.vec_env import SB3VecEnv as SB3VecEnv
    from plastic_agents.actor_critic.vec_env import make_sb3_vec_env as make_sb3_vec_env
    from plastic_agents.analysis.agent import Agent as Agent
    from plastic_agents.analysis.controls import CONTROLS as CONTROLS
    from plastic_agents.analysis.controls import layer_interventions as layer_interventions
    from plastic_agents.analysis.figures import adaptation_figure as adaptation_figure
    from plastic_agents.analysis.interventions import INTERVENTIONS as INTERVENTIONS
    from plastic_agents.analysis.interventions import Intervention as Intervention
    from plastic_agents.analysis.probes import probe as probe
    from plastic_agents.analysis.report import InterventionResult as InterventionResult
    from plastic_agents.analysis.report import Report as Report
    from plastic_agents.analysis.report import over_seeds as over_seeds
    from plastic_agents.analysis.statistics import Estimate as Estimate
    from plastic_agents.analysis.supervised_agent import SupervisedAgent as SupervisedAgent
    from plastic_agents.analysis.tables import comparison_table as comparison_table
    from plastic_agents.analysis.tables import report_table as report_table
    from plastic_agents.analysis.tables import write_report as write_report
    from plastic_agents.analysis.traces import Trace as Trace
    from plastic_agents.analysis.traces import trace as trace
    from plastic_agents.atomic_files import write_json as write_json
    from plastic_agents.models.attention import AttentionNetwork as AttentionNetwork
    from plastic_agents.models.config import NetworkConfig as NetworkConfig
    from plastic_agents.models.core import CoreOutput as CoreOutput
    from plastic_agents.models.core import Hooks as Hooks
    from plastic_agents.models.core import RecurrentCore as RecurrentCore
    from plastic_agents.models.core import State as State
    from plastic_agents.models.plastic.network import PlasticNetwork as PlasticNetwork
    from plastic_agents.models.plastic.rule import LayerStep as LayerStep
    from plastic_agents.models.plastic.rule import MatrixUpdate as MatrixUpdate
    from plastic_agents.models.plastic.rule import PlasticityRule as PlasticityRule
    from plastic_agents.models.plastic.rule import Update as Update
    from plastic_agents.models.plastic.rule import register_rule as register_rule
    from plastic_agents.models.plastic.update import Plasticity as Plasticity
    from plastic_agents.models.torch_rnn import TorchRNN as TorchRNN
    from plastic_agents.pretrained.cards import Card as Card
    from plastic_agents.pretrained.cards import pretrained_card as pretrained_card
    from plastic_agents.pretrained.cards import pretrained_names as pretrained_names
    from plastic_agents.pretrained.load import load_pretrained as load_pretrained
    from plastic_agents.pretrained.save import save_policy as save_policy
    from plastic_agents.pretrained.save import save_pretrained as save_pretrained
    from plastic_agents.seeding import held_out_rng as held_out_rng
    from plastic_agents.training.recipes import REINFORCEMENT_RECIPES as REINFORCEMENT_RECIPES
    from plastic_agents.training.recipes import SUPERVISED_RECIPES as SUPERVISED_RECIPES
    from plastic_agents.training.recipes import ReinforcementRecipe as ReinforcementRecipe
    from plastic_agents.training.recipes import SupervisedRecipe as SupervisedRecipe
    from plastic_agents.training.reinforcement import ReinforcementLearner as ReinforcementLearner
    from plastic_agents.training.reinforcement_config import ReinforcementConfig as ReinforcementConfig
    from plastic_agents.training.supervised import SupervisedLearner as SupervisedLearner
    from plastic_agents.training.supervised_config import Curriculum as Curriculum
    from plastic_agents.training.supervised_config import SupervisedConfig as SupervisedConfig

# The module of each public name; a test compares it with the imports above.
_MODULES = {
    "CONTROLS": "analysis.controls",
    "INTERVENTIONS": "analysis.interventions",
    "REINFORCEMENT_RECIPES": "training.recipes",
    "SUPERVISED_RECIPES": "training.recipes",
    "Agent": "analysis.agent",
    "AttentionNetwork": "models.attention",
    "Card": "pretrained.cards",
    "CoreOutput": "models.core",
    "CosineSchedule": "actor_critic.schedules",
    "Curriculum": "training.supervised_config",
    "Estimate": "analysis.statistics",
    "EvaluationCallback": "actor_critic.callbacks",
    "Hooks": "models.core",
    "Intervention": "analysis.interventions",
    "InterventionResult": "analysis.report",
    "LayerStep": "models.plastic.rule",
    "LinearSchedule": "actor_critic.schedules",
    "MatrixUpdate": "models.plastic.rule",
    "NetworkConfig": "models.config",
    "PlasticNetwork": "models.plastic.network",
    "Plasticity": "models.plastic.update",
    "PlasticityRule": "models.plastic.rule",
    "PolicyAgent": "actor_critic.agent",
    "RecurrentA2C": "actor_critic.a2c",
    "RecurrentCore": "models.core",
    "RecurrentPPO": "actor_critic.ppo",
    "RecurrentPolicy": "actor_critic.policy",
    "ReinforcementConfig": "training.reinforcement_config",
    "ReinforcementLearner": "training.reinforcement",
    "ReinforcementRecipe": "training.recipes",
    "Report": "analysis.report",
    "SB3VecEnv": "actor_critic.vec_env",
    "State": "models.core",
    "SupervisedAgent": "analysis.supervised_agent",
    "SupervisedConfig": "training.supervised_config",
    "SupervisedLearner": "training.supervised",
    "SupervisedRecipe": "training.recipes",
    "TorchRNN": "models.torch_rnn",
    "Trace": "analysis.traces",
    "Update": "models.plastic.rule",
    "adaptation_figure": "analysis.figures",
    "comparison_table": "analysis.tables",
    "held_out_rng": "seeding",
    "layer_interventions": "analysis.controls",
    "load_pretrained": "pretrained.load",
    "load_vec_normalize": "actor_critic.normalisation",
    "make_sb3_vec_env": "actor_critic.vec_env",
    "over_seeds": "analysis.report",
    "pretrained_card": "pretrained.cards",
    "pretrained_names": "pretrained.cards",
    "probe": "analysis.probes",
    "register_rule": "models.plastic.rule",
    "report_table": "analysis.tables",
    "save_policy": "pretrained.save",
    "save_pretrained": "pretrained.save",
    "save_vec_normalize": "actor_critic.normalisation",
    "trace": "analysis.traces",
    "write_json": "atomic_files",
    "write_report": "analysis.tables",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("plastic_agents", "plastic_envs"):
            raise
        raise ModuleNotFoundError(
            f"{__name__}.{name} needs {error.name}, an optional dependency: "
            "run pip install -e '.[agents]' in the project's folder",
            name=error.name,
        ) from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
