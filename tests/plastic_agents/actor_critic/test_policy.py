"""Recurrent policies with the interface of Stable-Baselines3: spaces, wrappers, callbacks, predict, save and load."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from plastic_agents import CoreOutput, NetworkConfig, RecurrentA2C, RecurrentCore, RecurrentPPO, State
from plastic_agents.models.core import map_state, zeroed
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from tests.plastic_agents.environments import ACTIONS, OBSERVATIONS, Uneven, uneven, vectorised

SMALL = {"network": NetworkConfig("hebbian", hidden_size=8)}
BOX = OBSERVATIONS["box"]
MIXED_DICT = spaces.Dict(
    {"image": OBSERVATIONS["image"], "a.b": BOX, "counts": spaces.MultiDiscrete([2, 3]), "bits": spaces.MultiBinary(2)}
)


def environments(observation=BOX, action=ACTIONS["discrete"]):
    return vectorised(lambda: Uneven(deepcopy(observation), deepcopy(action)))


class StepCallback(BaseCallback):
    """Calls a function with the local variables of each step; training ends if it returns False."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def _on_step(self):
        return self.function(self.locals) is not False


def assert_updates_reproduce_the_rollout(env, policy_kwargs=SMALL):
    """Check that `evaluate_actions` reproduces the log-probabilities and values of the last rollout."""
    model = RecurrentPPO(
        "RecurrentPolicy", env, 0.0, n_steps=12, sequence_length=6, seed=0, policy_kwargs=policy_kwargs
    )
    model.learn(2 * 12 * 4)
    for sequences in model.rollout_buffer.sequences(2, model.policy.initial_state):
        with torch.no_grad():
            output, log_prob, _, _ = model.policy.evaluate_actions(
                sequences.observations, sequences.actions, sequences.state, sequences.core_starts
            )
        torch.testing.assert_close(log_prob, sequences.old_log_prob, rtol=0, atol=2e-5)
        torch.testing.assert_close(output.value, sequences.old_values, rtol=0, atol=2e-5)
    return model


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (BOX, spaces.Box(np.array([[-3, 0], [0, 1]]), np.array([[0, 9], [1, 2]]))),
        (spaces.MultiDiscrete([2, 3]), ACTIONS["discrete"]),
        (spaces.Box(-1, 1, (2, 3), np.float64), ACTIONS["discrete"]),
        (MIXED_DICT, ACTIONS["discrete"]),
    ],
)
def test_updates_reproduce_rollouts_in_more_spaces(observation, action):
    model = assert_updates_reproduce_the_rollout(environments(observation, action))
    actions, _ = model.predict(model.get_env().reset())
    assert actions.shape == (4, *action.shape)
    assert all(action.contains(np.asarray(row, action.dtype)) for row in actions)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: VecFrameStack(env, 2),
        lambda env: VecFrameStack(VecNormalize(env, norm_obs_keys=["a.b"]), 2),
    ],
)
def test_updates_reproduce_rollouts_with_observation_wrappers(wrap):
    observation = spaces.Dict({key: MIXED_DICT[key] for key in ("image", "a.b")})
    assert_updates_reproduce_the_rollout(wrap(environments(observation)))


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (
            spaces.Discrete(3, start=1),
            ACTIONS["discrete"],
            r"observation_space must count from 0.*Discrete\(3, start=1",
        ),
        (spaces.Dict({"a": BOX, "b": spaces.Discrete(3, start=-1)}), ACTIONS["discrete"], "observation_space must"),
        (BOX, spaces.Discrete(3, start=1), "action_space must count from 0"),
        (BOX, spaces.MultiDiscrete([2, 3], start=[0, 1]), "action_space must count from 0"),
    ],
)
def test_spaces_that_do_not_start_at_zero_are_refused(observation, action, message):
    with pytest.raises(ValueError, match=message):
        RecurrentPPO("RecurrentPolicy", environments(observation, action))


def test_time_limits_bootstrap_from_the_wrapped_observation():
    env = VecNormalize(environments(MIXED_DICT), norm_obs_keys=["a.b"])
    model = RecurrentPPO("RecurrentPolicy", env, n_steps=12, gamma=0.9, seed=2, policy_kwargs=SMALL)
    expected = []

    def record(local_variables):
        values = np.zeros(4)
        for lane in np.flatnonzero(local_variables["dones"]):
            info = local_variables["infos"][lane]
            if info["TimeLimit.truncated"]:
                last_obs = {name: torch.as_tensor(array)[None] for name, array in info["terminal_observation"].items()}
                lane_state = map_state(lambda tensor, lane=lane: tensor[[lane]], local_variables["state"])
                with torch.no_grad():
                    values[lane] = 0.9 * model.policy.predict_values(last_obs, lane_state).item()
        expected.append(values)

    model.learn(12 * 4, callback=StepCallback(record))
    buffer = model.rollout_buffer
    assert np.count_nonzero(expected) > 3
    np.testing.assert_allclose(buffer.bootstrap, expected, rtol=0, atol=1e-5)


