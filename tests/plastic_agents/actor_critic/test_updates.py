"""Updates of the actor-critics: log-ratios, overflows, divergence, and the effect of each setting."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from plastic_agents import (
    REINFORCEMENT_RECIPES,
    CoreOutput,
    CosineSchedule,
    LinearSchedule,
    NetworkConfig,
    Plasticity,
    RecurrentA2C,
    RecurrentCore,
    RecurrentPPO,
    ReinforcementConfig,
    ReinforcementLearner,
    State,
    write_json,
)
from plastic_agents.actor_critic.heads import LatentHeads
from plastic_agents.actor_critic.policy import MAX_ACTIVITY
from plastic_agents.actor_critic.vec_env import SB3VecEnv
from plastic_agents.cli.main import main
from plastic_agents.models.core import map_state
from plastic_agents.models.image_encoders import DropBlock, EncoderConfig
from plastic_agents.sweep.plan import plan_sweep
from plastic_agents.sweep.results import read_results
from plastic_agents.sweep.run import run_trial
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.envs import IdentityEnv
from stable_baselines3.common.utils import ConstantSchedule
from torch import nn

from plastic_envs import make_task
from plastic_envs.vector_env import TaskVectorEnv
from tests.plastic_agents.cores import CONFIGS, Averager
from tests.plastic_agents.environments import uneven

SMALL = {"network": NetworkConfig("hebbian", hidden_size=8)}


class AtRolloutEnd(BaseCallback):
    """Calls a function with the local variables at the end of each rollout; False from it raises StopIteration."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        if self.function(self.locals) is False:
            raise StopIteration


def log_ratios(model, steps):
    """Return the largest absolute log-ratio of each minibatch, as the updates of ``learn`` compute it."""
    largest = []
    policy_loss = model._policy_loss

    def spy(log_prob, old_log_prob, advantages):
        largest.append((log_prob - old_log_prob).abs().max().item())
        return policy_loss(log_prob, old_log_prob, advantages)

    model._policy_loss = spy
    model.learn(steps)
    return largest


# Log-ratios before the first step of an update


def image_model(encoder, learning_rate, algorithm=RecurrentPPO, **arguments):
    """Return a model for images, with DropBlock at its full rate."""
    task = make_task("PlasticRNN/FewShotClassification-v0", n_way=2, image_size=16)
    env = SB3VecEnv(TaskVectorEnv(task, 8, autoreset_mode="SameStep"))
    policy = {"network": NetworkConfig("hebbian", hidden_size=8, encoder=encoder)}
    model = algorithm("MultiInputPolicy", env, learning_rate, n_steps=6, policy_kwargs=policy, seed=0, **arguments)
    for module in model.policy.modules():
        if isinstance(module, DropBlock):
            module.batches.fill_(module.growth)  # it drops from the first step on
    return model


@pytest.mark.parametrize("name", ["conv-4", "resnet-12"])
@pytest.mark.parametrize("frozen", [True, False])
def test_ratios_are_1_without_learning_behind_an_encoder(name, frozen):
    model = image_model(EncoderConfig(name, channels=4, frozen=frozen), 0.0, batch_size=12, n_epochs=2)
    (encoder,) = model.policy.features_extractor.observation_encoder.image_encoders
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    ratios = log_ratios(model, 2 * 48)
    assert len(ratios) == 2 * 4 * 2
    assert max(ratios) < 1e-5
    after = encoder.state_dict()
    assert not torch.equal(after["standardise.running_mean"], before["standardise.running_mean"])
    statistics = [key for key in before if key.startswith("network") and "running" in key]
    assert [torch.equal(after[key], before[key]) for key in statistics] == [frozen] * len(statistics)


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
def test_ratios_start_at_1_in_every_update_while_an_encoder_learns(algorithm):
    minibatches = {"batch_size": 12, "n_epochs": 2} if algorithm is RecurrentPPO else {}
    model = image_model(EncoderConfig("conv-4", channels=4), 1e-2, algorithm, **minibatches)
    ratios = log_ratios(model, 4 * 48)
    per_update = len(ratios) // 4
    assert max(ratios[::per_update]) < 1e-5
    assert algorithm is RecurrentA2C or min(max(ratios[i : i + 8]) for i in range(0, 32, 8)) > 1e-3


