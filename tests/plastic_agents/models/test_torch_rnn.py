"""TorchRNN: torch's own recurrent modules behind the interface of cores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plastic_agents.models import torch_rnn
from plastic_agents.models.core import zeroed
from plastic_agents.models.torch_rnn import TorchRNN

CELLS = ["rnn", "gru", "lstm"]


@settings(max_examples=30)
@given(
    cell=st.sampled_from(CELLS),
    steps=st.integers(1, 7),
    batch=st.integers(1, 4),
    seed=st.integers(0, 99),
    most_padding=st.sampled_from([0, 2, 50]),
    data=st.data(),
)
def test_unroll_equals_repeated_steps_with_episode_starts(cell, steps, batch, seed, most_padding, data):
    torch.manual_seed(seed)
    network = TorchRNN(3, 5, 2, cell, n_layers=data.draw(st.integers(1, 2))).double()
    xs = torch.randn(steps, batch, 3, dtype=torch.float64)
    episode_starts = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=batch, max_size=batch), min_size=steps, max_size=steps))
    )
    state = network.initial_state(batch)
    state = state._replace(hidden=type(state.hidden)(*(torch.randn_like(tensor) for tensor in state.hidden)))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("MOST_PADDING", "MOST_RELU_PADDING"):
            patch.setattr(torch_rnn, name, most_padding)
        output, final = network.unroll(xs, state, episode_starts)

    ys = []
    for x, start in zip(xs, episode_starts, strict=True):
        y, state = network.step(x, zeroed(state, start))
        ys.append(y.y)
    torch.testing.assert_close(output.y, torch.stack(ys))
    torch.testing.assert_close(tuple(final.hidden), tuple(state.hidden))
    assert final.fast is None
    assert output.eta is None
    unrolled, stepped = (
        torch.autograd.grad(y.square().sum() + hidden.h.sum(), list(network.parameters()), allow_unused=True)
        for y, hidden in ((output.y, final.hidden), (torch.stack(ys), state.hidden))
    )
    torch.testing.assert_close(unrolled, stepped)


@pytest.mark.parametrize("cell", CELLS)
def test_hooks_get_and_change_the_state_before_their_step(cell):
    network = TorchRNN(3, 5, 2, cell)
    xs = torch.randn(6, 2, 3)
    states = []

    def record(state):
        states.append(state)
        return state

    hooked, _ = network.unroll(xs, hooks={2: record, 4: lambda state: network.initial_state(2)})
    plain, _ = network.unroll(xs)
    restarted, _ = network.unroll(xs[4:])
    torch.testing.assert_close(states[0].hidden, network.unroll(xs[:2])[1].hidden)
    torch.testing.assert_close(hooked.y[:4], plain.y[:4])
    torch.testing.assert_close(hooked.y[4:], restarted.y)
    assert not torch.allclose(hooked.y[4:], plain.y[4:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TorchRNN(0, 5, 2), "input_size must be .* got 0"),
        (lambda: TorchRNN(3, 5, 2, "elman"), "cell must be one of .* got 'elman'"),
        (lambda: TorchRNN(3, 5, 2).unroll(torch.zeros(4, 2, 3), hooks={4: lambda state: state}), "one at 4"),
        (lambda: TorchRNN(3, 5, 2).double().unroll(torch.zeros(4, 2, 3)), "dtype, torch.float64, got"),
        (lambda: TorchRNN(3, 5, 2).unroll(torch.zeros(4, 3)), r"shape \[T, B, 3\]"),
        (
            lambda: TorchRNN(3, 5, 2).unroll(torch.zeros(4, 2, 3), TorchRNN(3, 5, 2).initial_state(1)),
            r"state\.hidden\.h must have shape \[2, 5\], got \[1, 5\]",
        ),
        (
            lambda: TorchRNN(3, 5, 2).unroll(torch.zeros(4, 2, 3), episode_starts=torch.zeros(4, 2)),
            "episode_starts must be bool",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
