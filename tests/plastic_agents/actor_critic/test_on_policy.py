"""The recurrent actor-critics: rollouts, updates, advantages, and learning of memory."""

from __future__ import annotations

import math
from copy import deepcopy

import gymnasium
import numpy as np
import pytest
import torch
from plastic_agents import RecurrentA2C, RecurrentPPO, make_sb3_vec_env
from plastic_agents.models.core import map_state
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.evaluation import evaluate_policy

from tests.plastic_agents.cores import CORES, FeedForward
from tests.plastic_agents.environments import ACTIONS, OBSERVATIONS, Recall, uneven, vectorised


class Stop(BaseCallback):
    """Ends training after the first rollout, before any update."""

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        raise StopIteration


def collect(algorithm=RecurrentPPO, env=None, core="rnn-gradient", seed=0, **arguments):
    """Return a model with one rollout in its buffer, before any update."""
    policy = {"network": CORES[core], **arguments.pop("policy_kwargs", {})}
    model = algorithm("RecurrentPolicy", env or uneven(), seed=seed, n_steps=12, policy_kwargs=policy, **arguments)
    with pytest.raises(StopIteration):
        model.learn(1, callback=Stop())
    return model


def recompute(model, sequences):
    """Return log-probabilities and values of stored actions, as an update computes them."""
    with torch.no_grad():
        output, log_prob, _, _ = model.policy.evaluate_actions(
            sequences.observations, sequences.actions, sequences.state, sequences.core_starts
        )
    return log_prob, output.value


@pytest.mark.parametrize("sequence_length", [None, 4, 1])
@pytest.mark.parametrize("core", CORES)
def test_updates_reproduce_the_rollout(core, sequence_length):
    """Episodes end inside sequences, and sequences start inside episodes."""
    model = collect(core=core, sequence_length=sequence_length)
    n_steps = 0
    for sequences in model.rollout_buffer.sequences(2, model.policy.initial_state):
        log_prob, value = recompute(model, sequences)
        torch.testing.assert_close(log_prob, sequences.old_log_prob, rtol=0, atol=2e-5)
        torch.testing.assert_close(value, sequences.old_values, rtol=0, atol=2e-5)
        n_steps += len(value)
    assert n_steps == 12 * 4


@pytest.mark.parametrize("outputs", ["readout", "heads"])
@pytest.mark.parametrize("action", ACTIONS)
def test_updates_reproduce_the_rollout_in_every_action_space(action, outputs):
    model = collect(env=uneven(action=action), policy_kwargs={"outputs": outputs}, sequence_length=6)
    (sequences,) = model.rollout_buffer.sequences(1, model.policy.initial_state)
    log_prob, value = recompute(model, sequences)
    torch.testing.assert_close(log_prob, sequences.old_log_prob, rtol=0, atol=2e-5)
    torch.testing.assert_close(value, sequences.old_values, rtol=0, atol=2e-5)
    model.learn(2 * 12 * 4)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_updates_reproduce_the_rollout_in_every_observation_space(observation):
    model = collect(env=uneven(observation=observation), sequence_length=6, batch_size=24)
    (sequences,) = model.rollout_buffer.sequences(1, model.policy.initial_state)
    log_prob, _ = recompute(model, sequences)
    torch.testing.assert_close(log_prob, sequences.old_log_prob, rtol=0, atol=2e-5)
    model.learn(12 * 4)


def test_minibatches_have_every_sequence_once_with_its_state():
    model = collect(sequence_length=3)
    buffer = model.rollout_buffer
    starts = []
    for sequences in buffer.sequences(5, model.policy.initial_state):
        length, n = sequences.core_starts.shape
        assert length == 3
        assert n in (3, 4)
        for i in range(n):
            first = sequences.old_values.reshape(3, n)[0, i].item()
            (t,), (env,) = np.nonzero(buffer.values == first)
            starts.append((t, env))
            stored = buffer._start_states[t // 3]
            if stored is not None and not buffer.episode_starts[t, env]:
                expected = map_state(lambda tensor, env=env: tensor[env], stored)
                result = map_state(lambda tensor, i=i: tensor[i], sequences.state)
                map_state(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), expected, result)
    assert sorted(starts) == [(t, env) for t in (0, 3, 6, 9) for env in range(4)]


def test_states_are_stored_only_for_sequences_that_start_inside_an_episode():
    model = collect(env=vectorised(Recall), sequence_length=3)
    assert model.rollout_buffer._start_states == [None] * 4
    model = collect(env=vectorised(Recall), sequence_length=4)
    assert [state is None for state in model.rollout_buffer._start_states] == [True, False, False]