def test_normalisation_statistics_come_from_rollouts():
    model = image_model(EncoderConfig("conv-4", channels=4, frozen=True), 0.0)
    (encoder,) = model.policy.features_extractor.observation_encoder.image_encoders
    model.learn(48)
    images = next(model.rollout_buffer.sequences(1, None)).observations["image"]
    features = encoder.network(images.reshape(-1, 1, 16, 16) / 255 * 2 - 1)
    momentum = encoder.standardise.momentum
    torch.testing.assert_close(encoder.standardise.running_mean, momentum * features.mean(0), rtol=1e-3, atol=1e-6)


class WithDropout(Averager):
    """A core with dropout."""

    def step(self, x, state):
        return super().step(nn.functional.dropout(x, 0.5, self.training), state)


def test_ratios_are_1_with_dropout_in_the_core():
    model = RecurrentPPO("RecurrentPolicy", uneven(), 0.0, n_steps=12, policy_kwargs={"network": WithDropout}, seed=0)
    assert max(log_ratios(model, 12 * 4)) < 1e-5


def test_torch_modules_that_cudnn_differentiates_are_in_training_mode():
    class WithLSTMs(RecurrentCore):
        """A core with torch's LSTM, with and without dropout between its layers."""

        def __init__(self, input_size, output_size):
            super().__init__(input_size, output_size)
            self.plain, self.with_dropout = nn.LSTM(2, 2), nn.LSTM(2, 2, 2, dropout=0.5)
            self.readout = nn.Linear(input_size, output_size)

        def initial_state(self, batch_size):
            return State(())

        def step(self, x, state):
            return CoreOutput(self.readout(x)), state

    model = RecurrentPPO("RecurrentPolicy", uneven(), policy_kwargs={"network": WithLSTMs})
    model._set_update_mode()
    core = model.policy.core
    assert (core.training, core.plain.training, core.with_dropout.training) == (False, True, False)


# Long episodes


