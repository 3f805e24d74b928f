"""The plastic network: input layer (relu), recurrent cell, linear readout, all four weights plastic.

Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3. Shape letters: T steps, B sequences, I inputs, H hidden
units, O outputs, R = O + extra + 1 readout units (no ``+ 1`` when unmodulated).
"""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from plastic_agents.models.core import CoreOutput, Hooks, RecurrentCore, State, zeroed
from plastic_agents.models.plastic.cells import CELLS
from plastic_agents.models.plastic.fast_weights import FastWeights, PlasticLinear
from plastic_agents.models.plastic.forms import compiled
from plastic_agents.models.plastic.forms.dense import dense_step, unroll_dense
from plastic_agents.models.plastic.forms.implicit import unroll_implicit
from plastic_agents.models.plastic.update import Plasticity, Rule
from plastic_envs.validation import whole_number

# The implicit form's work grows with the square of the steps; the dense form overtakes it at about this many.
MOST_IMPLICIT_STEPS = 80
Form = Literal["auto", "compiled", "dense", "implicit"]


class PlasticNetwork(RecurrentCore):
    """A recurrent network whose fast weights change at every step of an episode.

    Args:
        input_size: I.
        hidden_size: H.
        output_size: O.
        cell: ``"rnn"`` or ``"lstm"``.
        rule: ``"hebbian"`` or ``"gradient"``.
        plasticity: the rule's settings.

    Raises:
        ValueError: an unknown cell or rule.
        TypeError, ValueError: a size is not a whole number of at least 1.
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
        super().__init__(input_size, output_size)
        self.hidden_size = hidden_size = whole_number("hidden_size", hidden_size, at_least=1)
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {tuple(CELLS)}, got {cell!r}")
        if rule not in get_args(Rule):
            raise ValueError(f"rule of a plastic network must be one of {get_args(Rule)}, got {rule!r}")
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
        """Return the state at the start of ``batch_size`` episodes: all zero."""
        zeros = self.readout.weight.new_zeros(batch_size, self.hidden_size)
        hidden = self.cell.Hidden(*(zeros for _ in self.cell.Hidden._fields))
        return State(hidden, FastWeights(*(layer.initial_fast(batch_size) for layer in self.plastic_layers)))

    def restarted(self, state: State, episode_starts: Tensor) -> State:
        """Return ``state`` with zeros, which is the initial state, where ``episode_starts`` [B] is true."""
        restarted: State = zeroed(state, episode_starts)
        return restarted

    def step(self, x: Tensor, state: State) -> tuple[CoreOutput, State]:
        """Make one step; see `RecurrentCore.step`.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        self.check_step(x, state)
        return self._step(x, state, None, in_place=False)

    @torch.no_grad()
    def act(self, x: Tensor, state: State, episode_starts: Tensor | None = None) -> tuple[CoreOutput, State]:
        """Make one step without a gradient and overwrite ``state``; see `RecurrentCore.act`.

        A later backward pass that needs the overwritten values raises RuntimeError.

        Raises:
            TypeError, ValueError: as `unroll`.
        """
        self.check_step(x, state, episode_starts)
        return self._step(x, state, episode_starts, in_place=True)

    def _step(self, x: Tensor, state: State, episode_starts: Tensor | None, in_place: bool) -> tuple[CoreOutput, State]:
        if not torch.is_grad_enabled() and compiled.refusal(self, x, state) is None:
            readout, state, eta = compiled.step_compiled(self, x, state, episode_starts, in_place)
        else:
            state = state if episode_starts is None else self.restarted(state, episode_starts)
            readout, state, eta = dense_step(self, x, state)
        return self._output(readout, eta), state

    def unroll(
        self,
        xs: Tensor,
        state: State | None = None,
        episode_starts: Tensor | None = None,
        hooks: Hooks | None = None,
        form: Form = "auto",
    ) -> tuple[CoreOutput, State]:
        """Run over a segment xs [T, B, I] in a given form; see `RecurrentCore.unroll` for the other arguments.

        Args:
            xs: see `RecurrentCore.unroll`.
            state: see `RecurrentCore.unroll`.
            episode_starts: see `RecurrentCore.unroll`.
            hooks: see `RecurrentCore.unroll`.
            form: ``"compiled"``, ``"dense"`` or ``"implicit"`` (see `plastic_agents.models.plastic.forms`), or
                ``"auto"``, the fastest form that supports the network and the tensors.

        Raises:
            TypeError, ValueError: as `RecurrentCore.unroll`, or an unknown form.
            RuntimeError: ``form="compiled"`` without a C compiler, or with a cell, a rule or tensors that this form
                does not support.
        """
        if form not in get_args(Form):
            raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}")
        return self._unroll_between_hooks(partial(self.unroll_segment, form=form), xs, state, episode_starts, hooks)

    def unroll_segment(
        self, xs: Tensor, state: State | None, episode_starts: Tensor | None, form: Form = "auto"
    ) -> tuple[CoreOutput, State]:
        """Run over checked inputs without hooks; see `RecurrentCore.unroll_segment`."""
        readout, state, eta = self._run(xs, state, episode_starts, form)
        return self._output(readout, eta), state

    def _run(
        self, xs: Tensor, state: State | None, episode_starts: Tensor | None, form: Form
    ) -> tuple[Tensor, State, Tensor]:
        if form in ("auto", "compiled"):
            refusal = compiled.refusal(self, xs, state)
            if refusal is None:
                return compiled.unroll_compiled(self, xs, state, episode_starts)
            if form == "compiled":
                raise RuntimeError(f"form='compiled' needs {refusal}; form='auto' takes another form")
            # The faster of the two (measured in benchmarks/README.md).
            form = "implicit" if torch.is_grad_enabled() and len(xs) <= MOST_IMPLICIT_STEPS else "dense"
        begin = self.initial_state(xs.shape[1]) if state is None else state
        if form == "dense":
            return unroll_dense(self, xs, begin, episode_starts)
        return unroll_implicit(self, xs, begin, episode_starts, zero_fast=state is None)

    def _output(self, readout: Tensor, eta: Tensor) -> CoreOutput:
        return CoreOutput(readout[..., : self.output_size], eta)