@pytest.mark.parametrize("core", ["rnn-hebbian", "lstm-none", "averager"])
def test_two_rollouts_equal_one_of_twice_the_length(core):
    """The learning rate is zero, and the state passes from the first rollout to the second."""
    policy = {"network": CORES[core]}
    log_probs = []
    for n_steps in (12, 6):
        model = RecurrentPPO(
            "RecurrentPolicy", uneven(), 0.0, n_steps=n_steps, n_epochs=1, policy_kwargs=policy, seed=3
        )
        rollouts = []

        class Record(BaseCallback):
            def _on_step(self):
                return True

            def _on_rollout_end(self):
                rollouts.append(self.model.rollout_buffer.log_probs.copy())  # noqa: B023

        model.learn(12 * 4, callback=Record())
        log_probs.append(np.concatenate(rollouts))
    np.testing.assert_allclose(log_probs[0], log_probs[1], rtol=0, atol=1e-6)


def reference_advantages(rewards, values, starts, last_value, last_done, bootstrap, gamma, gae_lambda):
    """Return the advantages of one environment by their definition: sums of discounted one-step errors."""
    steps = len(rewards)
    ends = np.append(starts[1:], last_done).astype(bool)
    following = np.append(values[1:], last_value)
    errors = rewards + bootstrap + np.where(ends, 0, gamma * following) - values
    advantages = np.zeros(steps)
    for t in range(steps):
        for k in range(t, steps):
            advantages[t] += (gamma * gae_lambda) ** (k - t) * errors[k]
            if ends[k]:
                break
    return advantages


@pytest.mark.parametrize("core", ["rnn-gradient", "gru-none"])
def test_advantages_equal_their_definition_with_time_limits(core):
    """The test computes the values at time limits by replaying each episode step by step."""
    gamma, gae_lambda = 0.9, 0.8
    env = uneven()
    steps = []

    class Watch(BaseCallback):
        def _on_step(self):
            steps.append((self.locals["dones"].copy(), deepcopy(self.locals["infos"])))
            return True

    model = RecurrentPPO(
        "RecurrentPolicy",
        env,
        n_steps=12,
        gamma=gamma,
        gae_lambda=gae_lambda,
        seed=5,
        policy_kwargs={"network": CORES[core]},
    )
    with pytest.raises(StopIteration):
        model.learn(1, callback=CallbackList([Watch(), Stop()]))
    buffer, policy = model.rollout_buffer, model.policy
    n_truncated = 0
    for lane in range(4):
        state = policy.initial_state(1)
        bootstrap = np.zeros(12)
        for t in range(12):
            if buffer.episode_starts[t, lane]:
                state = policy.initial_state(1)
            _, state = policy.predict(buffer.observations[t, lane][None], state)
            dones, infos = steps[t]
            if dones[lane] and infos[lane]["TimeLimit.truncated"]:
                last_obs = torch.as_tensor(infos[lane]["terminal_observation"])[None]
                bootstrap[t] = gamma * policy.predict_values(last_obs, state).item()
                n_truncated += 1
        last_value = policy.predict_values(torch.as_tensor(model._last_obs[lane])[None], state).item()
        expected = reference_advantages(
            buffer.rewards[:, lane],
            buffer.values[:, lane],
            buffer.episode_starts[:, lane],
            last_value,
            model._last_episode_starts[lane],
            bootstrap,
            gamma,
            gae_lambda,
        )
        np.testing.assert_allclose(buffer.advantages[:, lane], expected, rtol=0, atol=1e-5)
    assert n_truncated >= 2


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
def test_same_seed_gives_same_weights(algorithm):
    def weights(seed):
        model = algorithm("RecurrentPolicy", uneven(), n_steps=12, sequence_length=6, seed=seed)
        return model.learn(3 * 12 * 4).policy.state_dict()

    first, second, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments"),
    [
        (RecurrentPPO, PPO, {"n_epochs": 3, "ent_coef": 0.01, "clip_range_vf": 0.1}),
        (RecurrentPPO, PPO, {"n_epochs": 4, "target_kl": 1e-4, "normalize_advantage": False}),
        (RecurrentA2C, A2C, {"ent_coef": 0.01}),
        (RecurrentA2C, A2C, {"use_rms_prop": False, "normalize_advantage": True}),
    ],
)
def test_updates_of_a_core_without_memory_equal_stable_baselines3(ours, theirs, arguments):
    """Both update the same two-layer network with the same rollout."""
    kwargs = {"outputs": "heads", "skip_connection": False}
    model = collect(ours, core="feed-forward", policy_kwargs=kwargs, **arguments)
    whole = {"batch_size": 48} if theirs is PPO else {}
    yours = theirs(
        "MlpPolicy", uneven(), n_steps=12, seed=0, policy_kwargs={"net_arch": [64, 64]}, **whole, **arguments
    )
    yours._setup_learn(1)
    policy, buffer = model.policy, model.rollout_buffer
    policy.heads.rescale_value(1.0)  # Stable-Baselines3 does not scale the errors of values
    # Policy and value share no layers in Stable-Baselines3, so give both the layers of the core.
    core, actor, critic = policy.core.layers, policy.heads.actor[-1], policy.heads.critic[-1]
    with torch.no_grad():
        for net in (yours.policy.mlp_extractor.policy_net, yours.policy.mlp_extractor.value_net):
            for layer, source in ((net[0], core[0]), (net[2], core[2])):
                layer.weight.copy_(source.weight)
                layer.bias.copy_(source.bias)
        for layer, head in ((yours.policy.action_net, actor), (yours.policy.value_net, critic)):
            layer.weight.copy_(head.weight)
            layer.bias.copy_(head.bias)
    for name in ("actions", "rewards", "episode_starts", "values", "log_probs", "advantages", "returns"):
        setattr(yours.rollout_buffer, name, getattr(buffer, name).copy())
    yours.rollout_buffer.observations = (
        policy.features_extractor(torch.as_tensor(buffer.observations).flatten(0, 1)).reshape(12, 4, 3).numpy()
    )
    yours.rollout_buffer.full = True
    # The core's layers are shared, so tie the layers of Stable-Baselines3 by adding their gradients.
    sgd = {"lr": 0.1}
    policy.optimizer = torch.optim.SGD(policy.parameters(), **sgd)
    tied = Tied(yours.policy, sgd["lr"])
    yours.policy.optimizer = tied
    model.max_grad_norm = yours.max_grad_norm = 1e9
    model.learning_rate = 0.1
    model.lr_schedule = yours.lr_schedule = lambda _: 0.1
    before = actor.weight.detach().clone()
    model.train()
    yours.train()
    assert (actor.weight - before).abs().max() > 1e-3
    for ours_, theirs_ in (
        (core[0].weight, yours.policy.mlp_extractor.policy_net[0].weight),
        (core[2].bias, yours.policy.mlp_extractor.policy_net[2].bias),
        (actor.weight, yours.policy.action_net.weight),
        (critic.weight, yours.policy.value_net.weight),
    ):
        torch.testing.assert_close(ours_, theirs_, rtol=0, atol=1e-5)


