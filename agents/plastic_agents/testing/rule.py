"""Checks for a plasticity rule of your own; a failed check raises AssertionError with the fault and the numbers.

Shape letters: T steps, B sequences, I inputs.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor, nn

from plastic_agents.integrations.nested_state import from_nested, to_nested
from plastic_agents.models.core import CoreOutput, State, map_state
from plastic_agents.models.plastic.forms.dense import dense_step
from plastic_agents.models.plastic.network import Form, PlasticNetwork
from plastic_agents.models.plastic.reference import reference_unroll
from plastic_agents.models.plastic.rule import LayerStep, MatrixUpdate, PlasticityRule, Update, make_rule
from plastic_agents.models.plastic.update import LAYER_KINDS, Plasticity
from plastic_agents.testing.core import check_core

Run = Callable[..., tuple[CoreOutput, State]]
Segment = tuple[Tensor, State | None, Tensor | None]  # inputs, state, episode starts

_STEPS = 4
_SEQUENCES = 3
_TOLERANCE = 1e-8  # of two float64 computations of the same numbers, relative to the largest
_LONG_STEPS = 500
_LONG_TOLERANCE = 1e-2  # of float32 beside float64; rounding alone gives about 1e-6
_LARGEST_OUTPUT = 1e4  # of a new network, for inputs of order one


def check_rule(rule: str | PlasticityRule, *, cells: Sequence[str] = ("rnn", "lstm"), seed: int = 0) -> None:
    """Check that a rule keeps the promises of `plastic_agents.models.plastic.rule.PlasticityRule`.

    The function makes two small networks of each cell: one with one recurrent layer, in which the layers that the rule
    changes by default are plastic, and one with two recurrent layers, in which all layers are. In float64, it checks
    that

    - the tensors of an update have the dtype and the device of the network;
    - the update depends on nothing but the step: it keeps no memory, and sequences do not depend on each other;
    - episode starts restore the initial state, with the rule's own state;
    - the larger network passes `plastic_agents.testing.check_core`;
    - every form equals the slow reference, forward and backward, with and without a gradient;
    - the gradient is that of finite differences, and `torch.func` can compute it for a batch of parameters;
    - a network of zeros gives finite numbers, forward and backward;
    - the state can be saved, loaded, and passed through the integrations.

    Then it runs a new network of the first cell over 500 steps, and checks that outputs stay small and float32 stays
    near float64.

    Args:
        rule: the name of a registered rule, or a rule.
        cells: the cells of the networks; see `plastic_agents.models.plastic.network.PlasticNetwork`.
        seed: seed of the networks and inputs.

    Raises:
        TypeError, ValueError: the rule is unknown, or its update is wrong in a way that every network refuses.
        AssertionError: the rule breaks one of the promises.
    """
    name, rule = make_rule(rule)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for cell in cells:
            for n_layers, layers in ((1, rule.layers or LAYER_KINDS), (2, LAYER_KINDS)):
                network = PlasticNetwork(3, 5, 2, cell, rule, Plasticity(layers=layers, extra=1), n_layers)
                location = f"{n_layers} recurrent layer{'s'[: n_layers - 1]}, plastic in {', '.join(layers)}"
                with _location(f"rule {name}, cell {cell}, {location}"):
                    _check_network(network.double())
            small = PlasticNetwork(2, 3, 1, cell, rule, Plasticity(extra=1)).double()
            with _location(f"rule {name}, cell {cell}"):
                _check_finite_differences(small)
                _check_function_transforms(small)
        with _location(f"rule {name}, cell {cells[0]}"):
            _check_long_segment(PlasticNetwork(3, 17, 2, cells[0], rule))


@contextmanager
def _location(location: str) -> Iterator[None]:
    """Add to the message of an AssertionError which network or form the error is about."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{location}: {error}") from error.__cause__