class Constant(gym.Env):
    """A constant observation and a reward of 1 at every step, in an episode that does not end."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.ones(4, np.float32), {}

    def step(self, action):
        return np.ones(4, np.float32), 1.0, False, False, {}


def check_activity(tensor):
    assert tensor.abs().max() < 10 * MAX_ACTIVITY


@pytest.mark.parametrize("core", CONFIGS)
def test_every_core_stays_finite_at_the_defaults(core):
    """Without restarts, relu RNNs overflow after about 200 steps."""
    config = replace(CONFIGS[core], hidden_size=128)
    model = RecurrentA2C("MlpPolicy", IdentityEnv(2), policy_kwargs={"network": config}, seed=0)
    model.learn(1024)
    assert all(torch.isfinite(parameter).all() for parameter in model.policy.parameters())
    map_state(check_activity, model._last_state.hidden)


def amplifying(core="rnn-hebbian", gain=3.0, **arguments):
    """Return a model whose hidden activity grows from step to step."""
    policy = {"network": CONFIGS[core], "outputs": "heads"}
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=24, policy_kwargs=policy, seed=0, **arguments)
    core = model.policy.core
    weight = core.hidden_to_hidden.weight if hasattr(core, "hidden_to_hidden") else core.recurrent.weight_hh_l0
    with torch.no_grad():
        weight.copy_(gain * MAX_ACTIVITY**0.5 * torch.eye(8))
    return model


def test_restarts_after_overflows_are_logged_and_many_of_them_warn():
    model = amplifying(learning_rate=0.0, batch_size=48)
    with pytest.warns(
        UserWarning, match=r"hidden activity exceeded 1000 at \d+\.\d% of the steps of a rollout"
    ) as record:
        model.learn(2 * 24 * 4, log_interval=3)
    assert len(record) == 1
    buffer = model.rollout_buffer
    rate = (buffer.core_starts & (buffer.episode_starts == 0)).mean()
    assert model.logger.name_to_value["rollout/overflow_rate"] == pytest.approx(rate)
    assert "rollout/overflow_rate" not in one_update().logger.name_to_value


@pytest.mark.parametrize("schedule", [LinearSchedule(1.0, 0.25), CosineSchedule(1.0, 0.25)])
def test_schedules_keep_their_last_value_in_a_rollout_that_is_longer_than_the_training(schedule):
    assert [schedule(progress) for progress in (1.0, 0.5, 0.0, -1.0)] == pytest.approx([1.0, 0.625, 0.25, 0.25])


@pytest.mark.parametrize("sequence_length", [24, 4])
@pytest.mark.parametrize("core", ["rnn-hebbian", "rnn-gradient", "rnn-none"])
def test_cores_restart_after_an_overflow_in_rollouts_and_updates_alike(core, sequence_length):
    model = amplifying(core, learning_rate=0.0, sequence_length=sequence_length, batch_size=48)
    ratios = log_ratios(model, 2 * 24 * 4)
    buffer = model.rollout_buffer
    overflows = buffer.core_starts & (buffer.episode_starts == 0)
    assert 0.05 < overflows.mean() < 0.6
    assert (buffer.core_starts[buffer.episode_starts == 1]).all()
    assert max(ratios) < 1e-5


def test_predict_restarts_after_an_overflow_like_rollouts():
    model = amplifying()
    with pytest.raises(StopIteration):
        model.learn(1, callback=AtRolloutEnd(lambda local_variables: False))
    buffer = model.rollout_buffer
    state = None
    for t in range(24):
        observation = buffer.observations[t]
        value = None if state is None else model.policy.predict_values(torch.as_tensor(observation), state)
        _, state = model.predict(observation, state, buffer.episode_starts[t])
        lanes = buffer.episode_starts[t] == 0  # predict_values starts no episodes
        if value is not None and lanes.any():
            np.testing.assert_allclose(value.detach()[lanes], buffer.values[t, lanes], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.hidden.h, model._last_state.hidden.h, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_an_untrained_policy_stays_finite_for_a_constant_input(seed):
    core = NetworkConfig("hebbian", plasticity=Plasticity(max_norm=10.0))
    model = RecurrentPPO("MlpPolicy", Constant(), policy_kwargs={"network": core}, seed=seed)
    state = None
    for _ in range(1500):
        _, state = model.predict(np.ones((1, 4), np.float32), state)
    assert state.hidden.h.abs().max() < 10 * MAX_ACTIVITY


# Divergence


def poison(parameter, value=math.nan):
    with torch.no_grad():
        parameter.fill_(value)


ADVICE = r".*a lower learning_rate than 0\.0003 or max_grad_norm than 0\.5 may help"


@pytest.mark.parametrize("outputs", ["readout", "heads"])
def test_divergence_while_acting_is_an_error(outputs):
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs={**SMALL, "outputs": outputs})
    poison(model.policy.core.readout.weight if outputs == "readout" else model.policy.heads.actor[-1].weight)
    with pytest.raises(FloatingPointError, match=r"^step 0, update 0: the policy's outputs are not finite" + ADVICE):
        model.learn(24)
    with pytest.raises(FloatingPointError, match="the policy's outputs are not finite"):
        model.predict(model.get_env().reset())


@pytest.mark.parametrize("ended", [False, True])
def test_divergence_of_bootstrapped_values_is_an_error(ended, monkeypatch):
    """Both the values of the last observations and those at time limits are checked."""
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL, seed=0)
    policy, predict_values = model.policy, model.policy.predict_values

    def poisoned(obs, state):
        if (len(obs) < 4) == ended:
            poison(policy.core.readout.weight)
        return predict_values(obs, state)

    monkeypatch.setattr(policy, "predict_values", poisoned)
    with pytest.raises(FloatingPointError, match=r"^step \d+, update 0: the policy's outputs are not finite" + ADVICE):
        model.learn(24)


@pytest.mark.parametrize("log_std", [math.nan, math.inf, -1000.0, 1000.0])
def test_divergence_of_the_standard_deviation_is_an_error(log_std):
    model = RecurrentPPO("RecurrentPolicy", uneven(action="box"), n_steps=6, policy_kwargs=SMALL)
    poison(model.policy.log_std, log_std)
    with pytest.raises(FloatingPointError, match="step 0, update 0: the standard deviation of the actions" + ADVICE):
        model.learn(24)


def test_divergence_in_an_update_names_the_current_learning_rate():
    model = RecurrentPPO("RecurrentPolicy", uneven(), LinearSchedule(1e-3), n_steps=6, policy_kwargs=SMALL)

    def poison_readout(local_variables):
        if model.num_timesteps == 48:
            poison(model.policy.core.readout.weight, 1e30)

    message = r"^step 48, update 11: loss \S+, gradient norm (inf|nan); a lower learning_rate than 0\.0005 "
    with pytest.raises(FloatingPointError, match=message):
        model.learn(96, callback=AtRolloutEnd(poison_readout))


def test_divergence_of_parameters_is_an_error():
    rate = ConstantSchedule(math.inf)
    model = RecurrentPPO("RecurrentPolicy", uneven(), rate, n_steps=6, n_epochs=1, policy_kwargs=SMALL)
    with pytest.raises(FloatingPointError, match=r"^step 24, update 1: a parameter is not finite; .* than inf "):
        model.learn(24)


DIVERGING = {"total_timesteps": 2000, "n_envs": 4, "learning_rate": 1e3, "evaluation_episodes": 4}


def test_the_command_exits_with_code_1_if_a_policy_diverges(tmp_path, capsys):
    options = [
        word for name, value in DIVERGING.items() for word in (f"--training.{name.replace('_', '-')}", str(value))
    ]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--algo", "ppo", "cue-choice-hebbian", "--out", str(tmp_path / "run"), *options])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plastic-rnn: ")]
    assert stop.value.code == 1
    assert re.match(r"plastic-rnn: step \d+, update \d+: .*; a lower learning_rate than \d+ or max_grad_norm", line)


def test_a_sweep_distinguishes_divergence_from_failure(tmp_path):
    settings = {f"training.{name}": value for name, value in DIVERGING.items()}
    (trial,) = plan_sweep({"diverging": REINFORCEMENT_RECIPES["cue-choice-hebbian"]}, settings=settings)
    folder = tmp_path / "trials" / trial.name
    write_json(tmp_path / "sweep.json", {"trials": [trial.to_json()]})
    folder.mkdir(parents=True)
    run_trial(trial, folder, lambda evaluation: None)
    (row,) = read_results(tmp_path)
    assert row["status"] == "diverged"
    assert row["error"].startswith("FloatingPointError: step ")


# Settings


def one_update(algorithm=RecurrentPPO, **arguments):
    """Return a model after one update, by default of one epoch with one minibatch."""
    single = {"n_epochs": 1} if algorithm is RecurrentPPO else {}
    model = algorithm("RecurrentPolicy", uneven(), n_steps=6, seed=0, **{"policy_kwargs": SMALL, **single, **arguments})
    return model.learn(24)


def test_loss_is_the_weighted_sum_of_its_terms():
    logged = one_update(vf_coef=7.0, ent_coef=LinearSchedule(3.0, 1.0)).logger.name_to_value
    # The update comes at the end of training, when the schedule has its last value.
    expected = logged["train/policy_gradient_loss"] + logged["train/entropy_loss"] + 7 * logged["train/value_loss"]
    assert logged["train/value_loss"] > 0.1
    assert logged["train/entropy_loss"] < -0.5
    assert logged["train/loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("max_grad_norm", [1e-3, 1e9])
def test_gradient_is_clipped(max_grad_norm):
    model = RecurrentPPO(
        "RecurrentPolicy",
        uneven(),
        1.0,
        n_steps=6,
        n_epochs=1,
        max_grad_norm=max_grad_norm,
        # Without a unit of values, whose change would rescale a layer.
        policy_kwargs={**SMALL, "outputs": "readout", "optimizer_class": torch.optim.SGD},
        seed=0,
    )
    before = nn.utils.parameters_to_vector(model.policy.parameters()).detach().clone()
    model.learn(24)
    distance = (nn.utils.parameters_to_vector(model.policy.parameters()) - before).norm().item()
    norm = model.logger.name_to_value["train/gradient_norm"]
    assert 0.1 < norm < 1e3
    assert distance == pytest.approx(min(norm, max_grad_norm), rel=1e-3)


def test_minibatches_differ_between_epochs():
    model = one_update(sequence_length=3)
    buffer = model.rollout_buffer
    epochs = [
        [tuple(sequences.old_values.tolist()) for sequences in buffer.sequences(4, model.policy.initial_state)]
        for _ in range(2)
    ]
    assert set(epochs[0]) != set(epochs[1])
    assert sorted(sum(epochs[0], ())) == sorted(sum(epochs[1], ()))


def test_callbacks_have_the_last_values_of_a_rollout():
    records = []
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL, seed=0)

    def record(local_variables):
        observations = torch.as_tensor(local_variables["new_obs"])
        expected = model.policy.predict_values(observations, local_variables["state"])
        records.append((local_variables["last_values"], expected.detach(), local_variables["dones"]))

    model.learn(48, callback=AtRolloutEnd(record))
    assert len(records) == 2
    for last_values, expected, dones in records:
        assert not dones.all()
        torch.testing.assert_close(last_values, expected)


def test_initial_policy_is_nearly_uniform():
    policy = {**SMALL, "outputs": "heads"}
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=policy, seed=0)
    heads = model.policy.heads
    norms = torch.cat([head[-1].weight.norm(dim=1) for head in (heads.actor, heads.critic)])
    torch.testing.assert_close(norms, torch.tensor([0.01, 0.01, 0.01, 1.0]))
    output = model.policy.read_outputs(100 * torch.randn(50, 64))
    probabilities = model.policy.distribution(output.parameters).distribution.probs
    assert (probabilities - 1 / 3).abs().max() < 0.05


class Generous(Constant):
    """Rewards of 100."""

    def step(self, action):
        observation, reward, *ends = super().step(action)
        return observation, 100 * reward, *ends


@pytest.mark.parametrize(("env", "unit"), [(Generous, 100.0), (Constant, 1.0)])
def test_the_unit_of_the_value_head_is_that_of_returns(env, unit):
    model = RecurrentPPO("MlpPolicy", env(), n_steps=12, gamma=0.0, policy_kwargs=SMALL, learning_rate=0.0)
    before = [parameter.clone() for parameter in model.policy.heads.critic.parameters()]
    model.learn(3 * model.n_envs * 12)
    assert model.policy.heads.value_scale.item() == pytest.approx(unit, rel=1e-3)
    # The values stay the same: the last layer shrinks by as much as the unit grows.
    for parameter, old in zip(model.policy.heads.critic.parameters(), before, strict=True):
        torch.testing.assert_close(parameter * unit, old, rtol=1e-3, atol=1e-6)
    if env is Generous:
        assert model.logger.name_to_value["train/value_loss"] == pytest.approx(1.0, abs=0.05)


def test_initial_standard_deviation_is_log_std_init():
    policy = {**SMALL, "log_std_init": -0.7}
    model = RecurrentPPO("RecurrentPolicy", uneven(action="box"), policy_kwargs=policy)
    torch.testing.assert_close(model.policy.log_std.detach(), torch.full((2,), -0.7))
    distribution = model.policy.distribution(torch.zeros(3, 2)).distribution
    torch.testing.assert_close(distribution.stddev, torch.full((3, 2), math.exp(-0.7)))


def test_optimisers_have_the_settings_of_stable_baselines3():
    (adam,) = one_update().policy.optimizer.param_groups
    assert (type(one_update().policy.optimizer), adam["eps"]) == (torch.optim.Adam, 1e-5)
    model = one_update(RecurrentA2C, rms_prop_eps=1e-4)
    (rms_prop,) = model.policy.optimizer.param_groups
    assert type(model.policy.optimizer) is torch.optim.RMSprop
    assert (rms_prop["alpha"], rms_prop["eps"], rms_prop["weight_decay"]) == (0.99, 1e-4, 0)


def test_clip_range_vf_is_logged():
    assert one_update(clip_range_vf=0.3).logger.name_to_value["train/clip_range_vf"] == pytest.approx(0.3)
    assert "train/clip_range_vf" not in one_update().logger.name_to_value


@pytest.mark.parametrize("verbose", [0, 1])
def test_early_stopping_is_printed_if_verbose(verbose, capsys):
    model = one_update(learning_rate=1e-1, n_epochs=10, target_kl=1e-6, verbose=verbose)
    assert model._n_updates < 10
    line = "Early stopping at step 1 due to reaching max kl: "
    assert (line in capsys.readouterr().out) == bool(verbose)


def test_reinforcement_config_reaches_the_algorithm():
    config = ReinforcementConfig(
        n_envs=2,
        rollout_episodes=3,
        n_epochs=5,
        batch_size=60,
        learning_rate=0.02,
        final_learning_rate=0.5,
        gamma=0.8,
        gae_lambda=0.7,
        clip_range=0.3,
        ent_coef=0.4,
        vf_coef=0.6,
        max_grad_norm=0.9,
        log_std_init=-0.25,
        outputs="heads",
        seed=11,
    )
    for algorithm in (RecurrentPPO, RecurrentA2C):
        if algorithm is RecurrentA2C:
            config = replace(config, algorithm="a2c", n_epochs=1, batch_size=None)
        learner = ReinforcementLearner("PlasticRNN/CueReward-v0", NetworkConfig("none", hidden_size=4), config)
        model, task = learner.model, learner.task
        assert type(model) is algorithm
        assert model.n_steps == 3 * task.episode_length
        for name in ("n_epochs", "batch_size", "gamma", "gae_lambda", "vf_coef", "max_grad_norm", "seed"):
            assert getattr(model, name) == getattr(config, name), name
        assert (model.lr_schedule(1), model.lr_schedule(0)) == (pytest.approx(0.02), pytest.approx(0.01))
        assert (model.ent_coef(1), model.ent_coef(0)) == (0.4, 0)
        assert model.normalize_advantage
        assert type(model.policy.optimizer) is torch.optim.Adam
        assert model.policy.log_std.item() == -0.25
        assert isinstance(model.policy.heads, LatentHeads)
    assert config.clip_range == 0.3
