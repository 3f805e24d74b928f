"""The plasticity rules. Each file has the equation, its source and one class; importing the package registers all."""

from plastic_agents.models.plastic.rules.bcm import BCM
from plastic_agents.models.plastic.rules.delta import Delta
from plastic_agents.models.plastic.rules.gated_delta import GatedDelta
from plastic_agents.models.plastic.rules.gradient import Gradient
from plastic_agents.models.plastic.rules.hebbian import Hebbian
from plastic_agents.models.plastic.rules.longhorn import Longhorn
from plastic_agents.models.plastic.rules.oja import Oja
from plastic_agents.models.plastic.rules.retroactive import Retroactive
from plastic_agents.models.plastic.rules.rls import RecursiveLeastSquares
from plastic_agents.models.plastic.rules.self_referential import SelfReferential

__all__ = [
    "BCM",
    "Delta",
    "GatedDelta",
    "Gradient",
    "Hebbian",
    "Longhorn",
    "Oja",
    "RecursiveLeastSquares",
    "Retroactive",
    "SelfReferential",
]