def _check_network(network: PlasticNetwork) -> None:
    xs = torch.randn(_STEPS, _SEQUENCES, network.input_size, dtype=torch.float64)
    _check_tensors(network, xs[0])
    state = _some_state(network, xs)
    runs = {form: partial(network.unroll, form=form) for form in _forms(network, xs, state)}
    for form, run in runs.items():
        with _location(f"form {form}"):
            _check_purity(run, xs, state)
            _check_sequences(run, xs, state)
            _check_restart(run, network, xs, state)
    episode_starts = torch.zeros(xs.shape[:2], dtype=torch.bool)
    episode_starts[1, 0] = episode_starts[3, 1] = True
    for segment in ((xs, state, None), (xs, state, episode_starts), (xs, None, episode_starts)):
        expected = _gradients(partial(reference_unroll, network), network, segment)
        for form, run in runs.items():
            with _location(f"form {form}"):
                _check_equals_reference(run, network, segment, expected)
    for form in runs:
        with _location(f"form {form}"):
            _check_zero(network, torch.zeros_like(xs), form)
    if len(network.recurrent_layers) > 1:
        check_core(network)
    _check_round_trip(network, xs, state)


def _forms(network: PlasticNetwork, xs: Tensor, state: State) -> list[Form]:
    """Return the forms that can run the network."""
    forms: tuple[Form, ...] = get_args(Form)
    return [form for form in forms if form != "auto" and network.refusal(form, xs, state) is None]


@torch.no_grad()
def _some_state(network: PlasticNetwork, xs: Tensor) -> State:
    """Return a state in the middle of an episode."""
    return network.unroll(torch.randn_like(xs), form="dense")[1]


class _Recorder:
    """A rule that records its updates."""

    def __init__(self, rule: PlasticityRule) -> None:
        self.rule = rule
        self.updates: list[Update] = []

    def update(self, step: LayerStep) -> Update:
        self.updates.append(self.rule.update(step))
        return self.updates[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rule, name)


@torch.no_grad()
def _check_tensors(network: PlasticNetwork, x: Tensor) -> None:
    """Check dtypes in a bfloat16 network, and devices in one on the meta device; constants have neither."""
    for target, attribute in ((torch.bfloat16, "dtype"), (torch.device("meta"), "device")):
        moved: Any = copy.deepcopy(network).to(target)
        moved.rule = recorder = _Recorder(moved.rule)
        failure: Exception | None = None
        try:
            dense_step(moved, x.to(target), moved.initial_state(len(x)))
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            failure = error
        promise = f"an update's tensors must have the {attribute} of the layer's input, for example by new_zeros of it"
        for update in recorder.updates:
            for name, tensor in _named_tensors(update):
                actual = getattr(tensor, attribute)
                assert actual == target, f"{promise}, got {name} with {attribute} {actual} for {target}"
        words = ("expected device", "same device", "dtype", "scalar type")
        # A rule that reads values fails on the meta device, which is not a fault of its tensors.
        assert failure is None or not any(word in str(failure) for word in words), f"{promise}, got {failure}"


def _named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of an update or of nested dicts, with a name such as ``"state.theta"``."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (Update, MatrixUpdate)):
        yield from _named_tensors(vars(value), name)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _named_tensors(item, f"{name}.{key}" if name else key)


@torch.no_grad()
def _check_purity(run: Run, xs: Tensor, state: State) -> None:
    before = map_state(torch.clone, (xs, state))
    first, second = (_outputs(*run(xs, state)) for _ in range(2))
    _check_close(_leaves(before), _leaves((xs, state)), "update must not overwrite what it reads")
    _check_close(first, second, "update must be a pure function of the step, so that two equal calls agree")


@torch.no_grad()
def _check_sequences(run: Run, xs: Tensor, state: State) -> None:
    output, final = run(xs, state)
    for one in (slice(0, 1), slice(-1, None)):
        of_run = partial(map_state, lambda value, one=one: value[:, one])
        of_state = partial(map_state, lambda leaf, one=one: leaf[one])
        together, alone = _outputs(of_run(output), of_state(final)), _outputs(*run(xs[:, one], of_state(state)))
        _check_close(alone, together, "sequences must not depend on other sequences of the batch")


