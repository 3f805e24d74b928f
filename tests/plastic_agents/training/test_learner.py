"""Learners of both kinds: locked run folders, signals, invalid checkpoints, resumption and extension of runs."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from plastic_agents import (
    Curriculum,
    NetworkConfig,
    ReinforcementConfig,
    ReinforcementLearner,
    SupervisedConfig,
    SupervisedLearner,
    seeding,
)
from plastic_agents.actor_critic import on_policy
from plastic_agents.training import supervised
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.plastic_agents.checkpoints import drop, put, rewrite, within

ROLLOUT = 2 * 6  # steps of a rollout: two environments, six steps
SUPERVISED = SupervisedConfig(
    steps=3,
    batch_size=4,
    schedule="constant",
    evaluate_every=3,
    evaluation_episodes=4,
    checkpoint_every=1,
)
POLICY = ReinforcementConfig(
    total_timesteps=3 * ROLLOUT,
    n_envs=2,
    final_learning_rate=1.0,
    ent_coef=0.0,
    evaluate_every=3 * ROLLOUT,
    evaluation_episodes=4,
    checkpoint_every=ROLLOUT,
)
# Class, task, its arguments, settings, and steps of `Progress` per step of these tests.
KINDS = {
    "supervised": (
        SupervisedLearner,
        "PlasticRNN/CueReward-v0",
        {"n_cues": 2, "n_support": 3, "n_queries": 3},
        SUPERVISED,
        1,
    ),
    "policy": (ReinforcementLearner, "PlasticRNN/CueChoice-v0", {"n_cues": 2, "n_trials": 3}, POLICY, ROLLOUT),
}
LENGTH = {"supervised": "steps", "policy": "total_timesteps"}
NETWORK = NetworkConfig("hebbian", hidden_size=4)


def start(kind, run_dir, **changes):
    make, task, arguments, config, _ = KINDS[kind]
    return make.start_or_resume(task, NETWORK, replace(config, **changes), run_dir=run_dir, task_arguments=arguments)


def lengthened(kind, steps):
    return {LENGTH[kind]: steps * KINDS[kind][4]}


def load(kind, path, **arguments):
    return KINDS[kind][0].load(path, **arguments)


def at_step(kind, run, step, action, monkeypatch):
    """Call ``action`` during a step, counted from 0."""
    done = []
    if kind == "supervised":
        train_step = run._train_step

        def acting(number):
            if number == step:
                action()
            return train_step(number)

        monkeypatch.setattr(run, "_train_step", acting)
    else:
        step_env = run.model.env.step

        def stepping(actions):
            if run.progress.step == step * ROLLOUT and not done:
                done.append(True)
                action()
            return step_env(actions)

        monkeypatch.setattr(run.model.env, "step", stepping)


def weights(run):
    return torch.cat([parameter.detach().flatten() for parameter in run.evaluation_agent.parameters()])


def assert_same_run(a, b):
    assert torch.equal(weights(a), weights(b))
    assert (a.progress.step, a.progress.evaluations) == (b.progress.step, b.progress.evaluations)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def test_a_second_run_in_a_folder_is_refused_at_once(kind, tmp_path, monkeypatch):
    for other in KINDS:
        folder = tmp_path / other
        first, refused = start(kind, folder), start(other, folder)
        errors = []

        def start_second(second=refused, errors=errors):
            before = weights(second)
            with pytest.raises(BlockingIOError, match="is in use by another run") as error:
                second.learn(progress_bar=False)
            assert second.progress.step == 0
            assert torch.equal(weights(second), before)
            errors.append(error)

        at_step(kind, first, 1, start_second, monkeypatch)
        first.learn(progress_bar=False)
        assert errors
        assert {path.name.partition(".")[0] for path in folder.iterdir()} == {"checkpoint", "events"}
        # A learner that was made before that run would start over, so it is refused too.
        with pytest.raises(FileExistsError, match="or was changed by one: load it"):
            refused.learn(progress_bar=False)


def test_stale_learner_does_not_overwrite_a_newer_checkpoint(kind, tmp_path, monkeypatch):
    first = start(kind, tmp_path)
    at_step(kind, first, 1, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        first.learn(progress_bar=False)
    stale, second = (load(kind, tmp_path / "checkpoint.pt") for _ in range(2))
    second.learn(progress_bar=False)
    with pytest.raises(FileExistsError, match="was changed by one: load it"):
        stale.learn(progress_bar=False)
    elsewhere = load(kind, tmp_path / "checkpoint.pt", run_dir=tmp_path / "elsewhere")
    elsewhere.save(tmp_path / "elsewhere" / "checkpoint.pt")
    again = load(kind, tmp_path / "checkpoint.pt", run_dir=tmp_path / "elsewhere", config=extended(kind, 4))
    with pytest.raises(FileExistsError, match="is another run's"):
        again.learn(progress_bar=False)


def extended(kind, steps, **changes):
    return replace(KINDS[kind][3], **lengthened(kind, steps), **changes)


def test_only_the_main_process_locks_the_run_folder(tmp_path, monkeypatch):
    run = start("supervised", tmp_path)
    with run._lock_run_dir():
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with run._lock_run_dir():
            pass
        monkeypatch.setenv("RANK", "0")
        with pytest.raises(BlockingIOError), run._lock_run_dir():
            pass


def test_a_run_that_ended_inside_an_update_goes_on_from_its_checkpoint_only(kind, tmp_path, monkeypatch):
    module = {"supervised": supervised, "policy": on_policy}[kind]
    make_step = module.make_step

    def interrupted(*arguments):
        norm = make_step(*arguments)
        if run.progress.step > 0:
            raise KeyboardInterrupt
        return norm

    run = start(kind, tmp_path, checkpoint_every=1)
    monkeypatch.setattr(module, "make_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.learn(progress_bar=False)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="an earlier call of learn ended inside an update"):
        run.learn(progress_bar=False)
    resumed = load(kind, tmp_path / "checkpoint.pt")
    resumed.learn(progress_bar=False)
    whole = start(kind, tmp_path / "whole", checkpoint_every=1)
    whole.learn(progress_bar=False)
    assert torch.equal(weights(resumed), weights(whole))


def test_temporary_files_of_killed_runs_are_removed(kind, tmp_path):
    temporary, other = tmp_path / ".tmp-abc-checkpoint.pt", tmp_path / ".tmp-abc-report.json"
    for path in (temporary, other):
        path.touch()
    start(kind, tmp_path).learn(progress_bar=False)
    assert not temporary.exists()
    assert other.exists()


def test_sigterm_writes_a_checkpoint_and_the_run_ends_with_the_same_bits(kind, tmp_path, monkeypatch):
    through = start(kind, tmp_path / "through")
    through.learn(progress_bar=False)
    broken = start(kind, tmp_path / "broken", checkpoint_every=10**6)
    at_step(kind, broken, 1, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as stop:
        broken.learn(progress_bar=False)
    assert isinstance(stop.value, SystemExit)
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    resumed = load(kind, tmp_path / "broken" / "checkpoint.pt")
    assert resumed.progress.step == 2 * KINDS[kind][4]
    resumed.learn(progress_bar=False)
    assert_same_run(through, resumed)


def test_a_command_that_gets_sigterm_prints_a_line_and_exits_with_143(tmp_path):
    words = ["train", "cue-reward-hebbian", "--out", str(tmp_path), "--network.hidden-size", "8"]
    process = subprocess.Popen(
        [sys.executable, "-m", "plastic_agents.cli.main", *words, "--training.checkpoint-every", "1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        while not (tmp_path / "checkpoint.pt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    assert process.returncode == 143
    assert error.splitlines()[-1] == "plastic-rnn: terminated; the same command resumes the run"
    assert not (tmp_path / ".lock").exists()


def test_tensorboard_events_after_the_checkpoint_are_purged_on_resume(kind, tmp_path, monkeypatch):
    one = KINDS[kind][4]
    settings = {**lengthened(kind, 6), "evaluate_every": one, "checkpoint_every": 2 * one}
    killed = start(kind, tmp_path, **settings)

    def die():
        raise MemoryError

    at_step(kind, killed, 3, die, monkeypatch)
    with pytest.raises(MemoryError):
        killed.learn(progress_bar=False)
    resumed = load(kind, tmp_path / "checkpoint.pt")
    assert (killed.progress.step, resumed.progress.step) == (3 * one, 2 * one)
    resumed.learn(progress_bar=False)
    events = EventAccumulator(str(tmp_path)).Reload()
    steps = [event.step for event in events.Scalars("evaluation/normalised_score")]
    assert steps == [number * one for number in range(1, 7)]


WRONG = {
    **{f"no {name}": drop(name) for name in ("task_id", "task_arguments", "task", "config", "progress")},
    **{f"{name} a number": put(name, 3) for name in ("task_id", "task_arguments", "config", "progress")},
    "task another": put("task", 3),
    **{f"{name} a string": put(name, "x") for name in ("task_id", "task_arguments", "network_config", "progress")},
    **{f"{name} a list": put(name, [1]) for name in ("task_id", "task_arguments", "network_config", "config")},
    "an unknown entry": put("extra", 1),
    "a missing setting": within("config", drop("seed")),
    "an unknown setting": within("config", put("patience", 1)),
    "a setting out of range": within("config", put("seed", -1)),
    "a setting of another type": within("config", put("learning_rate", "fast")),
    "a missing setting of the network": within("network_config", drop("hidden_size")),
    "a missing setting of the rule": within("network_config", within("plasticity", drop("rate"))),
    "no plasticity": within("network_config", drop("plasticity")),
    "plasticity a number": within("network_config", put("plasticity", 3)),
    "an argument of another type": within("task_arguments", put("n_cues", "two")),
    "an unknown argument": within("task_arguments", put("n_queues", 2)),
    "no step": within("progress", drop("step")),
    "a negative step": within("progress", put("step", -ROLLOUT)),
    "a step beyond the last": within("progress", put("step", 9 * ROLLOUT)),
    "half a step": within("progress", put("step", 0.5)),
    "a step of another type": within("progress", put("step", "one")),
    "an unknown entry of progress": within("progress", put("steps", 3)),
}
STATE = {
    "supervised": {
        "no model": drop("model"),
        "model a number": put("model", 3),
        "model a list": put("model", [1]),
        "a missing parameter": within("model", lambda model: dict(list(model.items())[1:])),
        "parameters of another type": within("model", lambda model: {name: 3 for name in model}),
        "no optimizer": drop("optimizer"),
        "optimizer a number": put("optimizer", 3),
        "no groups": within("optimizer", drop("param_groups")),
        "no state": within("optimizer", drop("state")),
        "other groups": within("optimizer", put("param_groups", [])),
    },
    "policy": {
        "no parameters": drop("parameters"),
        "parameters a number": put("parameters", 3),
        "no policy": within("parameters", drop("policy")),
        "policy a number": within("parameters", put("policy", 3)),
        "an unknown object": within("parameters", put("env", {})),
        "no optimizer": within("parameters", drop("policy.optimizer")),
        "optimizer a list": within("parameters", put("policy.optimizer", [1])),
        "no groups": within("parameters", within("policy.optimizer", drop("param_groups"))),
        "part of a rollout": within("progress", put("step", 5)),
    },
}


@pytest.mark.parametrize("wrong", [(kind, name) for kind in KINDS for name in {**WRONG, **STATE[kind]}], ids=" ".join)
def test_wrong_content_is_a_value_error_that_names_the_file(wrong, tmp_path):
    """The checksums are right, so `load` must check the content itself."""
    kind, name = wrong
    path = tmp_path / "checkpoint.pt"
    start(kind, tmp_path / "run").save(path)
    load(kind, path)
    rewrite(path, {**WRONG, **STATE[kind]}[name])
    with pytest.raises(ValueError, match=r"checkpoint\.pt .*(does not fit|cannot be|is of|was made with)"):
        load(kind, path)


def test_extended_run_ends_with_the_bits_of_a_longer_run(kind, tmp_path, recwarn):
    through = start(kind, tmp_path / "through", **lengthened(kind, 6))
    through.learn(progress_bar=False)
    start(kind, tmp_path / "more").learn(progress_bar=False)
    more = start(kind, tmp_path / "more", **lengthened(kind, 6))
    assert more.progress.step == 3 * KINDS[kind][4]
    more.learn(progress_bar=False)
    assert_same_run(through, more)
    planned = 3 * KINDS[kind][4]
    assert more.progress.extensions == [{"step": planned, "planned": planned}]
    assert not through.progress.extensions
    assert load(kind, tmp_path / "more" / "checkpoint.pt").progress == more.progress
    assert not [warning for warning in recwarn if "schedules" in str(warning.message)]
    # A run cannot become shorter than it already is.
    with pytest.raises(ValueError, match=rf"{LENGTH[kind]} must be at least the .* steps that .* has made, got"):
        start(kind, tmp_path / "more", **lengthened(kind, 5))


def test_training_evaluates_on_validation_episodes_and_never_on_test_episodes(kind, tmp_path, monkeypatch):
    streams = []

    def record(stream, seed, key, sequence=seeding._sequence):
        streams.append(stream)
        return sequence(stream, seed, key)

    monkeypatch.setattr(seeding, "_sequence", record)
    run = start(kind, tmp_path)
    report = run.learn(progress_bar=False)
    assert seeding.Stream.VALIDATION in streams
    assert seeding.Stream.TEST not in streams
    assert report.split == "validation"
    assert report == run.evaluate()
    assert run.progress.evaluations[-1]["metric"] == report["intact"].metric.mean
    test = run.evaluate("test")
    assert streams[-1] == seeding.Stream.TEST
    assert (test.split, test.task, test.step) == ("test", report.task, report.step)
    assert test.oracle_curves != report.oracle_curves or test.memoryless != report.memoryless
    with pytest.raises(ValueError, match="split must be one of validation, test, got 'train'"):
        run.evaluate("train")


@pytest.mark.parametrize(
    ("kind", "schedule"),
    [
        ("supervised", {"schedule": "cosine"}),
        ("supervised", {"curriculum": Curriculum("n_support", first=1)}),
        ("policy", {"final_learning_rate": 0.1}),
        ("policy", {"ent_coef": 0.1}),
    ],
)
def test_extension_of_a_run_with_schedules_warns(kind, schedule, tmp_path):
    start(kind, tmp_path, **schedule).learn(progress_bar=False)
    planned, extended_to = 3 * KINDS[kind][4], 6 * KINDS[kind][4]
    with pytest.warns(
        UserWarning, match=f"planned with {planned} steps and now has {extended_to}: from step {planned} on"
    ):
        more = start(kind, tmp_path, **schedule, **lengthened(kind, 6))
    more.learn(progress_bar=False)
    assert more.progress.step == extended_to


def test_extended_run_follows_the_new_learning_rate_schedule(tmp_path, monkeypatch):
    start("supervised", tmp_path, schedule="cosine").learn(progress_bar=False)
    with pytest.warns(UserWarning, match="schedules span 6 steps"):
        more = start("supervised", tmp_path, schedule="cosine", steps=6)
    rates = []
    train_step = more._train_step

    def recording(step):
        result = train_step(step)
        rates.append(more.optimizer.param_groups[0]["lr"])
        return result

    monkeypatch.setattr(more, "_train_step", recording)
    more.learn(progress_bar=False)
    assert rates == [more.config.learning_rate_at(step) for step in (3, 4, 5)]


def test_monitoring_settings_may_change(kind, tmp_path, monkeypatch):
    through = start(kind, tmp_path / "through")
    through.learn(progress_bar=False)
    first = start(kind, tmp_path / "run")
    at_step(kind, first, 0, lambda: os.kill(os.getpid(), signal.SIGINT), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        first.learn(progress_bar=False)
    one = KINDS[kind][4]
    watched = start(kind, tmp_path / "run", evaluate_every=one, evaluation_episodes=3, checkpoint_every=2 * one)
    watched.learn(progress_bar=False)
    assert torch.equal(weights(through), weights(watched))
    assert [evaluation["step"] for evaluation in watched.progress.evaluations] == [2 * one, 3 * one]
    assert load(kind, tmp_path / "run" / "checkpoint.pt").config == watched.config != through.config


def test_other_settings_are_refused_by_name(kind, tmp_path):
    make, task, arguments, config, _ = KINDS[kind]
    start(kind, tmp_path).learn(progress_bar=False)
    folder = {"run_dir": tmp_path, "task_arguments": arguments}
    for other, message in (
        ((task, NETWORK, replace(config, seed=4), folder), "seed is 0 there, got 4"),
        ((task, NETWORK, replace(config, evaluation_arguments={"noise": 0.3}), folder), "evaluation_arguments is {}"),
        ((task, replace(NETWORK, hidden_size=5), config, folder), "hidden_size is 4 there, got 5"),
        ((task, NETWORK, config, {**folder, "task_arguments": {}}), "task_arguments is {'n_cues': 2.*, got {}"),
        (("PlasticRNN/Other-v0", NETWORK, config, folder), f"task is '{task}' there, got 'PlasticRNN/Other-v0'"),
    ):
        with pytest.raises(ValueError, match=f"holds a run with other settings: {message}.*choose another folder"):
            make.start_or_resume(*other[:3], **other[3])