class Tied(torch.optim.SGD):
    """Gradient descent that keeps the two nets of Stable-Baselines3's policy equal."""

    def __init__(self, policy, lr):
        self.policy = policy
        super().__init__(policy.parameters(), lr=lr)

    def step(self, closure=None):
        extractor = self.policy.mlp_extractor
        for a, b in zip(extractor.policy_net.parameters(), extractor.value_net.parameters(), strict=True):
            a.grad = b.grad = a.grad + b.grad
        super().step(closure)


def test_the_auxiliary_loss_predicts_rewards():
    """The core learns to predict rewards that depend on the action."""
    model = RecurrentPPO(
        "RecurrentPolicy", vectorised(Recall, 16), 1e-2, n_steps=12, reward_prediction_coef=10.0, seed=0
    )
    model.learn(25 * 16 * 12)
    (sequences,) = model.rollout_buffer.sequences(1, model.policy.initial_state)
    with torch.no_grad():
        output, *_ = model.policy.evaluate_actions(
            sequences.observations, sequences.actions, sequences.state, sequences.core_starts
        )
    predicted = output.rewards.gather(1, sequences.actions[:, None])[:, 0]
    assert (predicted - sequences.rewards).square().mean() < 0.02


def test_rewards_can_be_predicted_in_standard_deviations_from_their_mean():
    model = RecurrentPPO(
        "RecurrentPolicy",
        vectorised(Recall, 4),
        n_steps=6,
        reward_prediction_coef=1.0,
        normalize_predicted_rewards=True,
        seed=0,
    )
    model.learn(4 * 6)
    (sequences,) = model.rollout_buffer.sequences(1, model.policy.initial_state)
    with torch.no_grad():
        _, metrics = model._loss(sequences)
        output, *_ = model._evaluate(sequences)
    predicted = output.rewards.gather(1, sequences.actions[:, None])[:, 0].numpy()
    rewards = sequences.rewards.numpy()
    assert rewards.std() > 0.1
    expected = np.square(predicted - (rewards - rewards.mean()) / rewards.std(ddof=1)).mean()
    assert metrics["reward_prediction_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("core", "algorithm"),
    [
        ("rnn-hebbian", RecurrentPPO),
        ("rnn-gradient", RecurrentPPO),
        ("gru-none", RecurrentA2C),
        ("averager", RecurrentPPO),
    ],
)
def test_memory_is_learnt_by_reinforcement_learning(core, algorithm):
    """Without memory, the best possible return is 0.5, which is also chance."""
    extra = {"n_epochs": 2} if algorithm is RecurrentPPO else {"use_rms_prop": False}
    policy = {"network": CORES[core]}
    model = algorithm(
        "RecurrentPolicy",
        vectorised(Recall, 32),
        1e-2,
        n_steps=3,
        gamma=0.9,
        ent_coef=0.01,
        seed=0,
        policy_kwargs=policy,
        **extra,
    )
    model.learn(32 * 3 * 150)
    mean, _ = evaluate_policy(model, vectorised(Recall, 8), n_eval_episodes=200)
    assert mean > 0.95