@torch.no_grad()
def _check_restart(run: Run, network: PlasticNetwork, xs: Tensor, state: State) -> None:
    """Compare a sequence that restarts at step 2 with a segment that begins there."""
    episode_starts = torch.zeros(xs.shape[:2], dtype=torch.bool)
    episode_starts[2] = True
    output, final = run(xs, state, episode_starts)
    expected = _outputs(*run(xs[2:], network.initial_state(xs.shape[1])))
    actual = _outputs(map_state(lambda value: value[2:], output), final)
    _check_close(expected, actual, "an episode start must restore the initial state")


def _check_equals_reference(
    run: Run, network: PlasticNetwork, segment: Segment, expected: Mapping[str, Tensor]
) -> None:
    _check_close(expected, _gradients(run, network, segment), "the form must equal the reference")
    with torch.no_grad():
        outputs = _outputs(*run(*segment))
    expected = {name: expected[name] for name in outputs}
    _check_close(expected, outputs, "the form must equal the reference under torch.no_grad")


def _check_zero(network: PlasticNetwork, xs: Tensor, form: Form) -> None:
    network = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    for name, value in _gradients(partial(network.unroll, form=form), network, (xs, None, None)).items():
        assert value.isfinite().all(), f"a network of zeros must give finite numbers, got {name} = {value.tolist()}"


def _check_round_trip(network: PlasticNetwork, xs: Tensor, state: State) -> None:
    promise = "the state must be the same after torch.save and torch.load of its nested form"
    file = io.BytesIO()
    torch.save(to_nested(state), file)
    file.seek(0)
    loaded = from_nested(torch.load(file, weights_only=True), network.initial_state(0))
    _check_close(_leaves(state), _leaves(loaded), promise)
    with torch.no_grad():
        _check_close(_outputs(*network.unroll(xs, state)), _outputs(*network.unroll(xs, loaded)), promise)


class _Unroll(nn.Module):
    """The outputs of a network in the dense form; `torch.func.functional_call` needs a module with ``forward``."""

    def __init__(self, network: PlasticNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, xs: Tensor, state: State | None = None, episode_starts: Tensor | None = None
    ) -> dict[str, Tensor]:
        return _outputs(*self.network.unroll(xs, state, episode_starts, form="dense"))


def _check_finite_differences(network: PlasticNetwork) -> None:
    """Move the inputs, the state and all parameters in one random direction."""
    xs = torch.randn(_STEPS, 2, network.input_size, dtype=torch.float64)
    episode_starts = torch.zeros(xs.shape[:2], dtype=torch.bool)
    episode_starts[3, 1] = True
    module = _Unroll(network)
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    point = (parameters, xs, _some_state(network, xs))
    direction = map_state(torch.randn_like, point)

    def outputs(distance: Tensor) -> Tensor:
        moved, *inputs = map_state(lambda value, slope: value + distance * slope, point, direction)
        values = torch.func.functional_call(module, moved, (*inputs, episode_starts))
        return torch.cat([value.flatten() for value in values.values()])

    distance = torch.zeros((), dtype=torch.float64, requires_grad=True)
    try:
        torch.autograd.gradcheck(outputs, distance, rtol=1e-4, atol=1e-6, fast_mode=True)
    except RuntimeError as error:  # of gradcheck's own class, which is not public
        summary = str(error).partition("\n\n")[0]  # whole Jacobians follow
        raise AssertionError(f"the gradient must equal finite differences, got {summary}") from error


