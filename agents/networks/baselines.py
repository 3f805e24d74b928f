"""Networks without plasticity: torch's own recurrent modules behind the interface of the plastic ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from agents.networks.checks import check_inputs, check_sizes, one_step
from agents.networks.lstm import LSTMHidden
from agents.networks.output import Output
from agents.networks.rnn import RNNHidden
from agents.plasticity.state import Hooks, State, apply_hook, check_hooks, reset_state

_MODULES: dict[str, Callable[[int, int], nn.RNNBase]] = {
    "rnn": lambda inputs, hidden: nn.RNN(inputs, hidden, nonlinearity="relu"),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}


class NonPlasticNetwork(nn.Module):
    """Input layer (relu), ``torch.nn.RNN``, ``GRU`` or ``LSTM``, linear readout; all its memory is in the hidden state.

    Args:
        input_size: I.
        hidden_size: H.
        output_size: O.
        cell: ``"rnn"`` (relu), ``"gru"`` or ``"lstm"``.

    Raises:
        ValueError: a size below 1 or an unknown cell.
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int, cell: str = "rnn") -> None:
        super().__init__()
        check_sizes(input_size=input_size, hidden_size=hidden_size, output_size=output_size)
        if cell not in _MODULES:
            raise ValueError(f"cell must be one of {tuple(_MODULES)}, got {cell!r}")
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, output_size
        self.input = nn.Linear(input_size, hidden_size)
        self.recurrent = _MODULES[cell](hidden_size, hidden_size)
        self.readout = nn.Linear(hidden_size, output_size)

    def initial_state(self, batch_size: int) -> State:
        """The state at the start of ``batch_size`` episodes: hidden state zero, no fast weights."""
        zeros = self.readout.weight.new_zeros(batch_size, self.hidden_size)
        hidden = LSTMHidden(zeros, zeros) if isinstance(self.recurrent, nn.LSTM) else RNNHidden(zeros)
        return State(hidden, None)

    def step(self, x: Tensor, state: State) -> tuple[Output, State]:
        """One step, for acting. x [B, I]; output tensors have no T axis."""
        check_inputs(one_step(x), self.input_size, self.readout.weight, self.initial_state(0), state)
        inputs = torch.relu(self.input(x))
        weights: Any = self.recurrent.all_weights[0]  # of the input, then of the hidden state; then their biases
        if isinstance(self.recurrent, nn.LSTM):
            hidden: Any = LSTMHidden(*torch.lstm_cell(inputs, list(state.hidden), *weights))
        else:
            cell = torch.gru_cell if isinstance(self.recurrent, nn.GRU) else torch.rnn_relu_cell
            hidden = RNNHidden(cell(inputs, state.hidden.h, *weights))
        return Output(self.readout(hidden.h), None), State(hidden, None)

    def unroll(
        self,
        xs: Tensor,
        state: State | None = None,
        starts: Tensor | None = None,
        hooks: Hooks | None = None,
    ) -> tuple[Output, State]:
        """Run over a segment xs [T, B, I]; see `agents.networks.plastic.PlasticNetwork.unroll`."""
        batch_size = check_inputs(xs, self.input_size, self.readout.weight, self.initial_state(0), state, starts)
        state = self.initial_state(batch_size) if state is None else state
        # torch's modules run whole segments: cut where the state has to be touched in between.
        hooks = hooks or {}
        check_hooks(hooks, len(xs))
        cuts = sorted({0, *hooks, *([] if starts is None else starts.any(1).nonzero().flatten().tolist())})
        inputs = torch.relu(self.input(xs))
        hs = []
        for begin, end in zip(cuts, [*cuts[1:], len(xs)], strict=True):
            state = apply_hook(hooks, begin, state)
            if starts is not None:
                state = reset_state(state, starts[begin])
            h, state = self._run(inputs[begin:end], state)
            hs.append(h)
        return Output(self.readout(torch.cat(hs)), None), state

    def _run(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        hidden: Any = tuple(part.unsqueeze(0) for part in state.hidden)
        if isinstance(self.recurrent, nn.LSTM):
            h, hidden = self.recurrent(inputs, hidden)
        else:
            h, last = self.recurrent(inputs, hidden[0])
            hidden = (last,)
        return h, State(type(state.hidden)(*(part.squeeze(0) for part in hidden)), None)