class LearntStart(RecurrentCore):
    """A core with a learnt initial state and a constant in its state."""

    def __init__(self, input_size, output_size):
        super().__init__(input_size, output_size)
        self.first = torch.nn.Parameter(torch.randn(output_size))
        self.readout = torch.nn.Linear(input_size, output_size)

    def initial_state(self, batch_size):
        return State({"h": self.first.expand(batch_size, -1), "constant": self.first.new_ones(1).expand(batch_size, 1)})

    def step(self, x, state):
        h = torch.tanh(self.readout(x) + state.hidden["h"]) * state.hidden["constant"]
        return CoreOutput(h), State({**state.hidden, "h": h})


def test_episodes_start_from_the_learnt_initial_state():
    model = assert_updates_reproduce_the_rollout(uneven(), {"network": LearntStart})
    observation = model.get_env().reset()
    first = model.predict(observation)[1].hidden
    starts = np.array([False, True, False, True])
    second = model.predict(observation, State(first), starts)[1].hidden["h"]
    assert torch.equal(second[starts], first["h"][starts])
    assert (second != first["h"])[~starts].any()
    parameter = model.policy.core.first.detach().clone()
    model.lr_schedule = lambda _: 0.01
    model.learn(12 * 4)
    assert not torch.equal(model.policy.core.first, parameter)


@pytest.mark.parametrize("starts", [np.ones(4), [0, 1, 0, 1], [True] * 4, True, np.zeros(4)])
def test_predict_accepts_episode_starts_of_any_type(starts):
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL)
    observation = model.get_env().reset()
    _, state = model.predict(observation)
    _, result = model.predict(observation, state, starts)
    _, expected = model.predict(observation, state, np.broadcast_to(np.array(starts, dtype=bool), 4))
    map_state(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), result, expected)


def test_predict_names_states_and_starts_of_another_shape():
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL)
    observation = model.get_env().reset()
    _, state = model.predict(observation)
    with pytest.raises(ValueError, match=r"episode_start must have shape \(4,\), got \(3,\)"):
        model.predict(observation, state, np.ones(3))
    with pytest.raises(ValueError, match=r"state\..* must have shape \[2, \d+\], got \[4, \d+\]"):
        model.predict(observation[:2], state, np.ones(2))
    with pytest.raises(ValueError, match=r"state must be State, .* got tuple"):
        model.predict(observation, (np.zeros((1, 4, 8)), np.zeros((1, 4, 8))))


def test_predict_refuses_the_tuple_that_reset_returns():
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL)
    with pytest.raises(TypeError, match="observation must be an array or a dict, without the info"):
        model.predict(Uneven().reset())


def test_a_policy_can_be_saved_only_with_its_model(tmp_path):
    policy = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL).policy
    with pytest.raises(NotImplementedError, match=r"model\.save"):
        policy.save(str(tmp_path / "policy"))
    with pytest.raises(NotImplementedError, match=r"RecurrentPPO\.load"):
        type(policy).load(str(tmp_path / "policy"))


def test_learning_resumes_where_a_callback_stopped_it():
    """The next rollout starts from the last observation and state."""
    model = RecurrentPPO("RecurrentPolicy", uneven(), 0.0, n_steps=6, seed=0, policy_kwargs=SMALL)
    steps = []

    def stop_at_the_fourth_step(local_variables):
        arrays = (local_variables["new_obs"], local_variables["dones"])
        steps.append(map_state(torch.clone, (local_variables["state"], *map(torch.as_tensor, arrays))))
        return len(steps) != 4

    model.learn(6 * 4, callback=StepCallback(stop_at_the_fourth_step))
    assert model.num_timesteps == 16
    state, observation, dones = steps[-1]
    starts = dones.numpy()
    assert starts.any()
    assert not starts.all()
    expected = model.policy.predict_values(observation, zeroed(state, dones))
    model.learn(6 * 4, reset_num_timesteps=False)
    buffer = model.rollout_buffer
    np.testing.assert_array_equal(buffer.observations[0], observation)
    np.testing.assert_array_equal(buffer.episode_starts[0], starts)
    np.testing.assert_allclose(buffer.values[0], expected.detach(), atol=1e-6)