def _check_function_transforms(network: PlasticNetwork) -> None:
    xs = torch.randn(_STEPS, 2, network.input_size, dtype=torch.float64)
    module = _Unroll(network)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return _probe_loss(torch.func.functional_call(module, parameters, (xs,)))

    networks = [{name: scale * value.detach() for name, value in module.named_parameters()} for scale in (1.0, 0.8)]
    stacked = {name: torch.stack([parameters[name] for parameters in networks]) for name in networks[0]}
    try:
        batched = torch.func.vmap(torch.func.grad(loss))(stacked)
    except RuntimeError as error:
        raise AssertionError(
            f"torch.func.vmap of the gradient must work, for example by torch.where instead of if, got {error}"
        ) from error
    for index, parameters in enumerate(networks):
        actual = {name: value[index] for name, value in batched.items()}
        leaves = {name: value.requires_grad_() for name, value in parameters.items()}
        _check_close(_grad(loss(leaves), leaves), actual, "torch.func.vmap of the gradient must equal autograd")


@torch.no_grad()
def _check_long_segment(network: PlasticNetwork) -> None:
    xs = torch.randn(_LONG_STEPS, 2, network.input_size)
    single, double = (
        _outputs(*copy.deepcopy(network).to(dtype).unroll(xs.to(dtype))) for dtype in (torch.float32, torch.float64)
    )
    for name, value in single.items():
        assert value.isfinite().all(), f"numbers must be finite after {_LONG_STEPS} steps, got {name} = {value}"
    largest = double["y"].abs().max()
    assert largest <= _LARGEST_OUTPUT, (
        f"outputs of a new network must be at most {_LARGEST_OUTPUT:g} in {_LONG_STEPS} steps, got {largest:.1e}"
    )
    single = {name: value.double() for name, value in single.items()}
    promise = f"float32 must be within {_LONG_TOLERANCE:g} of float64 for {_LONG_STEPS} steps"
    for name in ("y", "eta"):
        _check_close({name: double[name]}, {name: single[name]}, promise, _LONG_TOLERANCE)


def _outputs(output: CoreOutput, final: State) -> dict[str, Tensor]:
    assert output.eta is not None
    return {"y": output.y, "eta": output.eta, **_leaves(final, "final state")}


def _leaves(state: Any, name: str = "state") -> dict[str, Tensor]:
    return dict(_named_tensors(to_nested(state), name))


def _probe_loss(values: Mapping[str, Tensor]) -> Tensor:
    """Return a weighted sum of all elements, with a weight of its own for each element."""
    weighted = (
        (value * torch.linspace(1, 2, value.numel(), dtype=value.dtype).cos().reshape(value.shape)).sum()
        for value in values.values()
    )
    return torch.stack(list(weighted)).sum()


def _grad(value: Tensor, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(value, list(inputs.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, gradients, strict=True))


def _gradients(run: Run, network: PlasticNetwork, segment: Segment) -> dict[str, Tensor]:
    """Return outputs, the final state, and the gradients of all parameters, the inputs and the initial state."""
    xs, state, episode_starts = segment
    xs, state = map_state(lambda leaf: leaf.clone().requires_grad_(), (xs, state))
    outputs = _outputs(*run(xs, state, episode_starts))
    begin = {} if state is None else _leaves(state, "initial state")
    gradients = _grad(_probe_loss(outputs), {"xs": xs, **begin, **dict(network.named_parameters())})
    detached = {name: value.detach() for name, value in outputs.items()}
    return detached | {f"gradient of {name}": value for name, value in gradients.items()}


def _check_close(
    expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], promise: str, tolerance: float = _TOLERANCE
) -> None:
    assert expected.keys() == actual.keys(), f"{promise}, got {list(actual)} for {list(expected)}"
    for name, value in expected.items():
        assert value.shape == actual[name].shape, (
            f"{promise}, got {name} of shape {list(actual[name].shape)} for {list(value.shape)}"
        )
        if not value.numel():
            continue
        error, largest = (value - actual[name]).abs().max(), value.abs().max()
        assert error <= tolerance * (1 + largest), (
            f"{promise}, got a difference of {error:.1e} in {name}, whose largest number is {largest:.1e}"
        )
