"""What people do with the recurrent actor-critics as they do with Stable-Baselines3's algorithms."""

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
IMAGE_AND_MORE = spaces.Dict(
    {"image": OBSERVATIONS["image"], "a.b": BOX, "counts": spaces.MultiDiscrete([2, 3]), "bits": spaces.MultiBinary(2)}
)


def environments(observation=BOX, action=ACTIONS["discrete"]):
    return vectorised(lambda: Uneven(deepcopy(observation), deepcopy(action)))


class AtSteps(BaseCallback):
    """Calls a function with the local variables of each step; False from it ends training."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def _on_step(self):
        return self.function(self.locals) is not False


def assert_updates_see_the_rollout(env, policy_kwargs=SMALL):
    """Before any update, log-probabilities and values of the last rollout are the same over again."""
    model = RecurrentPPO(
        "RecurrentPolicy", env, 0.0, n_steps=12, sequence_length=6, seed=0, policy_kwargs=policy_kwargs
    )
    model.learn(2 * 12 * 4)
    for sequences in model.rollout_buffer.sequences(2, model.policy.initial_state):
        with torch.no_grad():
            outcome, log_prob, _, _ = model.policy.evaluate_actions(
                sequences.observations, sequences.actions, sequences.state, sequences.core_starts
            )
        torch.testing.assert_close(log_prob, sequences.old_log_prob, rtol=0, atol=2e-5)
        torch.testing.assert_close(outcome.value, sequences.old_values, rtol=0, atol=2e-5)
    return model


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (BOX, spaces.Box(np.array([[-3, 0], [0, 1]]), np.array([[0, 9], [1, 2]]))),
        (spaces.MultiDiscrete([2, 3]), ACTIONS["discrete"]),
        (spaces.Box(-1, 1, (2, 3), np.float64), ACTIONS["discrete"]),
        (IMAGE_AND_MORE, ACTIONS["discrete"]),
    ],
)
def test_more_spaces(observation, action):
    model = assert_updates_see_the_rollout(environments(observation, action))
    actions, _ = model.predict(model.get_env().reset())
    assert actions.shape == (4, *action.shape)
    assert all(action.contains(np.asarray(each, action.dtype)) for each in actions)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: VecFrameStack(env, 2),
        lambda env: VecFrameStack(VecNormalize(env, norm_obs_keys=["a.b"]), 2),
    ],
)
def test_wrappers_of_what_is_observed(wrap):
    assert_updates_see_the_rollout(wrap(environments(spaces.Dict({k: IMAGE_AND_MORE[k] for k in ("image", "a.b")}))))


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
def test_spaces_that_do_not_count_from_zero_are_refused(observation, action, message):
    with pytest.raises(ValueError, match=message):
        RecurrentPPO("RecurrentPolicy", environments(observation, action))


def test_time_limits_behind_wrappers_bootstrap_from_what_the_policy_sees():
    env = VecNormalize(environments(IMAGE_AND_MORE), norm_obs_keys=["a.b"])
    model = RecurrentPPO("RecurrentPolicy", env, n_steps=12, gamma=0.9, seed=2, policy_kwargs=SMALL)
    wanted = []

    def note(found):
        values = np.zeros(4)
        for lane in np.flatnonzero(found["dones"]):
            info = found["infos"][lane]
            if info["TimeLimit.truncated"]:
                last = {name: torch.as_tensor(part)[None] for name, part in info["terminal_observation"].items()}
                own = map_state(lambda tensor, lane=lane: tensor[[lane]], found["state"])
                with torch.no_grad():
                    values[lane] = 0.9 * model.policy.predict_values(last, own).item()
        wanted.append(values)

    model.learn(12 * 4, callback=AtSteps(note))
    buffer = model.rollout_buffer
    assert np.count_nonzero(wanted) > 3
    np.testing.assert_allclose(buffer.rewards - buffer.env_rewards, wanted, rtol=0, atol=1e-5)


class LearntStart(RecurrentCore):
    """A core with one learnt initial state for all episodes, and with a constant in its state."""

    def __init__(self, input_size, output_size):
        super().__init__(input_size, output_size)
        self.first = torch.nn.Parameter(torch.randn(output_size))
        self.readout = torch.nn.Linear(input_size, output_size)

    def initial_state(self, batch_size):
        return State({"h": self.first.expand(batch_size, -1), "constant": self.first.new_ones(1).expand(batch_size, 1)})

    def step(self, x, state):
        h = torch.tanh(self.readout(x) + state.hidden["h"]) * state.hidden["constant"]
        return CoreOutput(h), State({**state.hidden, "h": h})


def test_episodes_begin_in_the_initial_state():
    model = assert_updates_see_the_rollout(uneven(), {"network": LearntStart})
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
def test_predict_takes_flags_of_any_kind(starts):
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL)
    observation = model.get_env().reset()
    _, state = model.predict(observation)
    _, found = model.predict(observation, state, starts)
    _, wanted = model.predict(observation, state, np.broadcast_to(np.array(starts, dtype=bool), 4))
    map_state(lambda one, other: torch.testing.assert_close(one, other, rtol=0, atol=0), found, wanted)


def test_predict_says_that_reset_returned_more_than_an_observation():
    model = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL)
    with pytest.raises(TypeError, match="observation must be an array or a dict, without the info"):
        model.predict(Uneven().reset())


def test_policies_are_kept_in_models_only(tmp_path):
    policy = RecurrentPPO("RecurrentPolicy", uneven(), n_steps=6, policy_kwargs=SMALL).policy
    with pytest.raises(NotImplementedError, match=r"model\.save"):
        policy.save(str(tmp_path / "policy"))
    with pytest.raises(NotImplementedError, match=r"RecurrentPPO\.load"):
        type(policy).load(str(tmp_path / "policy"))


def test_learning_goes_on_where_a_callback_stopped_it():
    """The next rollout begins with what the environment showed last, and in the state of that moment."""
    model = RecurrentPPO("RecurrentPolicy", uneven(), 0.0, n_steps=6, seed=0, policy_kwargs=SMALL)
    seen = []

    def stop_at_the_fourth(found):
        seen.append(map_state(torch.clone, (found["state"], *map(torch.as_tensor, (found["new_obs"], found["dones"])))))
        return len(seen) != 4

    model.learn(6 * 4, callback=AtSteps(stop_at_the_fourth))
    assert model.num_timesteps == 16
    state, observation, dones = seen[-1]
    starts = dones.numpy()
    assert starts.any()
    assert not starts.all()
    wanted = model.policy.predict_values(observation, zeroed(state, dones))
    model.learn(6 * 4, reset_num_timesteps=False)
    buffer = model.rollout_buffer
    np.testing.assert_array_equal(buffer.observations[0], observation)
    np.testing.assert_array_equal(buffer.episode_starts[0], starts)
    np.testing.assert_allclose(buffer.values[0], wanted.detach(), atol=1e-6)


def test_callbacks_find_what_they_know():
    """What people read in callbacks has the names, kinds and shapes that it has in Stable-Baselines3's algorithms."""
    names = ("actions", "clipped_actions", "new_obs", "rewards", "dones", "infos")
    kinds = []
    for algorithm, arguments in ((RecurrentPPO, {"policy_kwargs": SMALL}), (PPO, {"batch_size": 8})):
        model = algorithm("MlpPolicy", uneven(action="box"), n_steps=6, **arguments)

        def look(found):
            kinds.append([(name, type(found[name]), np.shape(found[name])) for name in names])
            return False

        model.learn(24, callback=AtSteps(look))
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(
    ("ours", "theirs", "arguments"),
    [(RecurrentPPO, PPO, {"n_epochs": 4, "target_kl": 1e-9}), (RecurrentA2C, A2C, {})],
)
def test_figures_have_the_names_that_they_have_elsewhere(ours, theirs, arguments):
    """Curves of both lie in one chart; an epoch that ends early counts."""
    found = []
    for algorithm, more in ((ours, {"policy_kwargs": SMALL}), (theirs, {"batch_size": 24} if theirs is PPO else {})):
        model = algorithm("MlpPolicy", uneven(), 1e-2, n_steps=6, **arguments, **more)
        model.learn(24)
        found.append(model.logger.name_to_value)
    assert found[1].keys() <= found[0].keys()
    assert found[0]["train/n_updates"] == found[1]["train/n_updates"]


