"""What people do with the recurrent actor-critics as they do with Stable-Baselines3's algorithms."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from agents import NetworkConfig, Output, RecurrentPPO
from agents.plasticity.state import map_state
from tests.agents.environments import ACTIONS, OBSERVATIONS, Uneven, uneven, vectorised

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
                sequences.observations, sequences.actions, sequences.state, sequences.episode_starts
            )
        torch.testing.assert_close(log_prob, sequences.old_log_prob, rtol=0, atol=2e-5)
        torch.testing.assert_close(outcome.value, sequences.old_values, rtol=0, atol=2e-5)
    return model


@pytest.mark.parametrize(
    ("observation", "action"),
    [
        (BOX, spaces.Box(np.array([[-3, 0], [0, 1]]), np.array([[0, 9], [1, 2]]))),
        (BOX, spaces.Box(-1, 1, (), np.float32)),
        (spaces.MultiDiscrete([2, 3]), ACTIONS["discrete"]),
        (spaces.Box(-1, 1, (2, 3), np.float64), ACTIONS["discrete"]),
        (IMAGE_AND_MORE, ACTIONS["discrete"]),
    ],
)
def test_more_spaces(observation, action):
    model = assert_updates_see_the_rollout(environments(observation, action))
    actions, _ = model.predict(model.get_env().reset())
    assert actions.shape == (4, *action.shape) and all(
        action.contains(np.asarray(each, action.dtype)) for each in actions
    )


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


class LearntStart(torch.nn.Module):
    """A core whose episodes begin in a state that is learnt, one for all, and whose state has a part that stays."""

    def __init__(self, input_size, output_size):
        super().__init__()
        self.input_size, self.output_size = input_size, output_size
        self.first = torch.nn.Parameter(torch.randn(output_size))
        self.readout = torch.nn.Linear(input_size, output_size)

    def initial_state(self, batch_size):
        return {"h": self.first.expand(batch_size, -1), "constant": torch.ones(1).expand(batch_size, 1)}

    def step(self, x, state):
        h = torch.tanh(self.readout(x) + state["h"]) * state["constant"]
        return Output(h, None), {**state, "h": h}

    def unroll(self, xs, state=None, starts=None, hooks=None):
        fresh = self.initial_state(xs.shape[1])
        state = fresh if state is None else state
        ys = []
        for x, start in zip(xs, starts, strict=True):
            state = map_state(lambda new, old, at=start[:, None]: torch.where(at, new, old), fresh, state)
            output, state = self.step(x, state)
            ys.append(output.y)
        return Output(torch.stack(ys), None), state


def test_episodes_begin_in_the_initial_state():
    model = assert_updates_see_the_rollout(uneven(), {"network": LearntStart})
    observation = model.get_env().reset()
    first = model.predict(observation)[1]
    starts = np.array([False, True, False, True])
    second = model.predict(observation, first, starts)[1]["h"]
    assert torch.equal(second[starts], first["h"][starts]) and (second != first["h"])[~starts].any()
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
