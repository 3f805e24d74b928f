"""Checks for a recurrent core of your own; a failed check raises AssertionError with the fault and the numbers."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor

from plastic_agents.models.core import RecurrentCore, State, as_core, map_state, with_restarts

_STEPS = 6


def check_core(core: RecurrentCore, *, batch_size: int = 3, seed: int = 0) -> None:
    """Check that a core keeps the promises of `plastic_agents.RecurrentCore`.

    The function works on a copy of the core, in evaluation mode and float64. It checks that

    - tensors are on the device and in the dtype of the core's parameters, and have the right shapes;
    - the state keeps its structure, and `step` does not overwrite it;
    - sequences of a batch do not depend on each other;
    - `unroll` equals repeated `step`, from a state, without a state, and with episode starts inside the segment, and so
      do its gradients;
    - `act` equals `step`, with and without episode starts.

    Args:
        core: the core to check.
        batch_size: sequences in a batch, 2 or more.
        seed: seed of the inputs.

    Raises:
        TypeError: the core is no `RecurrentCore`, or `initial_state` returns no `State`.
        AssertionError: the core breaks one of the promises.
    """
    as_core("core", core)
    _check_device(core, batch_size)
    core = copy.deepcopy(core).double().eval()
    generator = torch.Generator().manual_seed(seed)
    xs = torch.randn(_STEPS, batch_size, core.input_size, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        _check_step(core, xs[0].to(_device(core)))
        _check_unroll(core, xs.to(_device(core)))


def _device(core: RecurrentCore) -> torch.device:
    return next((tensor.device for tensor in core.parameters()), torch.device("cpu"))


def _check_device(core: RecurrentCore, batch_size: int) -> None:
    """Move the core to the meta device, on which an operation with a tensor of another device fails."""
    core = copy.deepcopy(core).eval().to("meta")
    if next(core.parameters(), None) is None:
        return
    state: Any = core.initial_state(batch_size)
    map_state(lambda tensor: _check_on_meta(tensor, "initial_state"), state)
    x: Tensor = next(core.parameters()).new_zeros(batch_size, core.input_size)
    try:
        core.step(x, state)
    except RuntimeError as error:
        # A step that reads values fails on the meta device, which is not a fault of the core.
        assert "expected device" not in str(error), (
            f"step makes a tensor that is not on the parameters' device: {error}"
        )


def _check_on_meta(tensor: Tensor, method: str) -> None:
    assert tensor.device.type == "meta", (
        f"{method} must make tensors on the device of the parameters, got one on {tensor.device.type} that stays "
        "there: make them by new_zeros of a parameter"
    )


def _check_step(core: Any, x: Tensor) -> None:
    batch_size = len(x)
    state = core.initial_state(batch_size)
    if not isinstance(state, State):
        raise TypeError(f"initial_state must return a State, got {type(state).__name__}")
    map_state(lambda tensor: _check_leaf(tensor, x), state)
    before = map_state(torch.clone, state)
    output, after = core.step(x, state)
    _check_output(output, (batch_size, core.output_size), x)
    _check_close(before, state, "step must not change the state that it takes")
    _check_structure(state, after)
    for one in (slice(0, 1), slice(-1, None)):
        of_state = partial(map_state, lambda tensor, one=one: tensor[one])
        _, alone = core.step(x[one], of_state(state))
        _check_close(of_state(after), alone, "sequences must not depend on other sequences of the batch")


def _check_leaf(tensor: Tensor, x: Tensor) -> None:
    assert tensor.dim() and len(tensor) == len(x), (
        f"tensors of initial_state({len(x)}) must have shape [{len(x)}, ...], got {list(tensor.shape)}"
    )
    assert not tensor.is_floating_point() or tensor.dtype == x.dtype, (
        f"initial_state must make tensors in the dtype of the parameters, {x.dtype}, got {tensor.dtype}: make them by "
        "new_zeros of a parameter"
    )


def _check_output(output: Any, shape: tuple[int, ...], x: Tensor) -> None:
    y, eta = output
    assert y.shape == shape and y.dtype == x.dtype, (
        f"y must be {x.dtype} of shape {list(shape)}, got {y.dtype} of shape {list(y.shape)}"
    )
    assert eta is None or eta.shape == shape[:-1], f"eta must have shape {list(shape[:-1])}, got {list(eta.shape)}"


def _check_structure(state: Any, after: Any) -> None:
    def check_leaf(before: Tensor, after: Tensor) -> None:
        assert before.shape == after.shape and before.dtype == after.dtype, (
            f"step must keep shapes and dtypes of the state, got {list(after.shape)}, {after.dtype} for "
            f"{list(before.shape)}, {before.dtype}"
        )

    try:
        map_state(check_leaf, state, after)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AssertionError(f"step must keep the structure of the state, got {after} for {state}") from error


def _check_unroll(core: Any, xs: Tensor) -> None:
    batch_size = xs.shape[1]
    episode_starts = torch.zeros(xs.shape[:2], dtype=torch.bool, device=xs.device)
    _, state = core.step(xs[0], core.initial_state(batch_size))
    output, final_state = core.unroll(xs, state)
    _check_output(output, (*xs.shape[:2], core.output_size), xs)
    _check_equal(core, xs, state, episode_starts, (output, final_state), "unroll must equal step repeated")
    unrolled = core.unroll(xs, None, episode_starts)
    _check_equal(
        core,
        xs,
        core.initial_state(batch_size),
        episode_starts,
        unrolled,
        "unroll without a state must start from initial_state",
    )
    episode_starts[2, 0] = episode_starts[4, 1] = True
    promise = "unroll must restart from initial_state where episode_starts is true"
    _check_equal(core, xs, state, episode_starts, core.unroll(xs, state, episode_starts), promise)
    _check_gradient(core, xs, state, episode_starts)
    promise = "act must equal step, without episode starts"
    _check_close(core.step(xs[0], state), core.act(xs[0], map_state(torch.clone, state)), promise)
    for starts in (episode_starts[0], episode_starts[2]):
        result = core.act(xs[0], map_state(torch.clone, state), starts)
        _check_close(_step(core, xs[0], state, starts), result, "act must equal step, with episode starts")


def _check_equal(
    core: Any, xs: Tensor, state: Any, episode_starts: Tensor, unrolled: tuple[Any, Any], promise: str
) -> None:
    outputs, state = _steps(core, xs, state, episode_starts)
    expected = tuple(torch.stack(values) for values in zip(*outputs, strict=True) if values[0] is not None)
    actual = tuple(value for value in unrolled[0] if value is not None)
    assert len(actual) == len(expected), f"{promise}, got eta is None in one of them"
    _check_close((expected, state), (actual, unrolled[1]), promise)


def _steps(core: Any, xs: Tensor, state: Any, episode_starts: Tensor) -> tuple[list[Any], Any]:
    outputs = []
    for x, starts in zip(xs, episode_starts, strict=True):
        output, state = _step(core, x, state, starts)
        outputs.append(output)
    return outputs, state


@torch.enable_grad()
def _check_gradient(core: Any, xs: Tensor, state: Any, episode_starts: Tensor) -> None:
    """Compare the gradients of all parameters, of a loss in which all outputs count."""
    parameters = [parameter for parameter in core.parameters() if parameter.requires_grad]
    if not parameters:
        return
    weight = torch.linspace(-1, 1, xs.shape[0] * xs.shape[1] * core.output_size).to(xs)

    def gradients(ys: Tensor) -> tuple[Tensor, ...]:
        loss = (ys.flatten() * weight).sum() + 0 * sum(parameter.sum() for parameter in parameters)
        return torch.autograd.grad(loss, parameters)

    stepped = torch.stack([output.y for output in _steps(core, xs, state, episode_starts)[0]])
    unrolled = core.unroll(xs, state, episode_starts)[0].y
    _check_close(gradients(stepped), gradients(unrolled), "unroll must have the gradient of step repeated")


def _step(core: Any, x: Tensor, state: Any, episode_starts: Tensor) -> tuple[Any, Any]:
    """Make a step from the initial state where ``episode_starts`` [B] is true, without the core's own `restarted`."""
    result: tuple[Any, Any] = core.step(x, with_restarts(state, core.initial_state(len(x)), episode_starts))
    return result


def _check_close(expected: Any, actual: Any, promise: str) -> None:
    def check_leaf(expected: Tensor, actual: Tensor) -> None:
        assert torch.allclose(expected, actual, rtol=1e-6, atol=1e-8), (
            f"{promise}, got a difference of {(expected - actual).abs().max():.1e}"
        )

    map_state(check_leaf, expected, actual)
