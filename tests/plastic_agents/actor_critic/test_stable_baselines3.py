"""Users of Stable-Baselines3 expect all action spaces, callbacks and formats of logs to work with an algorithm."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from plastic_agents import RecurrentA2C, RecurrentPPO
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.envs import IdentityEnv, IdentityEnvBox, IdentityEnvMultiBinary, IdentityEnvMultiDiscrete
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.plastic_agents.environments import Recall, vectorised

# The action that equals the observation has reward 1, and an episode 100 steps.
IDENTITIES = {
    "discrete": lambda: IdentityEnv(4),
    "multi-discrete": lambda: IdentityEnvMultiDiscrete(2),
    "multi-binary": lambda: IdentityEnvMultiBinary(2),
    "box": lambda: IdentityEnvBox(eps=0.3),
}
SMALL = {"network": {"rule": "hebbian", "hidden_size": 8}}


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
@pytest.mark.parametrize("name", IDENTITIES)
def test_actions_of_every_space_fit_their_environment(name, algorithm):
    env = DummyVecEnv([IDENTITIES[name]] * 2)
    model = algorithm("MlpPolicy", env, n_steps=8, policy_kwargs=SMALL, seed=0).learn(3 * 16)
    for deterministic in (False, True):
        actions, _ = model.predict(env.reset(), deterministic=deterministic)
        assert actions.shape == (2, *env.action_space.shape)
        assert all(env.action_space.contains(action) for action in actions.astype(env.action_space.dtype))


@pytest.mark.parametrize("name", ["multi-discrete", "multi-binary"])
def test_an_identity_of_several_components_is_learnt(name):
    """The best mean return is 100, and that of a policy that ignores the observation is 25."""
    env = DummyVecEnv([IDENTITIES[name]] * 4)
    model = RecurrentPPO("MlpPolicy", env, 5e-3, n_steps=64, n_epochs=4, gamma=0.4, policy_kwargs=SMALL, seed=1)
    mean, _ = evaluate_policy(model.learn(1000), env, n_eval_episodes=4, warn=False)
    assert mean > 95


def small_model(**arguments):
    return RecurrentPPO("MlpPolicy", vectorised(Recall), n_steps=6, policy_kwargs=SMALL, seed=0, **arguments)


@pytest.mark.parametrize(("threshold", "steps"), [(-1.0, 24), (2.0, 72)])
def test_training_stops_at_a_reward_threshold(threshold, steps):
    """Every mean return of `Recall` is from 0 to 1."""
    stop = StopTrainingOnRewardThreshold(threshold)
    evaluation = EvalCallback(
        vectorised(Recall, 2), callback_on_new_best=stop, eval_freq=6, n_eval_episodes=4, verbose=0
    )
    assert small_model().learn(72, callback=evaluation).num_timesteps == steps


class Noted(BaseCallback):
    """Notes its name and its number of steps in a list."""

    def __init__(self, name, notes):
        super().__init__()
        self.name, self.notes = name, notes

    def _on_step(self):
        self.notes.append((self.name, self.num_timesteps))
        return True


def test_callbacks_run_in_their_order_at_every_step():
    notes = []
    callbacks = CallbackList([Noted("first", notes), Noted("second", notes)])
    small_model().learn(24, callback=callbacks)
    assert notes == [(name, step) for step in range(4, 25, 4) for name in ("first", "second")]


def test_a_callback_runs_every_n_timesteps_of_all_environments():
    notes = []
    small_model().learn(48, callback=EveryNTimesteps(16, Noted("event", notes)))
    assert [step for _, step in notes] == [16, 32, 48]


@pytest.mark.parametrize("algorithm", [RecurrentPPO, RecurrentA2C])
def test_every_format_of_the_logger_has_the_losses(algorithm, tmp_path, capsys):
    model = algorithm("MlpPolicy", vectorised(Recall), n_steps=6, policy_kwargs=SMALL, seed=0)
    model.set_logger(configure(str(tmp_path), ["stdout", "log", "csv", "json", "tensorboard"]))
    model.learn(3 * 24, log_interval=1)
    with (tmp_path / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    records = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [int(row["time/total_timesteps"]) for row in rows] == [24, 48, 72]
    losses = [record["train/value_loss"] for record in records[1:]]
    assert np.isfinite(losses).all()
    assert [float(row["train/value_loss"]) for row in rows[1:]] == pytest.approx(losses)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.value for event in events.Scalars("train/value_loss")] == pytest.approx(losses)
    for text in (capsys.readouterr().out, (tmp_path / "log.txt").read_text()):
        assert text.count("value_loss ") == len(losses)
