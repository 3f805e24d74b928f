"""Reinforcement learning: exact resumption, logs, checkpoints, and learning of memory."""

import inspect
import math
import os
import random
import signal
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from plastic_agents import (
    NetworkConfig,
    Plasticity,
    RecurrentPolicy,
    RecurrentPPO,
    ReinforcementConfig,
    ReinforcementLearner,
    SupervisedConfig,
    load_pretrained,
)
from plastic_agents.checkpoint import load_checkpoint, save_checkpoint
from plastic_agents.seeding import Stream, stream_seed
from plastic_agents.training.recipes import REINFORCEMENT_RECIPES
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plastic_envs import make_task

CHOICE = ("PlasticRNN/CueChoice-v0", {"n_cues": 2, "n_trials": 3})
REWARD = ("PlasticRNN/CueReward-v0", {"n_cues": 2, "n_support": 3, "n_queries": 3})
SIZE = 4 * 6  # steps of a rollout: four environments, six steps
QUICK = ReinforcementConfig(
    total_timesteps=6 * SIZE,
    n_envs=4,
    evaluate_every=3 * SIZE,
    evaluation_episodes=4,
    checkpoint_every=2 * SIZE,
)
SETTINGS = {
    "ppo": (CHOICE, replace(QUICK, reward_prediction_coef=1.0)),
    "ppo with minibatches": (REWARD, replace(QUICK, n_epochs=2, batch_size=8, outputs="heads")),
    "a2c": (CHOICE, replace(QUICK, algorithm="a2c", n_epochs=1, batch_size=None)),
}


def learner(name="ppo", rule="hebbian", run_dir=None, **changes):
    (task, arguments), config = SETTINGS[name]
    network = NetworkConfig(rule, hidden_size=8)
    return ReinforcementLearner(task, network, replace(config, **changes), task_arguments=arguments, run_dir=run_dir)


def test_the_global_generators_stay_as_they_are():
    def draws(make):
        # The test is about NumPy's global generator too, of which NPY002 warns.
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)
        make()
        return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002

    expected = draws(lambda: None)
    assert draws(lambda: load_pretrained("cue-choice-hebbian")) == expected
    assert draws(lambda: learner().learn(progress_bar=False)) == expected


def test_training_episodes_have_no_scores_of_the_oracle():
    assert learner().model.env.get_attr("reference_scores") == [False] * 4


