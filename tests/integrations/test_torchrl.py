import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torchrl")

import gymnasium as gym
from plastic_agents import NetworkConfig, RecurrentCore
from plastic_agents.integrations.torchrl import RecurrentModule
from plastic_agents.models.core import CoreOutput, State, zeroed
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.envs import GymWrapper, InitTracker, TransformedEnv, check_env_specs
from torchrl.modules import set_recurrent_mode

import plastic_envs  # noqa: F401

pytestmark = pytest.mark.integrations


def make_network(rule="hebbian", cell="rnn", inputs=3, outputs=2):
    torch.manual_seed(0)
    return NetworkConfig(rule, cell, hidden_size=8).make_core(inputs, outputs)


@settings(max_examples=20)
@given(
    kind=st.sampled_from([*itertools.product(["hebbian", "gradient", "none"], ["rnn", "lstm"]), ("none", "attention")]),
    sequences=st.integers(1, 3),
    steps=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_steps_and_recurrent_mode_equal_the_network(kind, sequences, steps, seed):
    network = make_network(*kind)
    module = RecurrentModule(network, in_key="x", out_key="y")
    generator = torch.Generator().manual_seed(seed)
    xs = torch.randn(sequences, steps, 3, generator=generator)
    starts = torch.rand(sequences, steps, generator=generator) < 0.3
    state, carried, ys = network.initial_state(sequences), None, []
    for t in range(steps):
        output, state = network.step(xs[:, t], zeroed(state, starts[:, t]))
        entry = TensorDict({"x": xs[:, t], "is_init": starts[:, t, None]}, [sequences])
        if carried is not None:
            entry["recurrent_state"] = carried
        module(entry)
        carried = entry["next", "recurrent_state"]
        torch.testing.assert_close(entry["y"], output.y)
        ys.append(output.y)
    data = TensorDict({"x": xs, "is_init": starts[..., None]}, [sequences, steps])
    with set_recurrent_mode(True):
        module(data)
    torch.testing.assert_close(data["y"], torch.stack(ys, 1), atol=1e-5, rtol=1e-4)


def test_recurrent_mode_reproduces_a_rollout_from_any_step():
    vector = gym.make_vec("PlasticRNN/CueChoice-v0", num_envs=3, autoreset_mode="Disabled")
    env = TransformedEnv(GymWrapper(vector, categorical_action_encoding=True), InitTracker())
    module = RecurrentModule(make_network(inputs=env.observation_spec["observation"].shape[-1]))
    env.append_transform(module.make_tensordict_primer())
    check_env_specs(env)
    policy = TensorDictSequential(module, TensorDictModule(lambda y: y.argmax(-1), ["memory"], ["action"]))
    rollout = env.rollout(60, policy, break_when_any_done=False)
    assert rollout["is_init"].sum() == 3 * 3
    assert rollout["recurrent_state", "fast", "readout", "weight"].shape[:2] == (3, 60)
    fast = rollout["recurrent_state", "fast", "input_to_hidden", "weight"]
    assert fast[:, 23].abs().amax() > 0
    for begin in (0, 5, 24, 50):
        segment = rollout[:, begin:].exclude("memory")
        with set_recurrent_mode(True):
            module(segment)
        torch.testing.assert_close(segment["memory"], rollout["memory"][:, begin:])


def test_gradients_equal_those_of_the_network():
    network = make_network("gradient")
    module = RecurrentModule(network, in_key="x", out_key="y")
    xs, starts = torch.randn(2, 5, 3), torch.zeros(2, 5, 1, dtype=torch.bool)
    with set_recurrent_mode(True):
        module(TensorDict({"x": xs, "is_init": starts}, [2, 5]))["y"].square().sum().backward()
    module_gradients = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    network.unroll(xs.transpose(0, 1))[0].y.square().sum().backward()
    for gradient, parameter in zip(module_gradients, network.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


class StartsAtOne(RecurrentCore):
    def initial_state(self, batch_size):
        return State(torch.ones(batch_size, self.output_size))

    def step(self, x, state):
        hidden = 0.5 * state.hidden + x.sum(-1, keepdim=True)
        return CoreOutput(hidden), State(hidden)


def test_a_core_restarts_from_its_own_initial_state():
    module = RecurrentModule(StartsAtOne(3, 2), in_key="x", out_key="y")
    x = torch.randn(2, 3)
    entry = TensorDict({"x": x, "is_init": torch.tensor([[True], [False]])}, [2])
    entry["recurrent_state"] = {"hidden": torch.full((2, 2), 5.0)}
    before = torch.tensor([[1.0], [5.0]]).expand(2, 2)
    torch.testing.assert_close(module(entry)["y"], 0.5 * before + x.sum(-1, keepdim=True))


def test_a_module_that_is_no_core_is_refused():
    with pytest.raises(TypeError, match=r"network must be a plastic_agents\.RecurrentCore, got Linear"):
        RecurrentModule(torch.nn.Linear(3, 2))
