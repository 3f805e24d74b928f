"""`LstmPolicy`: the policy of sb3-contrib's ``RecurrentPPO``, by the names of its arguments."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from plastic_agents.actor_critic.heads import NetArch
from plastic_agents.actor_critic.policy import RecurrentPolicy
from plastic_agents.models.torch_rnn import TorchRNN
from plastic_envs.validation import whole_number

# Arguments of sb3-contrib's policies, with those of `RecurrentPolicy` in their place.
_EQUIVALENTS = {
    "lstm_hidden_size": "'network': NetworkConfig('none', 'lstm', hidden_size=...)",
    "n_lstm_layers": "'network': NetworkConfig('none', 'lstm', n_layers=...)",
    "shared_lstm": "'critic': 'shared'",
    "enable_critic_lstm": "'critic': 'separate' or 'feedforward'",
    "lstm_kwargs": "'network': a function that makes a core of your own",
}


class LstmCore(TorchRNN):
    """An LSTM whose outputs are the activities of its last layer, without an input layer and a readout.

    Args:
        input_size: I.
        hidden_size: H, also the number of outputs.
        n_layers: number of layers.
    """

    def __init__(self, input_size: int, hidden_size: int, n_layers: int) -> None:
        super().__init__(input_size, hidden_size, hidden_size, "lstm", n_layers)
        self.input, self.readout = nn.Identity(), nn.Identity()
        self.recurrent = nn.LSTM(self.input_size, self.hidden_size, self.n_layers)

    def encode(self, x: Tensor) -> Tensor:
        """Return the inputs x [..., I] as they are."""
        return x


class LstmPolicy(RecurrentPolicy):
    """The network of sb3-contrib's ``MlpLstmPolicy``, with its arguments.

    The features go into an LSTM, its hidden activity into a perceptron for the action and one for the value.

    Args:
        observation_space, action_space, lr_schedule: as in `RecurrentPolicy`.
        lstm_hidden_size: number of hidden units of a layer.
        n_lstm_layers: number of layers.
        shared_lstm: whether the critic uses the actor's LSTM, which its loss then trains too, unlike in sb3-contrib.
        enable_critic_lstm: whether the critic has an LSTM of its own. If both are False, it has a linear layer without
            memory.
        net_arch: sizes of the hidden layers that follow the LSTM, as in `LatentHeads`; ``None`` for two layers of 64,
            or for none if observations are images.
        lstm_kwargs: only ``dropout``, which has no effect, because rollouts and updates run in evaluation mode.
        **kwargs: other arguments of `RecurrentPolicy`.

    Raises:
        TypeError: ``network``, ``critic``, ``outputs`` or ``latent_size`` is given, or a setting of state-dependent
            exploration, or a number is no whole number.
        ValueError: a number is less than 1, ``shared_lstm`` together with ``enable_critic_lstm`` or with separate
            features extractors, or an unknown entry of ``lstm_kwargs``.
    """

    _heads_activate_inputs = False

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        lstm_hidden_size: int = 256,
        n_lstm_layers: int = 1,
        shared_lstm: bool = False,
        enable_critic_lstm: bool = True,
        net_arch: NetArch = None,
        lstm_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("network", "critic", "outputs", "latent_size"):
            if name in kwargs:
                raise TypeError(f"{name} is no argument of an LSTM policy: use 'MlpPolicy' in its place")
        for name in ("full_std", "use_expln", "squash_output"):
            if name in kwargs:
                raise TypeError(f"{name} is for state-dependent exploration, which the recurrent policies do not have")
        if shared_lstm and enable_critic_lstm:
            raise ValueError("enable_critic_lstm must be False for shared_lstm=True: the critic uses the actor's LSTM")
        self._check_lstm_kwargs(lstm_kwargs or {})
        lstm_hidden_size = whole_number("lstm_hidden_size", lstm_hidden_size, at_least=1)
        n_lstm_layers = whole_number("n_lstm_layers", n_lstm_layers, at_least=1)
        kwargs.setdefault("skip_connection", False)  # sb3-contrib's policy has none
        if net_arch is None:
            has_images = is_image_space(observation_space, normalized_image=not kwargs.get("normalize_images", True))
            net_arch = [] if has_images else [64, 64]
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            network=lambda n_inputs, n_outputs: LstmCore(n_inputs, n_outputs, n_lstm_layers),
            critic="shared" if shared_lstm else "separate" if enable_critic_lstm else "feedforward",
            latent_size=lstm_hidden_size,
            net_arch=net_arch,
            **kwargs,
        )

    @staticmethod
    def _check_lstm_kwargs(lstm_kwargs: Mapping[str, Any]) -> None:
        unknown = lstm_kwargs.keys() - {"dropout"}
        if unknown:
            raise ValueError(f"lstm_kwargs must have no entry but 'dropout', got {dict(lstm_kwargs)!r}")
        if lstm_kwargs.get("dropout"):
            warnings.warn(
                "lstm_kwargs={'dropout': ...} has no effect: rollouts and updates run the policy in evaluation mode",
                stacklevel=4,
            )


def check_no_lstm_arguments(policy_kwargs: Mapping[str, Any]) -> None:
    """Check the arguments of a `RecurrentPolicy`; the error names the equivalent of one that only `LstmPolicy` has.

    Raises:
        TypeError: ``policy_kwargs`` has such an argument.
    """
    for name, equivalent in _EQUIVALENTS.items():
        if name in policy_kwargs:
            raise TypeError(
                f"{name} is an argument of 'MlpLstmPolicy': use that policy, or policy_kwargs={{{equivalent}}}"
            )
