"""Networks made from a description, so that a checkpoint and a command line can name one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from plastic_agents.models.core import RecurrentCore
from plastic_agents.models.image_core import ImageCore
from plastic_agents.models.image_encoders import EncoderConfig, ImageShape
from plastic_agents.models.plastic.network import PlasticNetwork
from plastic_agents.models.plastic.update import Plasticity
from plastic_agents.models.torch_rnn import TorchRNN
from plastic_agents.plain_data import register

RuleName = Literal["none", "hebbian", "gradient"]


@register
@dataclass(frozen=True)
class NetworkConfig:
    """Description of a network.

    Attributes:
        rule: how its fast weights change: ``"hebbian"``, ``"gradient"``, or ``"none"``: torch's own recurrent modules.
        cell: ``"rnn"`` or ``"lstm"``; without plasticity also ``"gru"``.
        hidden_size: number of hidden units.
        plasticity: settings of the rule; unused without one.
        encoder: what images go through before they reach the network.
    """

    rule: RuleName = "gradient"
    cell: Literal["rnn", "gru", "lstm"] = "rnn"
    hidden_size: int = 128
    plasticity: Plasticity = field(default_factory=Plasticity)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        if self.rule not in get_args(RuleName):
            raise ValueError(f"rule must be one of {get_args(RuleName)}, got {self.rule!r}")

    def make(self, input_size: int, output_size: int, image_shape: ImageShape | None = None) -> RecurrentCore:
        """Make the network, its parameters drawn from torch's global generator.

        Args:
            input_size: I.
            output_size: O.
            image_shape: C, H, W of the image with which inputs begin, where they do.

        Raises:
            ValueError: an unknown cell, a size below 1, or an encoder without images, or with images too small for it.
        """
        if self.encoder.name == "none":
            return self._make_core(input_size, output_size)
        if image_shape is None:
            raise ValueError(f"encoder must be left out where observations hold no image, got {self.encoder.name!r}")
        encoder = self.encoder.make(image_shape)
        core = self._make_core(input_size - math.prod(image_shape) + encoder.features, output_size)
        return ImageCore(encoder, core, image_shape, self.encoder.frozen)

    def _make_core(self, input_size: int, output_size: int) -> RecurrentCore:
        if self.rule == "none":
            return TorchRNN(input_size, self.hidden_size, output_size, self.cell)
        return PlasticNetwork(input_size, self.hidden_size, output_size, self.cell, self.rule, self.plasticity)
