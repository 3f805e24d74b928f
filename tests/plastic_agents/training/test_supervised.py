"""Supervised learning: loss, learning, seeds, exact resumption and checkpoints."""

import math
import os
import signal
from types import MappingProxyType

import gymnasium
import numpy as np
import pytest
import torch
from plastic_agents import Curriculum, NetworkConfig, Plasticity, SupervisedAgent, SupervisedConfig, SupervisedLearner
from plastic_agents.models.core import CoreOutput
from plastic_agents.models.image_encoders import EncoderConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plastic_envs import make_task, registration
from plastic_envs.tasks import CueReward
from tests.plastic_agents.checkpoints import put, rewrite, within

TASK = "PlasticRNN/CueReward-v0"
SMALL = {"n_cues": 2, "cue_size": 3, "n_support": 4, "n_queries": 3}
QUICK = SupervisedConfig(steps=6, batch_size=4, evaluate_every=3, evaluation_episodes=8, checkpoint_every=2)


def learner(rule="gradient", config=QUICK, **arguments):
    return SupervisedLearner(TASK, NetworkConfig(rule=rule, hidden_size=8), config, task_arguments=SMALL, **arguments)


def interrupt_at(interrupted_step, run, monkeypatch):
    """Send SIGINT during a step."""
    train_step = run._train_step

    def interrupted(step):
        if step == interrupted_step:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(step)

    monkeypatch.setattr(run, "_train_step", interrupted)


def same_run(a, b):
    assert all(
        torch.equal(x, y) for x, y in zip(a.agent.state_dict().values(), b.agent.state_dict().values(), strict=True)
    )
    assert a.progress.step == b.progress.step
    assert a.progress.evaluations == b.progress.evaluations


def test_observations_are_rescaled_to_the_unit_range():
    task = make_task(TASK)
    model = SupervisedAgent(task, NetworkConfig(hidden_size=4))
    space = task.observation_space
    for bound, expected in ((space.low, -1.0), (space.high, 1.0)):
        torch.testing.assert_close(model.preprocess(torch.as_tensor(bound)), torch.full(space.shape, expected))


def test_loss_is_the_mean_squared_error_over_scored_steps_and_matches_the_reward():
    task = make_task(TASK, **SMALL)
    model = SupervisedAgent(task, NetworkConfig(rule="none", hidden_size=4))
    episode = task.sample(np.random.default_rng(0), 5)
    y = torch.rand(task.episode_length, 5, 1) * 2 - 1
    expected = np.mean(
        [
            (y[t, b, 0].item() - episode.target[b, t, 0]) ** 2
            for b in range(5)
            for t in range(task.episode_length)
            if episode.scored[b, t]
        ]
    )
    output = CoreOutput(y, None)
    assert model.loss(output, episode).item() == pytest.approx(expected, rel=1e-6)
    assert -task.score(episode, model.act(output)).mean() == pytest.approx(expected, rel=1e-6)


def test_same_seed_same_weights_and_other_seed_other_weights():
    runs = [learner(config=SupervisedConfig(**{**QUICK.__dict__, "seed": seed})) for seed in (3, 3, 4)]
    for run in runs:
        run.learn(progress_bar=False)
    same_run(runs[0], runs[1])
    assert not torch.equal(runs[0].agent.core.readout.weight, runs[2].agent.core.readout.weight)


