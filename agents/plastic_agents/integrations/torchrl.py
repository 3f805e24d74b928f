"""A recurrent core as a module of TorchRL; its state is in the tensordict.

Shape letters: N environments or sequences, T steps, I inputs, O outputs.
"""

from __future__ import annotations

from typing import Any

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.data import Composite, Unbounded
from torchrl.envs import TensorDictPrimer
from torchrl.modules import recurrent_mode

from plastic_agents.integrations.nested_state import from_nested, to_nested
from plastic_agents.models.core import RecurrentCore, as_core, map_state

_EPISODE_STARTS = "is_init"  # the entry of TorchRL's InitTracker


class RecurrentModule(TensorDictModuleBase):
    """A core with the interface of TorchRL's ``LSTMModule``: it reads and writes entries of a tensordict.

    A collector calls the module one step at a time. The module then reads the state from ``state_key``, restarts the
    core where ``is_init`` is true, and writes the next state to ``("next", state_key)``. Within
    ``torchrl.modules.set_recurrent_mode(True)`` (training), the last batch axis is time: the module unrolls the core
    from the state at the first step, restarts it where ``is_init`` is true, and writes no state. The environment needs
    the transforms ``InitTracker`` and `make_tensordict_primer`.

    A collector keeps the state of every step. You can exclude the states before training if every rollout starts with
    an episode: without a state, the core starts from its initial state.

    Args:
        network: a recurrent core, such as ``NetworkConfig("hebbian").make_core(I, O)``.
        in_key: entry with the inputs [..., I].
        out_key: entry for the outputs [..., O].
        state_key: entry for the state, which is nested (see `plastic_agents.integrations.nested_state`).

    Raises:
        TypeError: the network is no `RecurrentCore`.
    """

    def __init__(
        self,
        network: RecurrentCore,
        in_key: NestedKey = "observation",
        out_key: NestedKey = "memory",
        state_key: str = "recurrent_state",
    ) -> None:
        super().__init__()
        self.network = as_core("network", network)
        self.in_key, self.out_key, self.state_key = in_key, out_key, state_key
        # Shapes and structure only.
        self._like = map_state(lambda tensor: tensor.to("meta"), self.network.initial_state(1))
        state_keys = [(state_key, *names) for names in _names(to_nested(self._like))]
        self.in_keys = [in_key, *state_keys, _EPISODE_STARTS]
        self.out_keys = [out_key, *(("next", *key) for key in state_keys)]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Run one step, or in recurrent mode whole sequences; write into ``tensordict`` and return it."""
        return self._unroll(tensordict) if recurrent_mode() else self._step(tensordict)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        flat = tensordict.reshape(-1)
        episode_starts = flat[_EPISODE_STARTS].squeeze(-1)
        state = self._read(flat)
        if episode_starts.any():
            state = self.network.restarted(state, episode_starts)
        output, state = self.network.step(flat[self.in_key], state)
        flat[self.out_key] = output.y
        flat["next", self.state_key] = to_nested(state)
        return tensordict.update(flat.reshape(tensordict.shape))

    def _unroll(self, tensordict: TensorDictBase) -> TensorDictBase:
        sequences = tensordict.reshape(-1, tensordict.shape[-1])
        xs, episode_starts = (
            sequences[self.in_key].transpose(0, 1),
            sequences[_EPISODE_STARTS].squeeze(-1).transpose(0, 1),
        )
        output, _ = self.network.unroll(xs, self._read(sequences[:, 0]), episode_starts)
        y = output.y.transpose(0, 1)
        tensordict[self.out_key] = y.reshape(*tensordict.shape, y.shape[-1])
        return tensordict

    def _read(self, flat: TensorDictBase) -> Any:
        nested = flat.get(self.state_key, None)
        return self.network.initial_state(len(flat)) if nested is None else from_nested(nested, self._like)

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """Return the transform with which an environment carries the state from step to step."""

        def spec(nested: Any) -> Any:
            if isinstance(nested, dict):
                return Composite({name: spec(entry) for name, entry in nested.items()})
            return Unbounded(shape=nested.shape[1:], dtype=nested.dtype)

        return TensorDictPrimer({self.state_key: spec(to_nested(self._like))}, expand_specs=True)


def _names(nested: Any) -> list[tuple[str, ...]]:
    """Return the path to each tensor."""
    if not isinstance(nested, dict):
        return [()]
    return [(name, *path) for name, entry in nested.items() for path in _names(entry)]
