"""A recurrent core as a module of RLlib's new API stack; its state is a nested dict.

Shape letters: B sequences, T steps, I inputs, P parameters of the distribution over actions.
"""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from plastic_agents.integrations.nested_state import from_nested, to_nested
from plastic_agents.models.config import NetworkConfig
from plastic_agents.models.core import RecurrentCore, map_state


class RecurrentRLModule(TorchRLModule, ValueFunctionAPI):
    """Actor and critic in one recurrent network, for algorithms such as PPO.

    The core's outputs are the P parameters of RLlib's distribution for the action space, and the value, so the fast
    weights of a plastic network affect both. RLlib carries the state from step to step as nested dicts (see
    `plastic_agents.integrations.nested_state`), and cuts sequences at the end of episodes and at ``max_seq_len``.

    ``model_config`` has two entries: ``"network"``, a `plastic_agents.NetworkConfig`, and ``"max_seq_len"``. Choose
    ``max_seq_len`` of at least the length of an episode if gradients should reach its first step.

    Raises:
        TypeError: observations are no one-dimensional Box, or ``model_config["network"]`` is no `NetworkConfig`.
        ValueError: the network has an encoder of images.
    """

    network: RecurrentCore

    def setup(self) -> None:
        """Make the network; RLlib calls this."""
        space, config = self.observation_space, self.model_config.get("network")
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise TypeError(f"observations must be one-dimensional Boxes (flatten them first), got {space}")
        if not isinstance(config, NetworkConfig):
            raise TypeError(f'model_config["network"] must be a NetworkConfig, got {config!r}')
        distribution = self.get_train_action_dist_cls()
        parameters = distribution.required_input_dim(space=self.action_space, model_config=self.model_config)
        if config.encoder.name != "none":
            raise ValueError(f"encoder must be 'none' for observations without images, got {config.encoder.name!r}")
        self.network = config.make_core(space.shape[0], parameters + 1)

    def get_initial_state(self) -> Any:
        """Return the state at the start of one episode, without a batch axis, as numpy arrays."""
        return map_state(lambda tensor: tensor[0].cpu().numpy(), to_nested(self.network.initial_state(1)))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        y, state = self._unroll(batch)
        return {Columns.ACTION_DIST_INPUTS: y[..., :-1], Columns.STATE_OUT: state}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        y, state = self._unroll(batch)
        return {Columns.ACTION_DIST_INPUTS: y[..., :-1], Columns.STATE_OUT: state, Columns.EMBEDDINGS: y}

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Return the values [B, T], from the ``embeddings`` of `_forward_train` if RLlib gives them."""
        y = self._unroll(batch)[0] if embeddings is None else embeddings
        return y[..., -1]

    def _unroll(self, batch: dict[str, Any]) -> tuple[Tensor, Any]:
        """Return the outputs [B, T, P + 1] for observations [B, T, I], and the state after them."""
        state = from_nested(batch[Columns.STATE_IN], self.network.initial_state(1))
        output, state = self.network.unroll(batch[Columns.OBS].transpose(0, 1), state)
        return output.y.transpose(0, 1), to_nested(state)