def at_step(run, step, action, monkeypatch):
    """Call ``action`` during the rollout that starts after ``step`` steps."""
    step_env = run.model.env.step

    def stepping(actions):
        if run.progress.step == step and run.model.num_timesteps == step + 8:
            action()
        return step_env(actions)

    monkeypatch.setattr(run.model.env, "step", stepping)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def assert_same_run(a, b):
    assert a.progress.step == b.progress.step
    assert a.progress.evaluations == b.progress.evaluations
    parameters_a, parameters_b = a.model.get_parameters(), b.model.get_parameters()
    for name, value in parameters_a["policy"].items():
        assert torch.equal(value, parameters_b["policy"][name]), name
    for index, state in parameters_a["policy.optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, parameters_b["policy.optimizer"]["state"][index][name]), name
    assert parameters_a["policy.optimizer"]["param_groups"] == parameters_b["policy.optimizer"]["param_groups"]


def weights(run):
    return torch.cat([parameter.flatten() for parameter in run.model.policy.parameters()])


@pytest.mark.parametrize("name", SETTINGS)
def test_an_interrupted_run_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    through = learner(name, run_dir=tmp_path / "through")
    initial_weights = weights(through).clone()
    through.learn(progress_bar=False)
    assert not torch.equal(initial_weights, weights(through))

    broken = learner(name, run_dir=tmp_path / "broken")
    at_step(broken, 2 * SIZE, interrupt, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        broken.learn(progress_bar=False)
    resumed = ReinforcementLearner.load(tmp_path / "broken" / "checkpoint.pt")
    assert resumed.progress.step == 3 * SIZE
    torch.rand(3)  # other code may draw random numbers in the meantime
    resumed.learn(progress_bar=False)
    assert_same_run(through, resumed)
    assert resumed.run_dir == tmp_path / "broken"


def test_killed_run_resumes_from_its_last_checkpoint_with_the_same_bits(tmp_path, monkeypatch):
    through = learner(rule="none")
    through.learn(progress_bar=False)
    killed = learner(rule="none", run_dir=tmp_path)

    def die():
        raise MemoryError

    at_step(killed, 5 * SIZE, die, monkeypatch)
    with pytest.raises(MemoryError):
        killed.learn(progress_bar=False)
    resumed = ReinforcementLearner.load(tmp_path / "checkpoint.pt", run_dir=tmp_path / "elsewhere")
    assert resumed.progress.step == 4 * SIZE
    # The killed learner also continues to the same result.
    monkeypatch.undo()
    for run in (killed, resumed):
        run.learn(progress_bar=False)
        assert_same_run(through, run)


def test_same_seed_same_weights_and_other_seed_other_weights():
    runs = [learner(seed=seed) for seed in (3, 3, 4)]
    for run in runs:
        run.learn(progress_bar=False)
    assert_same_run(runs[0], runs[1])
    assert not torch.equal(weights(runs[0]), weights(runs[2]))


def test_rollouts_have_distinct_episodes_and_seeds():
    run = learner()
    first_observations = []
    reset = run.model.env.reset

    def recording_reset():
        observation = reset()
        first_observations.append(observation.tobytes())
        return observation

    run.model.env.reset = recording_reset
    run.learn(progress_bar=False)
    # Stable-Baselines3 makes one more reset.
    assert len(first_observations) == 7
    assert len(set(first_observations)) == 7
    seeds = {stream_seed(Stream.TRAINING, seed, step) for seed in range(20) for step in range(0, 2000, 20)}
    assert len(seeds) == 2000


def test_schedules_span_the_whole_run_after_resumption(tmp_path, monkeypatch):
    run = learner(run_dir=tmp_path, learning_rate=0.01, final_learning_rate=0.1)
    at_step(run, 2 * SIZE, interrupt, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run.learn(progress_bar=False)
    assert run.model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * (0.1 + 0.9 / 2))
    resumed = ReinforcementLearner.load(tmp_path / "checkpoint.pt")
    resumed.learn(progress_bar=False)
    assert resumed.model.policy.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)
    assert resumed.model.ent_coef(resumed.model._current_progress_remaining) == 0


def test_total_timesteps_are_rounded_up_to_whole_rollouts():
    run = learner(total_timesteps=SIZE + 1)
    run.learn(progress_bar=False)
    assert run.progress.step == 2 * SIZE == run.model.num_timesteps
    assert [evaluation["step"] for evaluation in run.progress.evaluations] == [2 * SIZE]
    run.learn(progress_bar=False)  # no steps are left
    assert run.progress.step == 2 * SIZE


def test_tensorboard_tags_and_steps_of_a_resumed_run(tmp_path, monkeypatch):
    first = learner(run_dir=tmp_path)
    at_step(first, 3 * SIZE, interrupt, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        first.learn(progress_bar=False)
    for _ in range(2):  # the second time no steps are left
        ReinforcementLearner.load(tmp_path / "checkpoint.pt").learn(progress_bar=False)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    assert {
        "evaluation/reward_per_scored_step",
        "reference/oracle_reward_per_scored_step",
        "reference/memoryless_reward_per_scored_step",
        "evaluation/normalised_score",
        "fast_weight_norm/hidden_to_hidden",
        "rollout/ep_rew_mean",
        "train/value_loss",
        "train/eta",
    } <= set(tags["scalars"])
    assert not [tag for tag in tags["scalars"] if "iterations" in tag]
    assert tags["images"] == ["adaptation", "fast_weights", "eta", "example_episode"]
    assert [event.step for event in events.Scalars("evaluation/normalised_score")] == [3 * SIZE, 6 * SIZE]
    assert [event.step for event in events.Scalars("rollout/ep_rew_mean")] == [n * SIZE for n in range(1, 7)]


def test_start_or_resume_resumes_the_same_run_and_refuses_another(tmp_path):
    (task, arguments), config = SETTINGS["ppo"]
    network, folder = NetworkConfig(hidden_size=8), {"run_dir": tmp_path, "task_arguments": arguments}
    run = ReinforcementLearner.start_or_resume(task, network, config, **folder)
    run.learn(progress_bar=False)
    assert_same_run(run, ReinforcementLearner.start_or_resume(task, network, config, **folder))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        ReinforcementLearner.start_or_resume(task, network, replace(config, gamma=0.5), **folder)
    with pytest.raises(FileExistsError, match=r"resume it with ReinforcementLearner\.start_or_resume"):
        ReinforcementLearner(task, network, config, **folder)


def test_checkpoints_of_other_versions_tasks_and_kinds_are_refused(tmp_path):
    path = learner().save(tmp_path / "a.pt")
    content = load_checkpoint(path, "policy")
    for kind, part, value, message in (
        ("policy", "config", {**content["config"], "patience": 3}, r"does not fit this installation.*patience"),
        ("policy", "task", "CueChoice(n_cues=9)", r"is of the task CueChoice\(n_cues=9\), got CueChoice\(n_cues=2"),
        ("supervised", "task", content["task"], "of kind 'supervised', expected 'policy'"),
    ):
        save_checkpoint(path, kind, {**content, part: value})
        with pytest.raises(ValueError, match=message):
            ReinforcementLearner.load(path)


def test_loading_a_checkpoint_imports_no_module_that_its_task_id_names(tmp_path, monkeypatch):
    run = ReinforcementLearner(CHOICE[0], NetworkConfig(hidden_size=4), QUICK, task_arguments=CHOICE[1])
    run.save(tmp_path / "run.pt")
    content = load_checkpoint(tmp_path / "run.pt", "policy")
    save_checkpoint(tmp_path / "hostile.pt", "policy", {**content, "task_id": f"hostile:{CHOICE[0]}"})
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    ReinforcementLearner.load(tmp_path / "hostile.pt")


def test_divergence_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    run = learner(run_dir=tmp_path)

    def poison():
        with torch.no_grad():
            run.model.policy.core.readout.weight.fill_(math.nan)

    at_step(run, 4 * SIZE, poison, monkeypatch)
    with pytest.raises(
        FloatingPointError, match=f"^step {4 * SIZE + 12}, update 40: the policy's outputs are not finite"
    ):
        run.learn(progress_bar=False)
    kept = ReinforcementLearner.load(tmp_path / "checkpoint.pt")
    assert kept.progress.step == 4 * SIZE
    assert torch.isfinite(weights(kept)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReinforcementConfig(algorithm="dqn"), "algorithm must be one of ppo, a2c, got 'dqn'"),
        (lambda: ReinforcementConfig(n_envs=0), "n_envs must be at least 1, got 0"),
        (
            lambda: ReinforcementConfig(learning_rate=0.0),
            "learning_rate must be a finite number greater than 0, got 0.0",
        ),
        (lambda: ReinforcementConfig(ent_coef=-1.0), "ent_coef must be a finite number of at least 0, got -1.0"),
        (lambda: ReinforcementConfig(gamma=1.5), "gamma must be a finite number between 0 and 1, got 1.5"),
        (lambda: ReinforcementConfig(seed=-1), "seed must be at least 0, got -1"),
        (
            lambda: ReinforcementConfig("a2c", n_epochs=2, batch_size=None),
            "must be 1 and batch_size None for a2c, got 2 and None",
        ),
        (lambda: ReinforcementConfig(outputs="both"), "outputs must be one of .* got 'both'"),
        (
            lambda: learner("ppo with minibatches", reward_prediction_coef=1.0),
            "reward_prediction_coef must be 0 for actions that are not Discrete, got 1.0",
        ),
        (lambda: ReinforcementLearner("PlasticRNN/Nothing-v0", NetworkConfig(), QUICK), "Nothing-v0"),
        (
            lambda: ReinforcementLearner(CHOICE[0], NetworkConfig(), QUICK, device="abacus"),
            "device must be .* got 'abacus'",
        ),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((make_task(CHOICE[0]), NetworkConfig(), QUICK), "task must be an environment id, got CueChoice"),
        ((CHOICE[0], "hebbian", QUICK), "network must be a NetworkConfig, got 'hebbian'"),
        (
            (CHOICE[0], NetworkConfig(), SupervisedConfig()),
            "config must be a ReinforcementConfig, got SupervisedConfig",
        ),
    ],
)
def test_arguments_of_the_wrong_type_are_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        ReinforcementLearner(*arguments)


