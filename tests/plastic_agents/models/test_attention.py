"""AttentionNetwork: causal attention to a cache, compared with a loop over pairs of steps."""

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plastic_agents import AttentionNetwork, NetworkConfig, SupervisedAgent, SupervisedConfig, SupervisedLearner, probe
from plastic_agents.models import attention
from plastic_agents.models.core import map_state, zeroed
from plastic_agents.testing import check_core
from torch.nn import functional

from plastic_envs.tasks import FewShotRegression

I, H, O = 3, 16, 2
D = H // attention.N_HEADS


def make(n_layers=2, context=4, seed=0):
    torch.manual_seed(seed)
    network = AttentionNetwork(I, H, O, n_layers, context).double()
    # Layer norms without effect would not be noticed, and weak attention would hide a wrong mask.
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(0.5 * torch.randn_like(parameter)) if "norm" in name else parameter.mul_(2)
    return network


def attended(query, keys, values, distances):
    """Return the attention of one head at one step [D], by complex numbers and a loop over the earlier steps."""
    scores = []
    for key, distance in zip(keys, distances, strict=True):
        score = 0.0
        for pair in range(D // 2):
            turn = cmath.exp(1j * distance * 10_000 ** (-2 * pair / D))
            first = torch.complex(query[pair], query[pair + D // 2]) * turn
            score = score + (first * torch.complex(key[pair], key[pair + D // 2]).conj()).real
        scores.append(score / math.sqrt(D))
    weights = torch.stack(scores).exp()
    return (weights[:, None] / weights.sum() * torch.stack(values)).sum(0)


def reference(network, xs, episode_starts):
    """Return y [T, O] of one sequence; a list for each block has the keys and values of the episode so far."""
    ys = []
    for x, start in zip(xs, episode_starts, strict=True):
        if start or not ys:
            history = [[] for _ in network.blocks]
        z = network.input(x)
        for block, seen in zip(network.blocks, history, strict=True):
            query, key, value = block.query_key_value(block.attention_norm(z)).chunk(3)
            seen.append((key, value))
            window = seen[-network.context :]
            distances = range(len(window) - 1, -1, -1)
            heads = []
            for units in torch.arange(H).split(D):
                keys, values = ([pair[i][units] for pair in window] for i in range(2))
                heads.append(attended(query[units], keys, values, distances))
            z = z + block.projection(torch.cat(heads))
            z = z + block.mlp(z)
        ys.append(network.readout(network.norm(z)))
    return torch.stack(ys)


def gradients(ys, network):
    parameters = list(network.parameters())
    return torch.autograd.grad(ys.square().sum(), parameters, retain_graph=True, materialize_grads=True)


@settings(max_examples=20)
@given(
    n_layers=st.integers(1, 2),
    context=st.sampled_from([1, 3, 256]),
    steps=st.integers(1, 9),
    cut=st.integers(0, 8),
    seed=st.integers(0, 99),
)
def test_unroll_equals_a_loop_over_pairs_of_steps(n_layers, context, steps, cut, seed):
    network = make(n_layers, context, seed)
    xs = torch.randn(steps, 2, I, dtype=torch.float64)
    episode_starts = torch.rand(steps, 2) < 0.2
    expected = torch.stack([reference(network, xs[:, b], episode_starts[:, b]) for b in range(2)], dim=1)
    ys = network.unroll(xs, None, episode_starts)[0].y
    torch.testing.assert_close(ys, expected)
    expected_gradients = gradients(expected, network)
    torch.testing.assert_close(gradients(ys, network), expected_gradients)
    if cut < steps - 1:  # the state carries the episode from one segment to the next, with its gradient
        first, state = network.unroll(xs[: cut + 1], None, episode_starts[: cut + 1])
        second, _ = network.unroll(xs[cut + 1 :], state, episode_starts[cut + 1 :])
        ys = torch.cat([first.y, second.y])
        torch.testing.assert_close(ys, expected)
        torch.testing.assert_close(gradients(ys, network), expected_gradients)


@settings(max_examples=30)
@given(
    context=st.sampled_from([1, 3, 256]),
    steps=st.integers(1, 7),
    batch_size=st.integers(0, 3),
    with_state=st.booleans(),
    seed=st.integers(0, 99),
)
def test_unroll_equals_repeated_steps_with_episode_starts(context, steps, batch_size, with_state, seed):
    network = make(2, context, seed)
    xs = torch.randn(steps, batch_size, I, dtype=torch.float64)
    episode_starts = torch.rand(steps, batch_size) < 0.3
    before = network.unroll(torch.randn(2, batch_size, I, dtype=torch.float64))[1] if with_state else None
    output, final = network.unroll(xs, before, episode_starts)
    state = network.initial_state(batch_size) if before is None else before
    ys = []
    for x, start in zip(xs, episode_starts, strict=True):
        acted, after_act = network.act(x, map_state(torch.clone, state), start)
        y, state = network.step(x, zeroed(state, start))
        map_state(torch.testing.assert_close, (acted, after_act), (y, state))
        ys.append(y.y)
    torch.testing.assert_close(output.y, torch.stack(ys))
    map_state(torch.testing.assert_close, final, state)
    assert final.fast is None
    assert output.eta is None
    torch.testing.assert_close(gradients(output.y, network), gradients(torch.stack(ys), network))


def test_a_step_depends_on_the_last_steps_of_its_episode_alone():
    network = make(n_layers=1, context=4)
    xs = torch.randn(9, 1, I, dtype=torch.float64, requires_grad=True)
    episode_starts = torch.zeros(9, 1, dtype=torch.bool)
    episode_starts[3] = True
    ys = network.unroll(xs, None, episode_starts)[0].y
    sources = {
        t: torch.autograd.grad(ys[t].square().sum(), xs, retain_graph=True)[0].abs().sum((1, 2)).nonzero().flatten()
        for t in range(9)
    }
    assert {t: steps.tolist() for t, steps in sources.items()} == {
        **{0: [0], 1: [0, 1], 2: [0, 1, 2]},
        **{3: [3], 4: [3, 4], 5: [3, 4, 5], 6: [3, 4, 5, 6], 7: [4, 5, 6, 7], 8: [5, 6, 7, 8]},
    }


def test_the_order_of_earlier_steps_matters():
    network = make()
    xs = torch.randn(4, 1, I, dtype=torch.float64)
    y, swapped = (network.unroll(xs[order])[0].y[-1] for order in ([0, 1, 2, 3], [1, 0, 2, 3]))
    assert not torch.allclose(y, swapped, rtol=1e-3)


@pytest.mark.parametrize("context", [1, 2, 4, 256])
def test_check_core_accepts_every_context(context):
    check_core(make(2, context))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no causality", "unroll must equal step repeated"),
        ("no window", "unroll must equal step repeated"),
        ("no episodes", "unroll must restart from initial_state where episode_starts is true"),
    ],
)
def test_check_core_refuses_a_wrong_mask(fault, message, monkeypatch):
    def wrong_mask(position, first, context):
        step = torch.arange(first.shape[1], device=first.device)[:, None]
        everywhere = torch.ones_like(position <= step)
        causal = everywhere if fault == "no causality" else position <= step
        in_window = everywhere if fault == "no window" else position > step - context
        in_episode = position >= (first[:, :1, None] if fault == "no episodes" else first[:, :, None])
        return (causal & in_window & in_episode).unsqueeze(1)

    check_core(make())
    monkeypatch.setattr(attention, "_visible", wrong_mask)
    with pytest.raises(AssertionError, match=message):
        check_core(make())


def test_the_hidden_state_is_the_whole_memory():
    """Without it, the network starts anew; with the twin's, it gives the twin's answers."""
    task = FewShotRegression(n_support=5, n_queries=4)
    torch.manual_seed(0)
    agent = SupervisedAgent(task, NetworkConfig("none", "attention", H, n_layers=2)).double()
    episode, twin = task.sample_yoked(np.random.default_rng(0), 6)
    xs, twin_xs = (torch.as_tensor(batch.observation).double().transpose(0, 1) for batch in (episode, twin))
    unroll, step = agent.core.unroll, task.query_start
    erase = {step: lambda state: state._replace(hidden=map_state(torch.zeros_like, state.hidden))}
    torch.testing.assert_close(unroll(xs, hooks=erase)[0].y[step:], unroll(xs[step:])[0].y)
    donor = unroll(twin_xs[:step])[1]
    transplant = {step: lambda state: state._replace(hidden=donor.hidden)}
    answers, twin_answers = unroll(xs, hooks=transplant)[0].y[step:], unroll(twin_xs)[0].y[step:]
    torch.testing.assert_close(answers, twin_answers)
    assert not torch.allclose(answers, unroll(xs)[0].y[step:], rtol=1e-3)


def test_a_run_learns_resumes_from_its_checkpoint_and_is_probed(tmp_path):
    """Without memory of the episode, the normalised score is 0."""
    network = NetworkConfig("none", "attention", 16, n_layers=1)
    arguments = {"n_support": 4, "n_queries": 4, "input_size": 1, "noise": 0.0}
    config = SupervisedConfig(steps=150, learning_rate=1e-2, schedule="constant", evaluate_every=150)
    learner = SupervisedLearner("PlasticRNN/FewShotRegression-v0", network, config, task_arguments=arguments)
    learner.learn(progress_bar=False)
    report = probe(learner.agent, episodes=300)
    assert list(report) == ["intact", "hidden_erased", "hidden_transplant"]
    assert report["intact"].normalised_score > 0.5
    assert report["hidden_erased"].normalised_score < 0.1
    learner.save(tmp_path / "run.pt")
    loaded = SupervisedLearner.load(tmp_path / "run.pt")
    assert probe(loaded.agent, episodes=300)["intact"].metric.mean == report["intact"].metric.mean


def test_attention_equals_torchs_without_rotation(monkeypatch):
    """A rotation by zero leaves the attention of torch's own decoder layer."""
    monkeypatch.setattr(attention, "_angles", lambda position, size, dtype: (torch.ones(1), torch.zeros(1)))
    network = make(n_layers=1, context=256)
    layer = torch.nn.TransformerEncoderLayer(
        H, attention.N_HEADS, 4 * H, 0.0, functional.gelu, batch_first=True, norm_first=True, dtype=torch.float64
    )
    (block,) = network.blocks
    names = {
        "self_attn.in_proj_": block.query_key_value,
        "self_attn.out_proj.": block.projection,
        "norm1.": block.attention_norm,
        "norm2.": block.mlp[0],
        "linear1.": block.mlp[1],
        "linear2.": block.mlp[3],
    }
    layer.load_state_dict(
        {f"{name}{kind}": getattr(module, kind) for name, module in names.items() for kind in ("weight", "bias")}
    )
    xs = torch.randn(6, 3, I, dtype=torch.float64)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    z = layer(network.input(xs).transpose(0, 1), src_mask=mask)
    torch.testing.assert_close(network.unroll(xs)[0].y, network.readout(network.norm(z)).transpose(0, 1))


@pytest.mark.parametrize(
    ("make_network", "message"),
    [
        (lambda: AttentionNetwork(3, 12, 2), "hidden_size of attention must be a multiple of 8, got 12"),
        (lambda: AttentionNetwork(3, 8, 2, 0), "n_layers must be .* got 0"),
        (lambda: AttentionNetwork(3, 8, 2, 1, 0), "context must be .* got 0"),
        (lambda: NetworkConfig("none", "attention", 12), "hidden_size of attention must be a multiple of 8, got 12"),
        (lambda: NetworkConfig("none", "attention", 8, n_layers=0), "n_layers must be .* got 0"),
        (lambda: NetworkConfig("gradient", "attention", 8), "cell must be one of .* got 'attention'"),
        (lambda: make().step(torch.zeros(2, 3), make().initial_state(2)), "dtype, torch.float64, got torch.float32"),
        (lambda: make().act(torch.zeros(2, 4).double(), make().initial_state(2)), r"must have shape \[T, B, 3\]"),
        (
            lambda: make().unroll(torch.zeros(4, 2, 3).double(), make().initial_state(1)),
            r"state\.hidden\.keys\.0 must have shape \[2, 4, 4, 4\], got \[1, 4, 4, 4\]",
        ),
    ],
)
def test_bad_arguments_are_named(make_network, message):
    with pytest.raises(ValueError, match=message):
        make_network()


def test_positions_are_exact_in_narrow_types():
    torch.manual_seed(0)
    core = AttentionNetwork(3, 8, 2, context=8)
    xs = torch.randn(600, 2, 3)
    wide = core.unroll(xs)[0].y
    narrow = core.bfloat16().unroll(xs.bfloat16())[0].y.float()
    error = (narrow - wide).abs().mean(dim=(1, 2))
    assert error[300:].mean() < 2 * error[:200].mean()
