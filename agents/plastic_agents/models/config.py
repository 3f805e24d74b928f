"""`NetworkConfig`: the description of a network, which a checkpoint stores and the command line fills in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gymnasium import spaces

from plastic_agents.models.attention import AttentionNetwork, check_hidden_size
from plastic_agents.models.core import RecurrentCore
from plastic_agents.models.image_encoders import EncoderConfig
from plastic_agents.models.observation_encoder import ObservationEncoder
from plastic_agents.models.plastic.cells import CELLS
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.rule import RULES, make_rule
from plastic_agents.models.plastic.update import Plasticity, Settings, settings_of
from plastic_agents.models.torch_rnn import TORCH_CELLS, TorchRNN
from plastic_agents.plain_data import register
from plastic_envs.validation import one_of, whole_number

NO_PLASTICITY = "none"
ATTENTION = "attention"
_PARTS = {"plasticity": Plasticity, "encoder": EncoderConfig}  # fields of `NetworkConfig` with settings of their own


@register
@dataclass(frozen=True)
class NetworkConfig:
    """Description of a network: an observation encoder, then a recurrent core.

    Attributes:
        rule: how the fast weights change: the name of a registered rule, or ``"none"`` for a network without
            plasticity.
        cell: the recurrent cell. Without plasticity ``"rnn"``, ``"gru"`` or ``"lstm"`` for torch's recurrent modules,
            or ``"attention"`` for a small transformer.
        hidden_size: number of hidden units of a layer; a multiple of 8 for attention.
        plasticity: settings of the rule; unused without a rule.
        encoder: the encoder of images.
        n_layers: number of recurrent layers or of blocks of attention.

    Raises:
        TypeError, ValueError: an unknown rule or cell, or another field of the wrong type or out of range.
    """

    rule: str = "gradient"
    cell: str = "rnn"
    hidden_size: int = 128
    plasticity: Plasticity = field(default_factory=Plasticity)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    n_layers: int = 1

    def __post_init__(self) -> None:
        try:
            one_of("rule", self.rule, (NO_PLASTICITY, *RULES))
        except ValueError as error:
            raise ValueError(f"{error}; a rule of your own must be registered before") from None
        if self.rule == NO_PLASTICITY:
            one_of("cell of a network without plasticity", self.cell, (*TORCH_CELLS, ATTENTION))
            if self.cell == ATTENTION:
                check_hidden_size(self.hidden_size)
        else:
            one_of("cell", self.cell, tuple(CELLS))
        for name, part in _PARTS.items():
            if not isinstance(getattr(self, name), part):
                raise TypeError(f"{name} must be of class {part.__name__}, got {getattr(self, name)!r}")
        # A numpy integer becomes an int, which a checkpoint can store.
        for name in ("hidden_size", "n_layers"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), at_least=1))

    @classmethod
    def from_data(cls, data: str | Mapping[str, Any]) -> NetworkConfig:
        """Return the network that plain data describes, such as a YAML file holds it.

        Args:
            data: the name of a rule, the name of a cell without plasticity (``"lstm"``), or a dict with the fields of
                this class, in which ``plasticity`` and ``encoder`` may be dicts as well.

        Raises:
            TypeError, ValueError: an unknown name, field or value.
        """
        if isinstance(data, str):
            if data in RULES:
                return cls(rule=data)
            return cls(NO_PLASTICITY, one_of("network", data, (*TORCH_CELLS, ATTENTION, *RULES)))
        arguments = dict(data)
        for name, part in _PARTS.items():
            if isinstance(arguments.get(name), Mapping):
                arguments[name] = part(**arguments[name])
        return cls(**arguments)

    @property
    def settings(self) -> Settings:
        """The settings of plasticity, with the rule's defaults filled in."""
        return settings_of(self.plasticity, make_rule(self.rule)[1])

    def make_core(self, input_size: int, output_size: int) -> RecurrentCore:
        """Make the recurrent core; torch's global generator draws its parameters.

        Args:
            input_size: I, the ``out_features`` of the observation encoder.
            output_size: O.

        Raises:
            TypeError, ValueError: a size is not a whole number of at least 1.
        """
        if self.rule == NO_PLASTICITY and self.cell == ATTENTION:
            return AttentionNetwork(input_size, self.hidden_size, output_size, self.n_layers)
        if self.rule == NO_PLASTICITY:
            return TorchRNN(input_size, self.hidden_size, output_size, self.cell, self.n_layers)
        return PlasticNetwork(
            input_size, self.hidden_size, output_size, self.cell, self.rule, self.plasticity, self.n_layers
        )

    def make_observation_encoder(self, observation_space: spaces.Space[Any]) -> ObservationEncoder:
        """Make the encoder of observations; torch's global generator draws its parameters.

        Raises:
            TypeError, ValueError: as `ObservationEncoder`.
        """
        return ObservationEncoder(observation_space, self.encoder)
