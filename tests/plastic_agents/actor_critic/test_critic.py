"""Critics with a core of their own, and policies by the arguments of sb3-contrib."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from plastic_agents import NetworkConfig, RecurrentA2C, RecurrentPPO, TorchRNN
from plastic_agents.actor_critic.critic import ActorCriticCores, FeedforwardCore
from plastic_agents.actor_critic.heads import LatentHeads
from plastic_agents.actor_critic.lstm_policy import LstmCore
from plastic_agents.models.core import map_state
from plastic_agents.testing import check_core
from stable_baselines3.common.envs import FakeImageEnv, IdentityEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from tests.plastic_agents.cores import CONFIGS
from tests.plastic_agents.environments import uneven, vectorised

SMALL = {"network": NetworkConfig("hebbian", hidden_size=8)}
LSTM = {"lstm_hidden_size": 4}
SHARED = {"shared_lstm": True, "enable_critic_lstm": False}


@pytest.mark.parametrize("separate_inputs", [False, True])
@pytest.mark.parametrize(("actor", "critic"), [("rnn-hebbian", "lstm-none"), ("gru-none", None)])
def test_both_cores_keep_the_promises_of_a_core(actor, critic, separate_inputs):
    critic_core = FeedforwardCore(3, 2) if critic is None else CONFIGS[critic].make_core(3, 2)
    check_core(ActorCriticCores(CONFIGS[actor].make_core(3, 4), critic_core, separate_inputs))


@pytest.mark.parametrize("n_layers", [1, 2])
def test_an_lstm_without_input_layer_and_readout_keeps_the_promises_of_a_core(n_layers):
    check_core(LstmCore(3, 4, n_layers))


@pytest.mark.parametrize("outputs", ["readout", "heads"])
@pytest.mark.parametrize("critic", ["separate", "feedforward"])
def test_updates_reproduce_the_rollout(critic, outputs):
    policy_kwargs = {**SMALL, "critic": critic, "outputs": outputs, "share_features_extractor": False}
    ratios, values = [], []

    class Model(RecurrentPPO):
        def _loss(self, sequences):
            output, log_prob, _, _ = self._evaluate(sequences)
            ratios.append((log_prob - sequences.old_log_prob).abs().max().item())
            values.append((output.value - sequences.old_values).abs().max().item())
            return super()._loss(sequences)

    model = Model("MlpPolicy", uneven(), 0.0, n_steps=12, batch_size=24, sequence_length=4, policy_kwargs=policy_kwargs)
    model.learn(2 * 12 * 4)
    assert max(ratios + values) < 1e-5
    model.predict(model.get_env().reset())


def test_the_critic_of_each_kind_has_the_core_that_its_name_says():
    """Only a shared core gets a gradient from both losses."""
    for critic in ("shared", "separate", "feedforward"):
        model = RecurrentPPO("MlpPolicy", uneven(), n_steps=6, policy_kwargs={**SMALL, "critic": critic})
        model.learn(24)
        (sequences,) = model.rollout_buffer.sequences(1, model.policy.initial_state)
        output, _, _, _ = model._evaluate(sequences)
        model.policy.optimizer.zero_grad()
        output.value.sum().backward()
        actor_core = model.policy.core.actor if critic != "shared" else model.policy.core
        assert actor_core.readout.weight.grad.any() == (critic == "shared")
        if critic == "feedforward":
            assert not list(map_state(lambda tensor: tensor, model._last_state.hidden.critic))


@pytest.mark.parametrize(
    ("net_arch", "sizes"), [(None, ([], [])), ([5], ([5], [5])), ({"vf": [7, 3]}, ([], [7, 3])), ([], ([], []))]
)
def test_net_arch(net_arch, sizes):
    heads = LatentHeads(3, 0, 6, separate_critic=False, net_arch=net_arch, activation_fn=nn.ReLU)
    for perceptron, expected, outputs in ((heads.actor, sizes[0], 3), (heads.critic, sizes[1], 1)):
        assert [module.out_features for module in perceptron if isinstance(module, nn.Linear)] == [*expected, outputs]
        assert isinstance(perceptron[0], nn.ReLU)


@pytest.mark.parametrize("net_arch", [{"pf": [3]}, [0], 8, {"pi": 8}])
def test_a_wrong_net_arch_is_refused(net_arch):
    with pytest.raises((TypeError, ValueError), match="net_arch must"):
        RecurrentPPO("MlpPolicy", uneven(), policy_kwargs={**SMALL, "net_arch": net_arch})


@pytest.mark.parametrize(
    "policy_kwargs", [{}, SHARED, {"enable_critic_lstm": False, "share_features_extractor": False, "n_lstm_layers": 2}]
)
@pytest.mark.parametrize("policy", ["MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy"])
def test_policies_of_sb3_contrib(policy, policy_kwargs):
    extractor = {}
    if policy == "CnnLstmPolicy":
        env, extractor = FakeImageEnv(screen_height=40, screen_width=40, n_channels=3), {"features_dim": 32}
    else:
        env = uneven(observation="dict" if policy == "MultiInputLstmPolicy" else "box")
    kwargs = {**LSTM, **policy_kwargs, "features_extractor_kwargs": extractor}
    model = RecurrentPPO(policy, env, n_steps=16, n_epochs=2, policy_kwargs=kwargs, seed=0)
    model.learn(2 * 16 * model.n_envs)
    core = model.policy.core
    lstm = core.recurrent if policy_kwargs == SHARED else core.actor.recurrent
    assert (lstm.hidden_size, lstm.num_layers) == (4, policy_kwargs.get("n_lstm_layers", 1))
    if policy == "CnnLstmPolicy":
        assert model.policy.features_extractor.features_dim == 32
        assert len(model.policy.heads.actor) == 1, "as in sb3-contrib, no hidden layers follow the LSTM"


@pytest.mark.parametrize(
    ("net_arch", "sizes"), [(None, [64, 64, 3]), ([], [3]), ([5], [5, 3]), ({"pi": [7, 4], "vf": [2]}, [7, 4, 3])]
)
def test_net_arch_has_all_layers_after_an_lstm(net_arch, sizes):
    policy = RecurrentPPO("MlpLstmPolicy", uneven(), policy_kwargs={**LSTM, "net_arch": net_arch}).policy
    layers = [module.out_features for module in policy.heads.actor if isinstance(module, nn.Linear)]
    assert layers == sizes
    assert isinstance(policy.heads.actor[0], nn.Linear), "the hidden activity has no further nonlinearity"
    assert not any(isinstance(module, nn.Linear) for module in policy.core.modules())


def test_actions_of_several_dimensions():
    model = RecurrentPPO("MlpLstmPolicy", uneven(action="matrix"), n_steps=16, n_epochs=2, policy_kwargs=LSTM).learn(64)
    assert model.predict(model.get_env().reset())[0].shape == (4, 2, 2)


@pytest.mark.parametrize(
    ("policy", "policy_kwargs", "message"),
    [
        ("MlpPolicy", {"lstm_hidden_size": 8}, "lstm_hidden_size is an argument of 'MlpLstmPolicy'.*hidden_size"),
        ("MlpPolicy", {"enable_critic_lstm": False}, "'critic': 'separate' or 'feedforward'"),
        ("MlpPolicy", {"network": "perceptron"}, "network must be one of rnn, gru.*got 'perceptron'"),
        ("MlpPolicy", {"network": 64}, "network must be a NetworkConfig, its plain data, or a function .* got 64"),
        ("MlpPolicy", {"network": TorchRNN(3, 4, 2, "gru")}, "network must be .* such as its class, got TorchRNN"),
        ("MlpPolicy", {"critic": "own"}, "critic must be one of .* got 'own'"),
        ("MlpPolicy", {"share_features_extractor": False}, "share_features_extractor must be True"),
        ("MlpLstmPolicy", {"network": "hebbian"}, "network is no argument of an LSTM policy"),
        ("MlpLstmPolicy", {"latent_size": 8}, "latent_size is no argument of an LSTM policy"),
        ("MlpLstmPolicy", {"lstm_hidden_size": 0}, "lstm_hidden_size must be at least 1, got 0"),
        ("MlpLstmPolicy", {"shared_lstm": True}, "enable_critic_lstm must be False"),
        ("MlpLstmPolicy", {**SHARED, "share_features_extractor": False}, "share_features_extractor must be True"),
        ("MlpLstmPolicy", {"lstm_kwargs": {"bias": False}}, "lstm_kwargs must have no entry but 'dropout'"),
        ("CnnLstmPolicy", {}, "'CnnLstmPolicy' needs images.*'MlpLstmPolicy'"),
    ],
)
def test_wrong_arguments_name_the_right_ones(policy, policy_kwargs, message):
    with pytest.raises((TypeError, ValueError), match=message):
        RecurrentPPO(policy, uneven(), policy_kwargs=policy_kwargs)


def test_dropout_is_said_to_have_no_effect():
    with pytest.warns(UserWarning, match="dropout.* has no effect"):
        RecurrentPPO("MlpLstmPolicy", uneven(), policy_kwargs={**LSTM, "lstm_kwargs": {"dropout": 0.5}})


def test_a_network_from_plain_data():
    plain = {"rule": "hebbian", "hidden_size": 8, "plasticity": {"max_norm": 3.0}, "encoder": {"name": "none"}}
    assert NetworkConfig.from_data(plain).plasticity.max_norm == 3.0
    assert NetworkConfig.from_data("oja") == NetworkConfig("oja")
    assert NetworkConfig.from_data("lstm") == NetworkConfig("none", "lstm")


@pytest.mark.parametrize(
    ("n_envs", "n_steps", "batch_size", "expected"),
    [
        (8, 16, 128, (16, 1)),
        (8, 16, 4, (4, 32)),
        (1, 16, 128, (16, 1)),
        # batch_size does not divide n_steps.
        (1, 30, 8, (6, 4)),
        (2, 30, 8, (6, 8)),
        (8, 30, 31, (30, 8)),
        (1, 30, 18, (15, 2)),
    ],
)
def test_minibatches_have_about_batch_size_steps(n_envs, n_steps, batch_size, expected):
    model = RecurrentPPO("MlpPolicy", uneven(n_envs), n_steps=n_steps, batch_size=batch_size, policy_kwargs=SMALL)
    assert (model.rollout_buffer.sequence_length, model.n_minibatches) == expected


class Balance(gym.Env):
    """Rewards of 10 for the action that equals the observation, so returns are of order 100."""

    observation_space = gym.spaces.Discrete(2)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.bit, self.t = int(self.np_random.integers(2)), 0
        return self.bit, {}

    def step(self, action):
        reward = 10.0 * (action == self.bit)
        self.bit, self.t = int(self.np_random.integers(2)), self.t + 1
        return self.bit, reward, self.t == 50, False, {}


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [(RecurrentPPO, {"n_steps": 50, "batch_size": 100, "n_epochs": 4}), (RecurrentA2C, {})],
)
def test_large_returns_leave_the_policy_a_gradient(algorithm, arguments):
    """Chance is 250, which is also the result without a unit of values: the value loss dominates the shared core."""
    env = vectorised(Balance, 8)
    network = {"network": NetworkConfig("none", "rnn", hidden_size=32)}
    model = algorithm("MlpPolicy", env, 2e-3, gamma=0.9, policy_kwargs=network, seed=0, **arguments)
    model.learn(3200)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=8)
    assert mean > 450


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("critic", ["shared", "separate", "feedforward"])
def test_the_skip_connection_reaches_actor_and_critic_everywhere(critic, share):
    """Each of the policy's methods has it, and with a separate critic each loss trains its own."""
    if critic == "shared" and not share:
        return
    kwargs = {**SMALL, "critic": critic, "share_features_extractor": share, "ortho_init": False}
    policy = RecurrentPPO("MlpPolicy", uneven(), n_steps=6, policy_kwargs=kwargs, seed=0).policy
    for parameter in policy.core.parameters():
        parameter.data.zero_()  # the core's outputs are zero
    observations = np.random.default_rng(0).normal(size=(50, *policy.observation_space.shape)).astype(np.float32)
    batch, starts = torch.as_tensor(observations), torch.ones(50, dtype=torch.bool)
    actions, values, log_probs, _ = policy(batch, policy.initial_state(50), starts, deterministic=True)
    assert len(actions.unique()) > 1
    assert values.std() > 0
    assert np.array_equal(actions, policy.predict(observations, deterministic=True)[0])
    torch.testing.assert_close(policy.predict_values(batch, policy.initial_state(50)), values)
    output, log_prob, _, _ = policy.evaluate_actions(batch[None], actions, None, starts[None])
    torch.testing.assert_close(output.value, values)
    torch.testing.assert_close(log_prob, log_probs)
    output.value.sum().backward()
    assert [skip.weight.grad.any().item() for skip in policy.skips if skip.weight.grad is not None] in (
        [[True]] if critic == "shared" else [[False, True]]
    )


def test_policies_without_skip_connections():
    assert not RecurrentPPO("MlpPolicy", uneven(), policy_kwargs={**SMALL, "skip_connection": False}).policy.skips
    assert not RecurrentPPO("MlpPolicy", uneven(), policy_kwargs={**SMALL, "outputs": "readout"}).policy.skips
    assert not RecurrentPPO("MlpLstmPolicy", uneven(), policy_kwargs=LSTM).policy.skips, "as in sb3-contrib"


def test_a_task_without_memory_is_learnt_in_five_rollouts():
    """The best mean return is 100, that of chance 25; without the skip connection it is 56."""
    env = DummyVecEnv([lambda: IdentityEnv(4)])
    settings = {"n_steps": 256, "n_epochs": 4, "gamma": 0.4, "policy_kwargs": {"network": "gradient"}, "seed": 3}
    model = RecurrentPPO("MlpPolicy", env, 2e-3, **settings).learn(1200)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=5, warn=False)
    assert mean > 90