def test_defaults_are_those_of_the_algorithm():
    ppo = inspect.signature(RecurrentPPO).parameters
    shared = [field for field in fields(ReinforcementConfig) if field.name in ppo and field.name != "seed"]
    assert len(shared) == 11
    for field in shared:
        assert field.default == ppo[field.name].default, field.name
    policy = inspect.signature(RecurrentPolicy).parameters
    assert (ReinforcementConfig.outputs, ReinforcementConfig.log_std_init) == (
        policy["outputs"].default,
        policy["log_std_init"].default,
    )


@pytest.mark.parametrize("name", REINFORCEMENT_RECIPES)
def test_recipes_fit_their_tasks(name):
    recipe = REINFORCEMENT_RECIPES[name]
    run = ReinforcementLearner(recipe.task, recipe.network, recipe.training, task_arguments=recipe.task_arguments)
    assert run.model.n_steps % run.task.episode_length == 0
    assert run.model.rollout_buffer.buffer_size * run.model.n_envs == recipe.training.rollout_size(run.task)


def test_learning_exceeds_the_memoryless_score():
    # An episode has one cue of positive or negative value; without memory, the best mean reward is 0.
    recipe = REINFORCEMENT_RECIPES["cue-choice-hebbian"]
    config = replace(recipe.training, total_timesteps=25_000, n_envs=32, learning_rate=1e-2)
    task = {"n_cues": 1, "cue_size": 2, "n_trials": 4}
    network = NetworkConfig("hebbian", hidden_size=16, plasticity=Plasticity(max_norm=10.0))
    report = ReinforcementLearner(CHOICE[0], network, config, task_arguments=task).learn(progress_bar=False)
    assert report.memoryless.mean == 0 < 0.1 < report.oracle.mean
    assert report["intact"].metric.mean > 0.8 * report.oracle.mean
