"""The plastic network: input layer (relu), recurrent layers, linear readout, any of them plastic.

Source: Duan et al. (ICLR 2023, arXiv 2302.03235), section 3. Shape letters: T steps, B sequences, I inputs, H hidden
units, L recurrent layers, O outputs, R = O + extra + 1 readout units (no ``+ 1`` when unmodulated).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from plastic_agents.models.core import CoreOutput, Hooks, RecurrentCore, State, map_state, with_restarts, zeroed
from plastic_agents.models.plastic.cells import CELLS
from plastic_agents.models.plastic.fast_weights import PlasticLinear
from plastic_agents.models.plastic.forms import compiled
from plastic_agents.models.plastic.forms.dense import dense_layers, dense_step, unroll_dense
from plastic_agents.models.plastic.forms.implicit import unroll_implicit
from plastic_agents.models.plastic.rule import PlasticityRule, make_rule
from plastic_agents.models.plastic.step import network_step
from plastic_agents.models.plastic.update import Plasticity, settings_of
from plastic_agents.models.plastic.update_checks import check_finite, check_initial_state
from plastic_envs.validation import whole_number

# The implicit form's work grows with the square of the steps; the dense form overtakes it at about this many.
MOST_IMPLICIT_STEPS = 80
Form = Literal["auto", "compiled", "dense", "implicit"]


class PlasticNetwork(RecurrentCore):
    """A recurrent network whose fast weights change at every step of an episode.

    The names of its layers are ``"input"``, ``"input_to_hidden"``, ``"hidden_to_hidden"`` and ``"readout"``. With
    several recurrent layers, those of the second and later ones end in ``"_2"`` and so on. ``State.hidden`` has the
    hidden activity of all recurrent layers side by side, [B, L H]. ``State.fast`` has a
    `plastic_agents.models.plastic.fast_weights.FastWeight` for each plastic layer, by name.

    Args:
        input_size: I.
        hidden_size: H.
        output_size: O.
        cell: ``"rnn"`` (relu), ``"tanh_rnn"``, ``"lstm"``, ``"gru"``, ``"mgu"`` (minimal gated unit) or ``"linear"``
            (no recurrence).
        rule: the name of a registered rule (`plastic_agents.models.plastic.rule.RULES`), or a rule.
        plasticity: settings; what is None there comes from the rule.
        n_layers: L.

    Raises:
        TypeError, ValueError: an unknown cell or rule, a rule whose update is wrong (the message says what is), or
            a size that is not a whole number of at least 1.
    """

    readout: PlasticLinear

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        cell: str = "rnn",
        rule: str | PlasticityRule = "gradient",
        plasticity: Plasticity = Plasticity(),
        n_layers: int = 1,
    ) -> None:
        super().__init__(input_size, output_size)
        self.hidden_size = hidden_size = whole_number("hidden_size", hidden_size, at_least=1)
        n_layers = whole_number("n_layers", n_layers, at_least=1)
        if cell not in CELLS:
            raise ValueError(f"cell must be one of {tuple(CELLS)}, got {cell!r}")
        self.rule_name, self.rule = make_rule(rule)
        self.cell, self.plasticity, self.settings = CELLS[cell], plasticity, settings_of(plasticity, self.rule)
        readout_size = output_size + plasticity.extra + plasticity.modulated
        gates = self.cell.gates * hidden_size
        suffixes = ["", *(f"_{number}" for number in range(2, n_layers + 1))]
        # The names of the two layers of each recurrent cell.
        self.recurrent_layers = [(f"input_to_hidden{suffix}", f"hidden_to_hidden{suffix}") for suffix in suffixes]
        # Numbers of outputs, without those that a layer has for its rule alone.
        self.output_sizes: dict[str, int] = {}
        self._layer_names: list[str] = []
        self.rule_parameters = nn.ModuleDict()
        self.rule_shapes: dict[str, dict[str, tuple[int, ...]]] = {}  # of the rule's state, by layer

        self._add_layer("input", input_size, hidden_size, hidden_size**-0.5)
        for to_hidden, recurrent in self.recurrent_layers:
            self._add_layer(to_hidden, hidden_size, gates, self.cell.bound(hidden_size))
            self._add_layer(recurrent, hidden_size, gates, self.cell.bound(hidden_size))
        self._add_layer("readout", hidden_size, readout_size, readout_size**-0.5)
        if self.rule.uses_loss_gradient:
            self.readout_loss_weight = nn.Parameter(torch.ones(readout_size))  # w_out of the inner loss
        self._check_rule()

    def _add_layer(self, name: str, n_in: int, n_out: int, bound: float) -> None:
        plastic = name.rstrip("_0123456789") in self.settings.layers
        extra = self.rule.extra_outputs(n_in, n_out) if plastic else 0
        layer = PlasticLinear(
            n_in, n_out + extra, bound, self.settings.alpha_init, self.rule.plastic_bias, plastic=plastic
        )
        self.output_sizes[name] = n_out
        self._layer_names.append(name)
        self.add_module(name, layer)
        if plastic:
            self.rule_parameters[name] = self.rule.make_parameters(n_in, n_out + extra)
            state = self.rule.initial_state(self.rule_parameters[name], n_in, n_out + extra)
            check_initial_state(self.rule_name, name, state)
            self.rule_shapes[name] = {key: tuple(value.shape) for key, value in state.items()}

    @torch.no_grad()
    def _check_rule(self) -> None:
        """Make one step of two sequences, so that a wrong rule raises its error now."""
        weight = self.readout.weight
        x = torch.randn(2, self.input_size, generator=torch.Generator().manual_seed(0), device="cpu").to(weight)
        state = self.initial_state(len(x))
        result = network_step(self, *dense_layers(self, state.fast), x, state.hidden)
        if not x.is_meta:
            for name, update in result.updates.items():
                check_finite(self.rule_name, name, update)

    @property
    def layers(self) -> dict[str, PlasticLinear]:
        """All layers, by name, in the order from the input to the readout."""
        return {name: getattr(self, name) for name in self._layer_names}

    def initial_state(self, batch_size: int) -> State:
        """Return the state at the start of ``batch_size`` episodes: zero, with the rule's own initial state."""
        shape = (batch_size, len(self.recurrent_layers) * self.hidden_size)
        fast = {
            name: layer.initial_fast(batch_size, self.initial_rule_state(name))
            for name, layer in self.layers.items()
            if layer.plastic
        }
        # Each field has a tensor of its own, so that a user may change one in place.
        hidden = self.cell.Hidden(*(self.readout.weight.new_zeros(shape) for _ in self.cell.Hidden._fields))
        return State(hidden, fast)

    def initial_rule_state(self, name: str) -> dict[str, Tensor]:
        """Return the rule's state in a layer at the start of an episode: vectors [n] and matrices [n, m], by name."""
        if not self.rule_shapes[name]:
            return {}
        weight = getattr(self, name).weight
        state = self.rule.initial_state(self.rule_parameters[name], *weight.shape)
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        if shapes != self.rule_shapes[name]:  # a parameter may have been replaced
            raise ValueError(
                f"the initial state of rule {self.rule_name} in layer {name} must have the shapes "
                f"{self.rule_shapes[name]}, got {shapes}"
            )
        return {key: value.to(weight) for key, value in state.items()}

    def restarted(self, state: State, episode_starts: Tensor) -> State:
        """Return ``state`` with the initial state where ``episode_starts`` [B] is true."""
        zero: State = zeroed(state, episode_starts)
        before = {name: fast.rule or {} for name, fast in state.fast.items()}
        after = self.restarted_rule_state(before, episode_starts)
        return zero._replace(fast={name: fast._replace(rule=after[name] or None) for name, fast in zero.fast.items()})

    def restarted_rule_state(
        self, rule_state: Mapping[str, Mapping[str, Tensor]], episode_starts: Tensor
    ) -> dict[str, dict[str, Tensor]]:
        """Return the rule's state, by layer and name, with the initial one where ``episode_starts`` [B] is true."""
        return {
            name: with_restarts(before, self.initial_rule_state(name), episode_starts) if before else {}
            for name, before in rule_state.items()
        }

    def split_hidden(self, hidden: Any) -> list[Any]:
        """Return the hidden state of each recurrent layer."""
        parts = [leaf.split(self.hidden_size, dim=-1) for leaf in hidden]
        return [self.cell.Hidden(*leaves) for leaves in zip(*parts, strict=True)]

    def join_hidden(self, hiddens: Sequence[Any]) -> Any:
        """Undo `split_hidden`."""
        return hiddens[0] if len(hiddens) == 1 else map_state(lambda *leaves: torch.cat(leaves, dim=-1), *hiddens)

    def pad_extra(self, name: str, d: Tensor) -> Tensor:
        """Return ``d`` [B, M] with zeros for the layer's extra outputs, [B, M + E]."""
        extra = self.layers[name].out_features - self.output_sizes[name]
        return d if extra == 0 else torch.nn.functional.pad(d, (0, extra))

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
        kernel = "" if torch.is_grad_enabled() else compiled.find(self, x, state)
        if not isinstance(kernel, str):
            readout, state, eta = compiled.step_compiled(self, kernel, x, state, episode_starts, in_place)
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
            RuntimeError: a form that does not support the network or the tensors, or ``form="compiled"`` without a C
                compiler; the message says what the form needs.
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

    def refusal(self, form: str, xs: Tensor, state: State | None) -> str | None:
        """Return what a form needs to run this network on these tensors, or None if it can run."""
        if form == "compiled":
            return compiled.refusal(self, xs, state)
        matrices = sorted({key for shapes in self.rule_shapes.values() for key in shapes if len(shapes[key]) == 2})
        if form == "implicit" and matrices:
            return f"a rule whose state has no matrices, got {self.rule_name} with {', '.join(matrices)}"
        return None

    def _run(
        self, xs: Tensor, state: State | None, episode_starts: Tensor | None, form: Form
    ) -> tuple[Tensor, State, Tensor]:
        if form == "auto":
            # From the fastest to the slowest (measured in benchmarks/README.md).
            short = torch.is_grad_enabled() and len(xs) <= MOST_IMPLICIT_STEPS
            forms: tuple[Form, ...] = ("compiled", "implicit") if short else ("compiled",)
            form = next((name for name in forms if self.refusal(name, xs, state) is None), "dense")
        elif (needs := self.refusal(form, xs, state)) is not None:
            raise RuntimeError(f"form={form!r} needs {needs}; form='auto' takes another form")
        if form == "compiled":
            return compiled.unroll_compiled(self, xs, state, episode_starts)
        begin = self.initial_state(xs.shape[1]) if state is None else state
        if form == "dense":
            return unroll_dense(self, xs, begin, episode_starts)
        return unroll_implicit(self, xs, begin, episode_starts, zero_fast=state is None)

    def _output(self, readout: Tensor, eta: Tensor) -> CoreOutput:
        return CoreOutput(readout[..., : self.output_size], eta)
