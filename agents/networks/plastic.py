"""The plastic network: input layer (relu), recurrent cell, linear readout, all four weights plastic.

Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3. Shape letters: T steps, B sequences, I inputs, H hidden
units, O outputs, R = O + extra + 1 readout units (no ``+ 1`` when unmodulated).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from agents.networks.checks import check_inputs, check_sizes, check_state, one_step
from agents.networks.lstm import LSTMCell
from agents.networks.output import Output
from agents.networks.rnn import RNNCell
from agents.plasticity import kernel
from agents.plasticity.layers import PlasticLinear
from agents.plasticity.rules import Plasticity, Rule
from agents.plasticity.state import FastWeights, Hooks, State, apply_hook, check_hooks, reset_state
from agents.plasticity.unroll import dense_step, unroll_dense, unroll_implicit

CELLS: dict[str, type[RNNCell] | type[LSTMCell]] = {"rnn": RNNCell, "lstm": LSTMCell}
# The implicit form's work grows with the square of the steps; the dense form overtakes it at about this many.
MOST_IMPLICIT_STEPS = 80
Form = Literal["auto", "kernel", "dense", "implicit"]


class PlasticNetwork(nn.Module):
    """A recurrent network whose fast weights change at every step of an episode.

    It holds no episode state: `initial_state` makes one, `step` and `unroll` take one and return the next.

    Args:
        input_size: I.
        hidden_size: H.
        output_size: O.
        cell: ``"rnn"`` or ``"lstm"``.
        rule: ``"hebbian"`` or ``"gradient"``.
        plasticity: the rule's settings.

    Raises:
        ValueError: a size below 1, an unknown cell or rule.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        cell: str = "rnn",
        rule: Rule = "gradient",
        plasticity: Plasticity = Plasticity(),
    ) -> None:
        super().__init__()
        check_sizes(input_size=input_size, hidden_size=hidden_size, output_size=output_size)
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {tuple(CELLS)}, got {cell!r}")
        if rule not in get_args(Rule):
            raise ValueError(f"rule of a plastic network must be one of {get_args(Rule)}, got {rule!r}")
        self.input_size, self.hidden_size, self.output_size = input_size, hidden_size, output_size
        self.cell, self.plasticity = CELLS[cell], plasticity
        self.rule: str = rule
        readout_size = output_size + plasticity.extra + plasticity.modulated
        gates = self.cell.gates * hidden_size

        def layer(in_features: int, out_features: int, bound: float) -> PlasticLinear:
            return PlasticLinear(
                in_features, out_features, bound, plasticity.alpha_init, plastic_bias=rule == "gradient"
            )

        self.input = layer(input_size, hidden_size, hidden_size**-0.5)
        self.input_to_hidden = layer(hidden_size, gates, self.cell.bound(hidden_size))
        self.hidden_to_hidden = layer(hidden_size, gates, self.cell.bound(hidden_size))
        self.readout = layer(hidden_size, readout_size, readout_size**-0.5)
        # w_out of the inner loss; the Hebbian rule has no inner loss.
        self.readout_loss_weight: Tensor
        if rule == "gradient":
            self.readout_loss_weight = nn.Parameter(torch.ones(readout_size))
        else:
            self.register_buffer("readout_loss_weight", torch.ones(readout_size), persistent=False)

    @property
    def plastic_layers(self) -> tuple[PlasticLinear, PlasticLinear, PlasticLinear, PlasticLinear]:
        """The four layers, in the order of `FastWeights`."""
        return self.input, self.input_to_hidden, self.hidden_to_hidden, self.readout

    def initial_state(self, batch_size: int) -> State:
        """The state at the start of ``batch_size`` episodes: all zero."""
        zeros = self.readout.weight.new_zeros(batch_size, self.hidden_size)
        hidden = self.cell.Hidden(*(zeros for _ in self.cell.Hidden._fields))
        return State(hidden, FastWeights(*(layer.initial_fast(batch_size) for layer in self.plastic_layers)))

    def step(self, x: Tensor, state: State) -> tuple[Output, State]:
        """One step, for acting. x [B, I]; output tensors have no T axis.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        self._check(one_step(x), state)
        return self._step(x, state, None, in_place=False)

    @torch.no_grad()
    def step_(self, x: Tensor, state: State, starts: Tensor | None = None) -> tuple[Output, State]:
        """`step` without a gradient; may overwrite ``state``, which makes it faster.

        Where ``starts`` (bool [B]) is true an episode begins: the state is zeroed before the step. A backward pass that
        needs the overwritten values raises RuntimeError.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        self._check(one_step(x), state, one_step(starts))
        return self._step(x, state, starts, in_place=True)

    def _step(self, x: Tensor, state: State, starts: Tensor | None, in_place: bool) -> tuple[Output, State]:
        if not torch.is_grad_enabled() and kernel.refusal(self, x, state) is None:
            readout, state, eta = kernel.step_kernel(self, x, state, starts, in_place)
        else:
            readout, state, eta = dense_step(self, x, state if starts is None else reset_state(state, starts))
        return self._output(readout, eta), state

    def unroll(
        self,
        xs: Tensor,
        state: State | None = None,
        starts: Tensor | None = None,
        hooks: Hooks | None = None,
        form: Form = "auto",
    ) -> tuple[Output, State]:
        """Run over a segment, for training and probing; equal to `step` repeated.

        Args:
            xs: inputs [T, B, I].
            state: the state before the first step; ``None`` begins episodes.
            starts: bool [T, B], true where an episode begins: the state is zeroed before that step.
            hooks: by step, a function that is given the state before that step and returns the one to go on from. The
                segment is run in pieces between them. Hooks that only look, one at each step, collect all states.
            form: ``"kernel"`` (compiled, see `agents.plasticity.kernel`), ``"dense"`` or ``"implicit"`` (see
                `agents.plasticity.unroll`), or ``"auto"``, the fastest there is.

        Returns:
            The output over [T, B] and the state after the last step.

        Raises:
            TypeError: inputs or starts that are no tensors.
            ValueError: a wrong shape, dtype or device of inputs, starts or any leaf of the state (the message names
                it), an unknown form, or a hook outside the segment.
            RuntimeError: ``form="kernel"`` without a C compiler, or for a cell, a rule or tensors that it can't run.
        """
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}")
        self._check(xs, state, starts)
        hooks = hooks or {}
        check_hooks(hooks, len(xs))
        readouts, etas = [], []
        cuts = sorted({0, *hooks})
        for begin, end in zip(cuts, [*cuts[1:], len(xs)], strict=True):
            if begin in hooks:
                state = apply_hook(hooks, begin, self.initial_state(xs.shape[1]) if state is None else state)
                check_state(state, self.initial_state(0), xs.shape[1])
            piece = slice(begin, end)
            readout, state, eta = self._run(xs[piece], state, None if starts is None else starts[piece], form)
            readouts.append(readout)
            etas.append(eta)
        assert state is not None
        return self._output(torch.cat(readouts), torch.cat(etas)), state

    def _run(self, xs: Tensor, state: State | None, starts: Tensor | None, form: Form) -> tuple[Tensor, State, Tensor]:
        if form in ("auto", "kernel"):
            needs = kernel.refusal(self, xs, state)
            if needs is None:
                return kernel.unroll_kernel(self, xs, state, starts)
            if form == "kernel":
                raise RuntimeError(f"form='kernel' needs {needs}; form='auto' takes another form")
            # The faster of the two, as measured (see benchmarks/README.md).
            form = "implicit" if torch.is_grad_enabled() and len(xs) <= MOST_IMPLICIT_STEPS else "dense"
        first = self.initial_state(xs.shape[1]) if state is None else state
        if form == "dense":
            return unroll_dense(self, xs, first, starts)
        return unroll_implicit(self, xs, first, starts, fresh=state is None)

    def _check(self, xs: Tensor, state: State | None, starts: Tensor | None = None) -> None:
        check_inputs(xs, self.input_size, self.readout.weight, self.initial_state(0), state, starts)

    def _output(self, readout: Tensor, eta: Tensor) -> Output:
        return Output(readout[..., : self.output_size], eta)
