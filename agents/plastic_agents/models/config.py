"""`NetworkConfig`: the description of a network, which a checkpoint stores and the command line fills in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from gymnasium import spaces

from plastic_agents.models.core import RecurrentCore
from plastic_agents.models.image_encoders import EncoderConfig
from plastic_agents.models.observation_encoder import ObservationEncoder
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.update import Plasticity
from plastic_agents.models.torch_rnn import TorchRNN
from plastic_agents.plain_data import register
from plastic_envs.validation import one_of, whole_number

RuleName = Literal["none", "hebbian", "gradient"]
CellName = Literal["rnn", "gru", "lstm"]


@register
@dataclass(frozen=True)
class NetworkConfig:
    """Description of a network: an observation encoder, then a recurrent core.

    Attributes:
        rule: how the fast weights change: ``"hebbian"``, ``"gradient"``, or ``"none"`` for torch's recurrent modules.
        cell: ``"rnn"`` or ``"lstm"``; without plasticity also ``"gru"``.
        hidden_size: number of hidden units.
        plasticity: settings of the rule; unused without a rule.
        encoder: the encoder of images.

    Raises:
        TypeError, ValueError: an unknown rule or cell, or a ``hidden_size`` that is not a whole number of at least 1.
    """

    rule: RuleName = "gradient"
    cell: CellName = "rnn"
    hidden_size: int = 128
    plasticity: Plasticity = field(default_factory=Plasticity)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        one_of("rule", self.rule, get_args(RuleName))
        one_of("cell", self.cell, get_args(CellName))
        # A numpy integer becomes an int, which a checkpoint can store.
        object.__setattr__(self, "hidden_size", whole_number("hidden_size", self.hidden_size, at_least=1))

    def make_core(self, input_size: int, output_size: int) -> RecurrentCore:
        """Make the recurrent core; torch's global generator draws its parameters.

        Args:
            input_size: I, the ``out_features`` of the observation encoder.
            output_size: O.

        Raises:
            TypeError, ValueError: a size is not a whole number of at least 1, or the rule does not have the cell.
        """
        if self.rule == "none":
            return TorchRNN(input_size, self.hidden_size, output_size, self.cell)
        return PlasticNetwork(input_size, self.hidden_size, output_size, self.cell, self.rule, self.plasticity)

    def make_observation_encoder(self, observation_space: spaces.Space[Any]) -> ObservationEncoder:
        """Make the encoder of observations; torch's global generator draws its parameters.

        Raises:
            TypeError, ValueError: as `ObservationEncoder`.
        """
        return ObservationEncoder(observation_space, self.encoder)
