"""Cores without plasticity: torch's own RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from plastic_agents.models.core import CoreOutput, RecurrentCore, State, map_state, zeroed
from plastic_agents.models.episode_pieces import episode_pieces
from plastic_agents.models.plastic.cells import LSTMHidden, RNNHidden
from plastic_envs.validation import whole_number

TORCH_CELLS: dict[str, Callable[[int, int, int], nn.RNNBase]] = {
    "rnn": lambda inputs, hidden, n_layers: nn.RNN(inputs, hidden, n_layers, nonlinearity="relu"),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}
# A call of torch's module takes about as long as this many more steps of one sequence.
MOST_PADDING = 50
# The activity of a relu RNN can grow at each step of padding, and must not overflow.
MOST_RELU_PADDING = 10


class TorchRNN(RecurrentCore):
    """Input layer (relu), ``torch.nn.RNN``, ``GRU`` or ``LSTM``, linear readout; its only memory is the hidden state.

    Args:
        input_size: I.
        hidden_size: H.
        output_size: O.
        cell: ``"rnn"`` (relu), ``"gru"`` or ``"lstm"``.
        n_layers: L. The state has the hidden activity of all recurrent layers side by side, [B, L H].

    Raises:
        ValueError: an unknown cell.
        TypeError, ValueError: a size is not a whole number of at least 1.
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, cell: str = "rnn", n_layers: int = 1
    ) -> None:
        super().__init__(input_size, output_size)
        self.hidden_size = whole_number("hidden_size", hidden_size, at_least=1)
        self.n_layers = whole_number("n_layers", n_layers, at_least=1)
        if cell not in TORCH_CELLS:
            raise ValueError(f"cell must be one of {tuple(TORCH_CELLS)}, got {cell!r}")
        self.input: nn.Module = nn.Linear(self.input_size, self.hidden_size)
        self.recurrent = TORCH_CELLS[cell](self.hidden_size, self.hidden_size, self.n_layers)
        self.readout: nn.Module = nn.Linear(self.hidden_size, self.output_size)

    def initial_state(self, batch_size: int) -> State:
        """Return the state at the start of ``batch_size`` episodes: hidden state zero, no fast weights."""
        zeros = next(self.recurrent.parameters()).new_zeros(batch_size, self.n_layers * self.hidden_size)
        return State(LSTMHidden(zeros, zeros.clone()) if isinstance(self.recurrent, nn.LSTM) else RNNHidden(zeros))

    def encode(self, x: Tensor) -> Tensor:
        """Return the inputs [..., H] of the first recurrent layer for x [..., I]."""
        return torch.relu(self.input(x))

    def step(self, x: Tensor, state: State) -> tuple[CoreOutput, State]:
        """Make one step; see `RecurrentCore.step`.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        self.check_step(x, state)
        return self._step(x, state)

    @torch.no_grad()
    def act(self, x: Tensor, state: State, episode_starts: Tensor | None = None) -> tuple[CoreOutput, State]:
        """Make one step without a gradient; see `RecurrentCore.act`.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        self.check_step(x, state, episode_starts)
        return self._step(x, state if episode_starts is None else self.restarted(state, episode_starts))

    def restarted(self, state: State, episode_starts: Tensor) -> State:
        """Return ``state`` with zeros, which is the initial state, where ``episode_starts`` [B] is true."""
        restarted: State = zeroed(state, episode_starts)
        return restarted

    def _step(self, x: Tensor, state: State) -> tuple[CoreOutput, State]:
        h = self.encode(x)
        layers = []
        # The weights of a layer: input weight, hidden weight, their biases.
        for hidden, weights in zip(self._split(state.hidden), self.recurrent.all_weights, strict=True):
            layer = self._cell(h, hidden, weights)
            h = layer.h
            layers.append(layer)
        joined = layers[0] if len(layers) == 1 else map_state(lambda *leaves: torch.cat(leaves, dim=-1), *layers)
        return CoreOutput(self.readout(h)), State(joined)

    def _cell(self, x: Tensor, hidden: Any, weights: Any) -> LSTMHidden | RNNHidden:
        if isinstance(self.recurrent, nn.LSTM):
            return LSTMHidden(*torch.lstm_cell(x, list(hidden), *weights))
        cell = torch.gru_cell if isinstance(self.recurrent, nn.GRU) else torch.rnn_relu_cell
        return RNNHidden(cell(x, hidden.h, *weights))

    def _split(self, hidden: Any) -> list[Any]:
        """Return the hidden state of each layer."""
        if self.n_layers == 1:
            return [hidden]
        leaves = [leaf.split(self.hidden_size, dim=-1) for leaf in hidden]
        return [type(hidden)(*layer) for layer in zip(*leaves, strict=True)]

    def unroll_segment(
        self, xs: Tensor, state: State | None, episode_starts: Tensor | None
    ) -> tuple[CoreOutput, State]:
        """Run torch's module over the pieces between episode starts; see `RecurrentCore.unroll_segment`."""
        state = self.initial_state(xs.shape[1]) if state is None else state
        inputs = self.encode(xs)
        if episode_starts is not None and episode_starts[1:].any():
            h, state = self._run_pieces(inputs, state, episode_starts)
        else:
            state = state if episode_starts is None else self.restarted(state, episode_starts[0])
            h, state = self._run(inputs, state)
        return CoreOutput(self.readout(h)), state

    def _run_pieces(self, inputs: Tensor, state: State, episode_starts: Tensor) -> tuple[Tensor, State]:
        most_padding = MOST_RELU_PADDING if isinstance(self.recurrent, nn.RNN) else MOST_PADDING
        pieces = episode_pieces(episode_starts.cpu().numpy(), most_padding)
        index = partial(torch.as_tensor, device=inputs.device)
        inputs = inputs.flatten(0, 1)
        state = _select(state, index(pieces.sequences))
        state = self.restarted(state, index(pieces.is_restart))
        outputs, finals = [], []
        for steps, finished in pieces.chunks:
            h, state = self._run(inputs[index(steps)], _select(state, slice(steps.shape[1])))
            outputs.append(h.flatten(0, 1))
            finals.append(_select(state, index(finished)))
        final = _select(map_state(lambda *leaves: torch.cat(leaves), *finals), index(pieces.finals))
        return torch.cat(outputs)[index(pieces.outputs)], final

    def _run(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        # torch's modules have the hidden state of each layer as [L, B, H].
        layers = (self.n_layers, self.hidden_size)
        hidden: Any = tuple(leaf.unflatten(-1, layers).transpose(0, 1).contiguous() for leaf in state.hidden)
        if isinstance(self.recurrent, nn.LSTM):
            h, hidden = self.recurrent(inputs, hidden)
        else:
            h, last = self.recurrent(inputs, hidden[0])
            hidden = (last,)
        return h, State(type(state.hidden)(*(leaf.transpose(0, 1).flatten(1) for leaf in hidden)))


def _select(state: State, sequences: Tensor | slice) -> State:
    selected: State = map_state(lambda leaf: leaf[sequences], state)
    return selected
