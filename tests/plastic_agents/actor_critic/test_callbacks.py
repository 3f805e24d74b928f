"""EvaluationCallback: it logs what runs of `ReinforcementLearner` log, and does not change the training."""

import csv

import numpy as np
import pytest
import torch
from plastic_agents import EvaluationCallback, NetworkConfig, RecurrentPPO, make_sb3_vec_env
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from plastic_envs import make_task
from tests.plastic_agents.cores import Averager

TASK, ARGUMENTS = "PlasticRNN/CueChoice-v0", {"n_trials": 4}
PLASTIC = NetworkConfig("hebbian", hidden_size=4)


def make_env():
    return make_sb3_vec_env(TASK, 4, seed=0, env_kwargs=ARGUMENTS)


def make_model(network=PLASTIC, **arguments):
    return RecurrentPPO(
        "MlpPolicy", make_env(), 1e-2, n_steps=16, seed=0, policy_kwargs={"network": network}, **arguments
    )


def test_scores_probes_and_pictures_are_logged(tmp_path, capsys):
    callback = EvaluationCallback(make_task(TASK, **ARGUMENTS), eval_freq=12, n_eval_episodes=20, verbose=1)
    model = make_model()
    model.set_logger(configure(str(tmp_path), ["tensorboard", "csv", "stdout"]))
    model.learn(2 * 4 * 16, callback=callback)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {
        "evaluation/reward_per_scored_step",
        "evaluation/normalised_score",
        "reference/oracle_reward_per_scored_step",
        "reference/memoryless_reward_per_scored_step",
        "fast_weight_norm/hidden_to_hidden",
        "probe/fast_weights_erased",
        "train/value_loss",
    } <= set(tags["scalars"])
    assert tags["images"] == ["adaptation", "fast_weights", "eta", "example_episode"]
    # Steps of all environments: the first multiples of 12 steps of each of 4.
    scores = events.Scalars("evaluation/normalised_score")
    assert [event.step for event in scores] == [48, 96]
    assert scores[-1].value == pytest.approx(callback.report["intact"].normalised_score)
    assert (callback.report.split, callback.report.episodes) == ("validation", 20)
    with (tmp_path / "progress.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["evaluation/normalised_score"]]
    assert [float(row["probe/fast_weights_erased"]) for row in rows] == pytest.approx(
        [event.value for event in events.Scalars("probe/fast_weights_erased")]
    )
    printed = capsys.readouterr().out
    assert "step 96: normalised score " in printed
    assert "fast_weights_erased" not in printed


class WithDropout(Averager):
    """A core with dropout, whose rollouts in training mode would differ."""

    def step(self, x, state):
        return super().step(nn.functional.dropout(x, 0.5, self.training), state)


@pytest.mark.parametrize("network", [PLASTIC, WithDropout])
def test_evaluations_do_not_change_the_training(network):
    """Evaluations inside a rollout leave the state, the generators and the mode of the policy as they are."""
    callback = EvaluationCallback(make_task(TASK, **ARGUMENTS), eval_freq=5, n_eval_episodes=4)
    models = [make_model(network).learn(128, callback=chosen) for chosen in (None, callback)]
    without, with_evaluations = (model.policy.state_dict() for model in models)
    assert callback.report is not None
    assert all(torch.equal(without[name], with_evaluations[name]) for name in without)
    assert np.array_equal(*(model.rollout_buffer.log_probs for model in models))


def test_wrong_arguments_and_models_are_refused():
    with pytest.raises(ValueError, match="eval_freq must be at least 1, got 0"):
        EvaluationCallback(TASK, eval_freq=0)
    with pytest.raises(TypeError, match="task must be a Task or an environment id, got 3"):
        EvaluationCallback(3)
    callback = EvaluationCallback(make_task(TASK, **ARGUMENTS), eval_freq=1)
    with pytest.raises(TypeError, match="policy must be a RecurrentPolicy"):
        PPO("MlpPolicy", make_env()).learn(1, callback=callback)
    with pytest.raises(ValueError, match="policy must have the observation_space of CueReward"):
        make_model().learn(1, callback=EvaluationCallback("PlasticRNN/CueReward-v0"))
    with pytest.raises(ValueError, match=rf"task must be a Task to evaluate on another one than .*, got '{TASK}'"):
        make_model().learn(1, callback=EvaluationCallback(TASK))
    model = RecurrentPPO("MlpPolicy", VecNormalize(make_env()), n_steps=16)
    with pytest.raises(ValueError, match=r"must have a model without VecNormalize\(norm_obs=True\)"):
        model.learn(1, callback=callback)
