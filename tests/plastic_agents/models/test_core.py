"""The base class of all cores: unrolling, hooks, episode starts, acting, and the checks of arguments."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plastic_agents import CoreOutput, RecurrentCore, State
from plastic_agents.models.checks import check_state
from plastic_agents.models.core import map_state, zeroed
from torch import nn

I, H, O = 3, 4, 2


class LearntStart(RecurrentCore):
    """A core of ten lines, whose initial hidden state and initial trace are learnt and not zero."""

    def __init__(self):
        super().__init__(I, O)
        self.start = nn.Parameter(torch.randn(H, dtype=torch.float64))
        self.weight = nn.Parameter(torch.randn(H + I, H, dtype=torch.float64) / 2)

    def initial_state(self, batch_size):
        return State({"h": self.start.expand(batch_size, H)}, (self.start.expand(batch_size, H).square(),))

    def step(self, x, state):
        h = torch.tanh(torch.cat([state.hidden["h"], x], dim=-1) @ self.weight + state.fast[0])
        trace = 0.9 * state.fast[0] + 0.1 * h
        return CoreOutput(h[:, :O], h.mean(-1)), State({"h": h}, (trace,))


class Counter(RecurrentCore):
    """A core without parameters: it counts the steps since the episode started, from a count of 1."""

    def __init__(self):
        super().__init__(1, 1)

    def initial_state(self, batch_size):
        return State(torch.ones(batch_size, 1))

    def step(self, x, state):
        return CoreOutput(state.hidden * x), State(state.hidden + 1)


def restart(core, state, starts):
    """Return the state with the initial state in the sequences that start, one sequence at a time."""
    initial = core.initial_state(len(starts))
    return map_state(
        lambda start, leaf: torch.stack([s if new else x for s, x, new in zip(start, leaf, starts, strict=True)]),
        initial,
        state,
    )


def plain_loop(core, xs, state, episode_starts, hooks):
    state = core.initial_state(xs.shape[1]) if state is None else state
    ys, etas = [], []
    for t, x in enumerate(xs):
        if t in hooks:
            state = hooks[t](state)
        if episode_starts is not None:
            state = restart(core, state, episode_starts[t])
        output, state = core.step(x, state)
        ys.append(output.y)
        etas.append(output.eta)
    return CoreOutput(torch.stack(ys), torch.stack(etas)), state


def assert_equal(results, expected):
    torch.testing.assert_close(results[0].y, expected[0].y, rtol=0, atol=0)
    torch.testing.assert_close(results[0].eta, expected[0].eta, rtol=0, atol=0)
    map_state(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), results[1], expected[1])


@given(
    steps=st.integers(1, 7),
    batch_size=st.integers(1, 4),
    with_state=st.booleans(),
    with_starts=st.booleans(),
    hook_steps=st.sets(st.integers(0, 6)),
    seed=st.integers(0, 99),
)
def test_unroll_equals_a_plain_loop_with_hooks_and_episode_starts(
    steps, batch_size, with_state, with_starts, hook_steps, seed
):
    torch.manual_seed(seed)
    core = LearntStart()
    xs = torch.randn(steps, batch_size, I, dtype=torch.float64)
    state = map_state(torch.randn_like, core.initial_state(batch_size)) if with_state else None
    episode_starts = torch.rand(steps, batch_size) < 0.4 if with_starts else None
    hooks = {
        step: lambda state, step=step: map_state(lambda leaf: leaf + step + 1, state)
        for step in hook_steps
        if step < steps
    }
    results = core.unroll(xs, state, episode_starts, hooks)
    expected = plain_loop(core, xs, state, episode_starts, hooks)
    assert_equal(results, expected)
    gradients, expected_gradients = (
        torch.autograd.grad(output.y.square().sum() + output.eta.sum(), list(core.parameters()), materialize_grads=True)
        for output, _ in (results, expected)
    )
    torch.testing.assert_close(gradients, expected_gradients)


@given(batch_size=st.integers(0, 4), seed=st.integers(0, 99))
def test_act_equals_step_from_the_restarted_state(batch_size, seed):
    torch.manual_seed(seed)
    core = LearntStart()
    x = torch.randn(batch_size, I, dtype=torch.float64)
    state = map_state(torch.randn_like, core.initial_state(batch_size))
    starts = torch.rand(batch_size) < 0.5
    output, after = core.act(x, map_state(torch.clone, state), starts)
    assert not output.y.requires_grad
    expected, expected_after = core.step(x, restart(core, state, starts) if batch_size else state)
    assert_equal((output, after), (expected, map_state(torch.Tensor.detach, expected_after)))
    assert_equal(core.act(x, map_state(torch.clone, state)), map_state(torch.Tensor.detach, core.step(x, state)))


def test_a_learnt_initial_state_gets_the_gradient_of_every_episode():
    core = LearntStart()
    xs = torch.randn(4, 1, I, dtype=torch.float64)
    starts = torch.tensor([[False], [False], [True], [False]])
    output, _ = core.unroll(xs, map_state(torch.randn_like, core.initial_state(1)), starts)
    (before,) = torch.autograd.grad(output.y[:2].sum(), core.start, retain_graph=True, allow_unused=True)
    (after,) = torch.autograd.grad(output.y[2:].sum(), core.start)
    assert before is None or not before.any()
    assert after.any()


def test_nan_of_an_earlier_episode_does_not_pass_a_restart():
    core = LearntStart()
    xs = torch.randn(3, 2, I, dtype=torch.float64)
    xs[0, 0] = torch.nan
    starts = torch.tensor([[False, False], [True, False], [False, False]])
    output, _ = core.unroll(xs, None, starts)
    assert output.y[0, 0].isnan().all()
    assert output.y[1:].isfinite().all()
    assert zeroed(State(output.y[0]), torch.tensor([True, False])).hidden.isfinite().all()


def test_a_core_without_parameters():
    core = Counter()
    starts = torch.tensor([[False, False], [False, True], [False, False]])
    output, state = core.unroll(torch.ones(3, 2, 1), None, starts)
    assert output.y[..., 0].tolist() == [[1, 1], [2, 1], [3, 2]]
    assert output.eta is None
    assert state.hidden[:, 0].tolist() == [4, 3]
    output, state = core.act(torch.ones(2, 1), state, torch.tensor([True, False]))
    assert output.y[:, 0].tolist() == [1, 3]


def test_a_hook_gets_the_state_before_the_restart():
    core, counts = Counter(), []

    def record(state):
        counts.append(state.hidden[0, 0].item())
        return state

    output, _ = core.unroll(torch.ones(3, 1, 1), None, torch.tensor([[False], [False], [True]]), {2: record})
    assert counts == [3]
    assert output.y[:, 0, 0].tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (lambda core, xs: core.unroll([xs]), TypeError, "inputs must be a tensor, got list"),
        (
            lambda core, xs: core.unroll(xs[..., :1]),
            ValueError,
            r"inputs must have shape \[T, B, 3\] .* got \[4, 2, 1\]",
        ),
        (lambda core, xs: core.unroll(xs[:0]), ValueError, r"with T >= 1, got \[0, 2, 3\]"),
        (lambda core, xs: core.unroll(xs.float()), ValueError, "dtype, torch.float64, got torch.float32"),
        (lambda core, xs: core.act(xs, core.initial_state(2)), ValueError, r"got \[1, 4, 2, 3\]"),
        (lambda core, xs: core.act(xs[0], None), ValueError, "state must be State, .* got None"),
        (
            lambda core, xs: core.unroll(xs, core.initial_state(3)),
            ValueError,
            r"state.hidden.h must have shape \[2, 4\]",
        ),
        (
            lambda core, xs: core.act(xs[0], core.initial_state(2), torch.zeros(3, dtype=torch.bool)),
            ValueError,
            r"episode_starts must be bool of shape \[1, 2\]",
        ),
        (lambda core, xs: core.unroll(xs, None, [True]), TypeError, "episode_starts must be a tensor, got list"),
        (lambda core, xs: core.unroll(xs, hooks={4: lambda state: state}), ValueError, r"\[0, 3\], got one at 4"),
        (lambda core, xs: core.unroll(xs, hooks={1: print}), TypeError, "hook at step 1 must return a State, got None"),
        (
            lambda core, xs: core.unroll(xs, hooks={1: lambda state: core.initial_state(3)}),
            ValueError,
            r"state.hidden.h must have shape \[2, 4\], got \[3, 4\]",
        ),
    ],
)
def test_bad_arguments_are_named(run, error, message):
    with pytest.raises(error, match=message):
        run(LearntStart(), torch.randn(4, 2, I, dtype=torch.float64))


def nested(batch_size=2):
    return State({"a": [torch.zeros(batch_size, 3)], "b": (torch.zeros(batch_size), None)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hidden: {**hidden, "a": [torch.zeros(2, 4)]}, r"state\.hidden\.a\.0 must have shape \[2, 3\]"),
        (lambda hidden: {**hidden, "a": (torch.zeros(2, 3),)}, r"state\.hidden\.a must be list, .* got tuple"),
        (lambda hidden: {**hidden, "a": []}, r"state\.hidden\.a must have length 1, got 0"),
        (
            lambda hidden: {**hidden, "b": (torch.zeros(2).double(), None)},
            r"state\.hidden\.b\.0 must be torch\.float32",
        ),
        (lambda hidden: {**hidden, "b": (torch.zeros(2), torch.zeros(2))}, r"state\.hidden\.b\.1 must be None"),
        (lambda hidden: {"a": hidden["a"]}, r"state\.hidden must have the keys \['a', 'b'\], got \['a'\]"),
        (lambda hidden: {**hidden, "b": 1}, r"state\.hidden\.b must be tuple, .* got int"),
    ],
)
def test_every_leaf_of_a_nested_state_is_checked(change, message):
    state = nested()
    check_state(state, nested(0), 2)
    with pytest.raises(ValueError, match=message):
        check_state(State(change(state.hidden)), nested(0), 2)


def test_the_order_of_a_dict_does_not_matter():
    hidden = nested().hidden
    check_state(State({"b": hidden["b"], "a": hidden["a"]}), nested(0), 2)


def test_a_core_must_implement_both_methods():
    class Unfinished(RecurrentCore):
        def step(self, x, state):
            return CoreOutput(x), state

    with pytest.raises(TypeError, match="initial_state"):
        Unfinished(1, 1)