def test_callbacks_have_the_local_variables_of_stable_baselines3():
    """Local variables have the same names, types and shapes."""
    names = ("actions", "clipped_actions", "new_obs", "rewards", "dones", "infos")
    described = []
    for algorithm, arguments in ((RecurrentPPO, {"policy_kwargs": SMALL}), (PPO, {"batch_size": 8})):
        model = algorithm("MlpPolicy", uneven(action="box"), n_steps=6, **arguments)

        def describe(local_variables):
            values = [(name, local_variables[name]) for name in names]
            described.append([(name, type(value), np.shape(value)) for name, value in values])
            return False

        model.learn(24, callback=StepCallback(describe))
    assert described[0] == described[1]


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments"),
    [(RecurrentPPO, PPO, {"n_epochs": 4, "target_kl": 1e-9}), (RecurrentA2C, A2C, {})],
)
def test_logged_values_have_the_names_of_stable_baselines3(ours, theirs, arguments):
    """Names are the same, and `n_updates` also counts an epoch that ends early."""
    logged = []
    for algorithm, more in ((ours, {"policy_kwargs": SMALL}), (theirs, {"batch_size": 24} if theirs is PPO else {})):
        model = algorithm("MlpPolicy", uneven(), 1e-2, n_steps=6, **arguments, **more)
        model.learn(24)
        logged.append(model.logger.name_to_value)
    assert logged[1].keys() <= logged[0].keys()
    assert logged[0]["train/n_updates"] == logged[1]["train/n_updates"]


class Extended(RecurrentPPO):
    """An algorithm of a user, with one more argument."""

    def __init__(self, *args, extra=1, **kwargs):
        self.extra = extra
        super().__init__(*args, **kwargs)


class Fixed(RecurrentPPO):
    """An algorithm of a user, with fewer arguments."""

    def __init__(self, policy, env, seed=None, device="auto", _init_setup_model=True, verbose=0, policy_kwargs=None):
        setup = {"device": device, "_init_setup_model": _init_setup_model, "policy_kwargs": policy_kwargs}
        super().__init__(policy, env, n_steps=6, seed=seed, **setup)


def test_algorithms_of_a_user_can_be_saved_and_loaded(tmp_path):
    Extended("RecurrentPolicy", uneven(), n_steps=6, extra=3, policy_kwargs=SMALL).save(tmp_path / "extended")
    loaded = Extended.load(tmp_path / "extended")
    assert (loaded.extra, loaded.n_steps, loaded.policy_kwargs) == (3, 6, SMALL)
    Fixed("RecurrentPolicy", uneven(), seed=5, policy_kwargs=SMALL).save(tmp_path / "fixed")
    loaded = Fixed.load(tmp_path / "fixed")
    assert (loaded.seed, loaded.n_steps, loaded.policy_kwargs) == (5, 6, SMALL)


class UserBox(spaces.Box):
    """A space class of a user."""


def test_loaded_spaces_equal_the_saved_ones(tmp_path):
    members = {
        "user": UserBox(-1, 1, (2,), np.float64),
        "d": spaces.Discrete(3, dtype=np.int32),
        "m": spaces.MultiDiscrete([2, 3], dtype=np.int8),
    }
    env = environments(spaces.Dict(members), spaces.MultiDiscrete([2, 3], dtype=np.int32))
    model = RecurrentPPO("RecurrentPolicy", env, n_steps=6, policy_kwargs=SMALL, tensorboard_log=tmp_path / "logs")
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", env=env)
    assert (loaded.observation_space, loaded.action_space) == (model.observation_space, model.action_space)
    assert RecurrentPPO.load(tmp_path / "model").tensorboard_log == str(tmp_path / "logs")


def test_a_given_optimiser_class_replaces_rms_prop():
    policy = {**SMALL, "optimizer_class": torch.optim.Adam}
    model = RecurrentA2C("RecurrentPolicy", uneven(), policy_kwargs=policy)
    assert type(model.policy.optimizer) is torch.optim.Adam


def test_bounds_at_the_limits_of_a_dtype_do_not_rescale():
    largest = np.iinfo(np.int64).max
    space = spaces.Box(np.array([-2, -largest, 0]), np.array([6, largest, largest]), dtype=np.int64)
    model = RecurrentPPO("RecurrentPolicy", environments(space), policy_kwargs=SMALL)
    assert model.policy.preprocess(torch.tensor([[4, 5, 6]])).tolist() == [[0.5, 5.0, 6.0]]