def test_a_core_without_memory_stays_at_chance():
    model = RecurrentPPO(
        "RecurrentPolicy", vectorised(Recall, 32), 1e-2, n_steps=3, seed=0, policy_kwargs={"network": FeedForward}
    )
    model.learn(32 * 3 * 50)
    mean, _ = evaluate_policy(model, vectorised(Recall, 8), n_eval_episodes=200)
    assert mean < 0.65


def test_episodes_that_terminate_with_the_rollout_need_no_bootstrapping():
    """The last step of an episode of CueReward is terminal, so its return is its reward."""
    model = RecurrentPPO("RecurrentPolicy", make_sb3_vec_env("PlasticRNN/CueReward-v0", 8), n_steps=20, gae_lambda=1.0)
    with pytest.raises(StopIteration):
        model.learn(1, callback=Stop())
    buffer = model.rollout_buffer
    np.testing.assert_allclose(buffer.returns[-1], buffer.rewards[-1], atol=1e-6)
    assert buffer._start_states == [None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_steps": 12, "sequence_length": 5}, "sequence_length must divide n_steps=12, got 5"),
        ({"n_steps": 12, "sequence_length": 0}, "got 0"),
        ({"n_steps": 127, "batch_size": 16}, "batch_size must be near a divisor of n_steps=127, .* got 16"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"n_steps": 0}, "n_steps must be at least 1, got 0"),
        ({"gamma": 1.5}, "gamma must be .* got 1.5"),
        ({"gae_lambda": -1}, "gae_lambda must be .* got -1"),
        ({"n_epochs": 0}, "n_epochs must be at least 1, got 0"),
        ({"learning_rate": -1e-3}, "learning_rate must be .* got -0.001"),
        ({"ent_coef": math.nan}, "ent_coef must be .* got nan"),
        ({"vf_coef": -1}, "vf_coef must be .* got -1"),
        ({"max_grad_norm": -1}, "max_grad_norm must be .* got -1"),
        ({"clip_range": -0.1}, "clip_range must be .* got -0.1"),
        ({"clip_range_vf": 0}, "clip_range_vf must be .* got 0"),
        ({"target_kl": math.nan}, "target_kl must be .* got nan"),
        ({"reward_prediction_coef": -1}, "reward_prediction_coef must be .* got -1"),
        (
            {"reward_prediction_coef": 1, "policy_kwargs": {"predicts_reward": False}},
            r"policy_kwargs\['predicts_reward'\] must be True .* got False",
        ),
        ({"policy": "Lstm"}, "policy must be one of .* MlpPolicy, .* got 'Lstm'"),
        ({"use_sde": True}, "use_sde must be False .*log_std_init"),
        ({"policy_kwargs": {"outputs": "both"}}, "outputs must be one of .* got 'both'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RecurrentPPO(**{"policy": "RecurrentPolicy", "env": uneven(), **arguments})


def test_a_vector_environment_of_gymnasium_is_refused():
    with pytest.raises(TypeError, match=r"env must be made a VecEnv first, by make_sb3_vec_env"):
        RecurrentPPO("RecurrentPolicy", gymnasium.make_vec("PlasticRNN/CueReward-v0", num_envs=2))


def test_reward_prediction_needs_discrete_actions():
    with pytest.raises(ValueError, match="Discrete actions only"):
        RecurrentPPO("RecurrentPolicy", uneven(action="box"), reward_prediction_coef=1.0)


def test_a_network_that_is_no_core_is_refused():
    with pytest.raises(TypeError, match=r"network must be a plastic_agents\.RecurrentCore, got Linear"):
        RecurrentPPO("RecurrentPolicy", uneven(), policy_kwargs={"network": torch.nn.Linear})