@pytest.mark.parametrize("rule", ["none", "hebbian", "gradient"])
def test_interrupted_run_ends_with_the_same_bits(tmp_path, monkeypatch, rule):
    through = learner(rule, run_dir=tmp_path / "through")
    through.learn(progress_bar=False)

    broken = learner(rule, run_dir=tmp_path / "broken")
    interrupt_at(3, broken, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        broken.learn(progress_bar=False)
    resumed = SupervisedLearner.load(tmp_path / "broken" / "checkpoint.pt")
    assert resumed.progress.step == 4
    resumed.learn(progress_bar=False)
    same_run(through, resumed)
    assert resumed.run_dir == tmp_path / "broken"


def test_killed_run_resumes_from_its_last_checkpoint_with_the_same_bits(tmp_path, monkeypatch):
    through = learner()
    through.learn(progress_bar=False)
    killed = learner(run_dir=tmp_path)
    train_step = killed._train_step

    def dies_at_5(step):
        if step == 5:
            raise MemoryError
        return train_step(step)

    monkeypatch.setattr(killed, "_train_step", dies_at_5)
    with pytest.raises(MemoryError):
        killed.learn(progress_bar=False)
    resumed = SupervisedLearner.load(tmp_path / "checkpoint.pt")
    assert resumed.progress.step == 4
    resumed.learn(progress_bar=False)
    same_run(through, resumed)


def test_a_run_folder_with_a_checkpoint_is_not_overwritten(tmp_path):
    learner(run_dir=tmp_path).learn(progress_bar=False)
    with pytest.raises(FileExistsError, match=r"resume it with SupervisedLearner\.start_or_resume or \.load, or"):
        learner(run_dir=tmp_path)


def test_checkpoint_of_another_network_or_task_is_refused(tmp_path):
    path = learner().save(tmp_path / "a.pt")
    other = NetworkConfig(rule="gradient", hidden_size=9).make_core(5, 1)
    with pytest.raises(ValueError, match=r"a\.pt cannot be resumed: it is of another network"):
        SupervisedLearner.load(path, network=other)
    with pytest.raises(ValueError, match=r"is of the task CueReward\(n_cues=2.*, got CueReward\(n_cues=5"):
        SupervisedLearner.load(path, task=make_task(TASK, cue_size=3), network=None)


def test_loading_needs_task_and_network_objects_again(tmp_path):
    task, network = make_task(TASK, **SMALL), NetworkConfig(hidden_size=8).make_core(5, 1)
    path = SupervisedLearner(task, network, QUICK).save(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="give it as task="):
        SupervisedLearner.load(path)
    with pytest.raises(ValueError, match="as network="):
        SupervisedLearner.load(path, task=task)
    SupervisedLearner.load(path, task=task, network=network).learn(progress_bar=False)


def test_tensorboard_has_every_evaluation_of_a_resumed_run(tmp_path, monkeypatch):
    first = learner(run_dir=tmp_path)  # evaluates at 3 and 6
    interrupt_at(3, first, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        first.learn(progress_bar=False)
    for _ in range(2):  # the second time no steps are left
        SupervisedLearner.load(tmp_path / "checkpoint.pt").learn(progress_bar=False)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("evaluation/normalised_score")] == [3, 6]


def test_start_or_resume_resumes_the_same_run_and_refuses_another(tmp_path):
    network, arguments = NetworkConfig(hidden_size=8), {"run_dir": tmp_path, "task_arguments": SMALL}
    run = SupervisedLearner.start_or_resume(TASK, network, QUICK, **arguments)
    run.learn(progress_bar=False)
    same_run(run, SupervisedLearner.start_or_resume(TASK, network, QUICK, **arguments))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        SupervisedLearner.start_or_resume(TASK, NetworkConfig(hidden_size=9), QUICK, **arguments)


class OfSizes(CueReward):
    """Remember the rewards of cues."""

    def __init__(self, *, sizes=(2, 3)):
        super().__init__(n_cues=sizes[0], cue_size=sizes[1])
        self.sizes = sizes


def test_runs_with_tuples_as_arguments_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(registration, "TASKS", {"Mine/OfSizes-v0": (OfSizes, {})})
    arguments = {"run_dir": tmp_path, "task_arguments": {"sizes": (3, 4)}}
    run = SupervisedLearner.start_or_resume("Mine/OfSizes-v0", NetworkConfig(hidden_size=8), QUICK, **arguments)
    run.save(run.checkpoint_path)
    again = SupervisedLearner.start_or_resume("Mine/OfSizes-v0", NetworkConfig(hidden_size=8), QUICK, **arguments)
    assert repr(again.task) == repr(run.task)
    assert again.task.n_cues == 3


def test_checkpoint_of_another_version_is_refused(tmp_path):
    path = learner().save(tmp_path / "a.pt")
    rewrite(path, within("config", put("patience", 3)))
    with pytest.raises(ValueError, match=r"does not fit this installation.*patience"):
        SupervisedLearner.load(path)


def test_arguments_must_be_plain_data():
    with pytest.raises(TypeError, match=r"task_arguments\['n_cues'\] must be plain data .* got \{3\}"):
        SupervisedLearner(TASK, NetworkConfig(hidden_size=4), task_arguments={"n_cues": {3}})
    run = SupervisedLearner(TASK, NetworkConfig(hidden_size=4), task_arguments={"n_cues": np.int64(3)})
    assert type(run.task_arguments["n_cues"]) is int


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((TASK, torch.nn.Linear(16, 1)), r"network must be a NetworkConfig or a RecurrentCore, got Linear"),
        ((TASK, "hebbian"), "network must be a NetworkConfig or a RecurrentCore, got 'hebbian'"),
        ((TASK, NetworkConfig(), {"steps": 3}), r"config must be a SupervisedConfig, got \{'steps': 3\}"),
        ((gymnasium.make(TASK), NetworkConfig()), "task must be a Task or an environment id, got <"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        SupervisedLearner(*arguments)


def test_divergence_names_the_step_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    run = learner(run_dir=tmp_path)
    loss = run.agent.loss
    monkeypatch.setattr(
        run.agent, "loss", lambda output, episode: loss(output, episode) * (math.nan if run.progress.step == 3 else 1)
    )
    with pytest.raises(FloatingPointError, match="step 3: loss nan"):
        run.learn(progress_bar=False)
    kept = SupervisedLearner.load(tmp_path / "checkpoint.pt")
    assert kept.progress.step == 2
    assert all(torch.isfinite(value).all() for value in kept.agent.state_dict().values())


def test_tensorboard_tags(tmp_path):
    config = SupervisedConfig(steps=10, batch_size=4, evaluate_every=5, evaluation_episodes=8)
    learner(config=config, run_dir=tmp_path).learn(progress_bar=False)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = events.Tags()
    assert {
        "train/loss",
        "train/gradient_norm",
        "train/eta",
        "evaluation/mean_squared_error",
        "evaluation/normalised_score",
        "fast_weight_norm/hidden_to_hidden",
    } <= set(tags["scalars"])
    assert tags["images"] == ["adaptation", "fast_weights", "eta", "example_episode"]
    assert [event.step for event in events.Scalars("evaluation/normalised_score")] == [5, 10]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SupervisedConfig(steps=0), "steps must be .* got 0"),
        (
            lambda: SupervisedConfig(learning_rate=-1.0),
            "learning_rate must be a finite number greater than 0, got -1.0",
        ),
        (lambda: SupervisedConfig(schedule="linear"), "schedule must be .* got 'linear'"),
        (lambda: SupervisedConfig(seed=-1), "seed must be .* got -1"),
        (lambda: NetworkConfig(rule="backprop"), "rule must be one of .* got 'backprop'"),
        (lambda: SupervisedLearner("PlasticRNN/Nothing-v0", NetworkConfig()), "Nothing-v0"),
        (lambda: SupervisedLearner(TASK, NetworkConfig().make_core(3, 1)), "needs a network with input_size=16"),
        (lambda: SupervisedLearner(make_task(TASK), NetworkConfig(), task_arguments={"n_cues": 3}), "given by id"),
        (lambda: SupervisedLearner(TASK, NetworkConfig(), device="abacus"), "device must be .* got 'abacus'"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("rule", ["hebbian", "gradient"])
def test_learning_exceeds_the_memoryless_score(rule):
    # Two cues without noise: constant answers of 0 have an MSE of 0.333, and half of it needs memory.
    config = SupervisedConfig(steps=600, batch_size=32, learning_rate=5e-3, evaluate_every=600, evaluation_episodes=500)
    run = SupervisedLearner(
        TASK,
        NetworkConfig(rule=rule, hidden_size=32, plasticity=Plasticity(max_norm=10.0)),
        config,
        task_arguments={"n_cues": 2, "cue_size": 6, "noise": 0.0, "n_support": 4, "n_queries": 4},
    )
    report = run.learn(progress_bar=False)
    assert report.memoryless.mean == pytest.approx(1 / 3, abs=0.03)
    assert report["intact"].error.high < 0.17


def test_any_mapping_of_arguments_is_a_dict():
    config = SupervisedConfig(**{**QUICK.__dict__, "evaluation_arguments": MappingProxyType({"n_queries": 5})})
    run = learner(config=config)
    run.learn(progress_bar=False)
    assert run.evaluation_agent.task.n_queries == 5


@pytest.mark.filterwarnings("error")
def test_batches_of_one_episode():
    learner(config=SupervisedConfig(**{**QUICK.__dict__, "batch_size": 1})).learn(progress_bar=False)


@pytest.mark.parametrize("rule", ["gradient", "none"])
def test_networks_of_another_default_type_learn(rule, monkeypatch):
    torch.set_default_dtype(torch.float64)
    try:
        run = learner(rule)
        run.learn(progress_bar=False)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in run.agent.parameters()} == {torch.float64}


def test_a_task_of_the_curriculum_is_made_once():
    task = ("PlasticRNN/SequenceReproduction-v0", NetworkConfig("none", hidden_size=4))
    config = SupervisedConfig(steps=8, curriculum=Curriculum("delay", growth=1.0))
    run = SupervisedLearner(*task, config, task_arguments={"length": 2, "delay": 2})
    tasks = [run._training_task(step) for step in range(8)]
    assert [task.delay for task in tasks] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert tasks[0] is tasks[1]
    assert tasks[3] is tasks[5]


def test_pretraining_is_made_once():
    encoder = EncoderConfig("conv-4", channels=2, pretraining=1, frozen=True)
    network = NetworkConfig("hebbian", hidden_size=4, encoder=encoder)
    config = SupervisedConfig(steps=1, batch_size=2, evaluation_episodes=2)

    def run(interrupted):
        run = SupervisedLearner("PlasticRNN/FewShotClassification-v0", network, config)
        if interrupted:
            train_step, run._train_step = run._train_step, None
            with pytest.raises(TypeError):
                run.learn(progress_bar=False)
            run._train_step = train_step
        run.learn(progress_bar=False)
        return run

    same_run(run(interrupted=True), run(interrupted=False))


def test_curriculum_grows_to_the_value_of_the_task():
    curriculum = Curriculum("delay", first=2, growth=0.5)
    assert [curriculum.value_at(progress, 10) for progress in (0.0, 0.125, 0.25, 0.5, 0.9)] == [2, 4, 6, 10, 10]


def test_curriculum_changes_training_but_not_evaluation(tmp_path):
    def run(curriculum):
        config = SupervisedConfig(**{**QUICK.__dict__, "curriculum": curriculum})
        task = {"length": 2, "delay": 6}
        network = NetworkConfig(hidden_size=8)
        return SupervisedLearner("PlasticRNN/SequenceReproduction-v0", network, config, task_arguments=task)

    plain, growing = run(None), run(Curriculum("delay"))
    lengths = []
    sample = type(growing.task).sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(growing.task), "sample", lambda self, *a: lengths.append(self.delay) or sample(self, *a))
        reports = [learner.learn(progress_bar=False) for learner in (plain, growing)]
    assert lengths == [6] * 6 + [0, 2, 3, 5, 6, 6]
    assert reports[0].task == reports[1].task
    assert reports[0].oracle == reports[1].oracle
    assert SupervisedLearner.load(growing.save(tmp_path / "a.pt")).config == growing.config


@pytest.mark.parametrize(
    ("curriculum", "message"),
    [
        (Curriculum("patience"), "must name a whole-number argument of CueReward.* got 'patience'"),
        (Curriculum("noise"), "got 'noise'"),
        (Curriculum("cue_size", first=1), "must leave the task's spaces as they are"),
        (Curriculum("n_cues"), "n_cues must be"),
        (Curriculum("n_cues", first=3), "at most the task's own n_cues=2, got 3"),
    ],
)
def test_curriculum_must_fit_the_task(curriculum, message):
    with pytest.raises(ValueError, match=message):
        learner(config=SupervisedConfig(curriculum=curriculum))


def test_curriculum_growth_is_a_fraction_of_the_run():
    with pytest.raises(ValueError, match=r"growth must be a finite number greater than 0 and at most 1, got 1\.5"):
        Curriculum("delay", growth=1.5)


def test_interactive_tasks_are_refused():
    message = (
        r"CueChoice\(.* is interactive and cannot be trained by supervision; use ReinforcementLearner \(--algo ppo\)"
    )
    with pytest.raises(ValueError, match=message):
        SupervisedLearner("PlasticRNN/CueChoice-v0", NetworkConfig(hidden_size=4))