class Extended(RecurrentPPO):
    """A user's own algorithm, with an argument more."""

    def __init__(self, *args, own=1, **kwargs):
        self.own = own
        super().__init__(*args, **kwargs)


class Fixed(RecurrentPPO):
    """A user's own algorithm, with fewer arguments."""

    def __init__(self, policy, env, seed=None, device="auto", _init_setup_model=True, verbose=0, policy_kwargs=None):
        setup = {"device": device, "_init_setup_model": _init_setup_model, "policy_kwargs": policy_kwargs}
        super().__init__(policy, env, n_steps=6, seed=seed, **setup)


def test_algorithms_of_ones_own_are_kept(tmp_path):
    Extended("RecurrentPolicy", uneven(), n_steps=6, own=3, policy_kwargs=SMALL).save(tmp_path / "extended")
    loaded = Extended.load(tmp_path / "extended")
    assert (loaded.own, loaded.n_steps, loaded.policy_kwargs) == (3, 6, SMALL)
    Fixed("RecurrentPolicy", uneven(), seed=5, policy_kwargs=SMALL).save(tmp_path / "fixed")
    loaded = Fixed.load(tmp_path / "fixed")
    assert (loaded.seed, loaded.n_steps, loaded.policy_kwargs) == (5, 6, SMALL)


class Own(spaces.Box):
    """A user's own kind of space."""


def test_spaces_come_back_equal(tmp_path):
    of = {
        "own": Own(-1, 1, (2,), np.float64),
        "d": spaces.Discrete(3, dtype=np.int32),
        "m": spaces.MultiDiscrete([2, 3], dtype=np.int8),
    }
    env = environments(spaces.Dict(of), spaces.MultiDiscrete([2, 3], dtype=np.int32))
    model = RecurrentPPO("RecurrentPolicy", env, n_steps=6, policy_kwargs=SMALL, tensorboard_log=tmp_path / "logs")
    model.save(tmp_path / "model")
    loaded = RecurrentPPO.load(tmp_path / "model", env=env)
    assert (loaded.observation_space, loaded.action_space) == (model.observation_space, model.action_space)
    assert RecurrentPPO.load(tmp_path / "model").tensorboard_log == str(tmp_path / "logs")


def test_a_given_optimiser_takes_the_place_of_rms_prop():
    policy = {**SMALL, "optimizer_class": torch.optim.Adam}
    model = RecurrentA2C("RecurrentPolicy", uneven(), policy_kwargs=policy)
    assert type(model.policy.optimizer) is torch.optim.Adam


def test_the_largest_numbers_of_a_type_are_no_bounds():
    largest = np.iinfo(np.int64).max
    space = spaces.Box(np.array([-2, -largest, 0]), np.array([6, largest, largest]), dtype=np.int64)
    model = RecurrentPPO("RecurrentPolicy", environments(space), policy_kwargs=SMALL)
    assert model.policy.preprocess(torch.tensor([[4, 5, 6]])).tolist() == [[0.5, 5.0, 6.0]]
