"""Two processes on slices of a batch against one process on the whole batch; torchrun runs this file as a script."""

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plastic_agents import NetworkConfig, ReinforcementLearner, SupervisedConfig, SupervisedLearner
from plastic_agents.cli.main import main as run_command
from plastic_agents.seeding import Stream, stream_rng
from plastic_agents.training.distributed import ProcessGroup
from plastic_agents.training.recipes import REINFORCEMENT_RECIPES, SUPERVISED_RECIPES
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plastic_envs.tasks import CueReward

RULES = ("hebbian", "gradient")
CONFIG = SupervisedConfig(steps=8, batch_size=6, learning_rate=0.01, evaluation_episodes=8, checkpoint_every=5)
SHORT = ["--training.steps", "10", "--training.evaluation-episodes", "8", "--network.hidden-size", "8"]


class Uneven(CueReward):
    """Episodes with few and with many scored steps, so that shares of a batch have unequal parts of the loss."""

    def compose(self, stimuli, memoranda):
        episode = super().compose(stimuli, memoranda)
        scored = episode.scored & (episode.observation[..., :1].sum(-1) > 0)
        scored[:, -1] = True
        return replace(episode, scored=scored)


TASK = Uneven(n_cues=2, cue_size=3, n_support=4, n_queries=6)


def learner(rule="hebbian", run_dir=None):
    return SupervisedLearner(TASK, NetworkConfig(rule, hidden_size=8), CONFIG, run_dir=run_dir)


def at_step(run, wanted, action):
    """Do something just before a step."""
    train_step = run._train_step

    def acting(step):
        if step == wanted:
            action()
        return train_step(step)

    run._train_step = acting


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def poison(run):
    with torch.no_grad():
        next(run.agent.parameters()).fill_(math.nan)


def outcome(run):
    """What comes of training: weights, evaluations, and how far it came, with the error that ended it, if one did."""
    error = ""
    try:
        run.learn()
    except (KeyboardInterrupt, FloatingPointError, ValueError) as raised:
        error = repr(raised)
    weights = torch.cat([parameter.detach().flatten() for parameter in run.agent.parameters()])
    return {"weights": weights, "step": run.progress.step, "evaluations": run.progress.evaluations, "error": error}


def main(folder, rank):
    """What each of two processes does; it leaves what it finds in a file of its own."""
    found = {rule: outcome(learner(rule, folder / rule)) for rule in RULES}

    run = learner(run_dir=folder / "begun by two")
    if rank == 1:  # the other, which writes the checkpoint, is never told
        at_step(run, 3, interrupt)
    found["interrupted"] = outcome(run)
    found["resumed"] = outcome(SupervisedLearner.load(folder / "begun by one" / "checkpoint.pt", task=TASK))

    run = learner(run_dir=folder / "diverged")
    if rank == 1:
        at_step(run, 6, lambda: poison(run))
    found["diverged"] = outcome(run)

    run = learner()
    run.progress.step = rank * CONFIG.steps  # the other has nothing left to do
    found["apart"] = outcome(run)

    torch.save(found, folder / f"{rank}.pt")
    run_command(["train", "cue-reward-hebbian", *SHORT, "--out", str(folder / "command")])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of what two processes wrote, what each of them found, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    run = learner(run_dir=folder / "begun by one")
    at_step(run, 3, interrupt)
    assert outcome(run)["step"] == 4
    # The address is given, since not every machine can resolve its own name.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [*torchrun, "--nproc-per-node", "2", __file__, str(folder)]
    # Where processes wait for each other, they do so for half an hour.
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)], done


def assert_same_run(one, other):
    # Sums over lanes are added up in another order: a few units in the last place of float32, which eight steps of
    # Adam keep at 1e-7; a gradient that is wrong moves weights by the learning rate, 1e-2.
    torch.testing.assert_close(one["weights"], other["weights"], rtol=0, atol=2e-6)
    assert one["step"] == other["step"] == CONFIG.steps
    for ours, theirs in zip(one["evaluations"], other["evaluations"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_two_processes_train_as_one_with_the_whole_batch(two, rule):
    first, second = (found[rule] for found in two[1])
    assert torch.equal(first["weights"], second["weights"])
    assert first["evaluations"] == second["evaluations"]
    assert_same_run(outcome(learner(rule)), second)
    # Unless shares differ in how much of them is scored, this says nothing about their weights.
    scored = TASK.sample(stream_rng(Stream.TRAINING, CONFIG.seed, 0), CONFIG.batch_size).scored
    assert scored[:3].sum() != scored[3:].sum()


def test_interrupt_of_one_process_stops_all_and_any_number_of_processes_resumes(two):
    folder, found, _ = two
    for each in found:
        assert (each["interrupted"]["step"], each["interrupted"]["error"]) == (4, "KeyboardInterrupt()")
    resumed = SupervisedLearner.load(folder / "begun by two" / "checkpoint.pt", task=TASK)
    assert resumed.progress.step == 4
    through = outcome(learner())
    assert_same_run(outcome(resumed), through)
    assert_same_run(found[0]["resumed"], through)


def test_divergence_in_one_process_ends_all_and_keeps_the_last_checkpoint(two):
    folder, found, _ = two
    for each in found:
        assert "FloatingPointError('step 6" in each["diverged"]["error"]
    assert SupervisedLearner.load(folder / "diverged" / "checkpoint.pt", task=TASK).progress.step == 5


def test_processes_at_different_steps_are_an_error(two):
    for rank, each in enumerate(two[1]):
        steps = rank * CONFIG.steps
        assert f"all processes must see the same run_dir, this one found {steps} steps" in each["apart"]["error"]


@pytest.mark.parametrize(("numbers", "same"), [((1, 0, 2), False), ((7, 7, 7), True)])
def test_all_equal_gives_the_same_answer_in_each_process(numbers, same, monkeypatch):
    """That includes the process whose number happens to be the mean."""
    processes, sent = [ProcessGroup(rank, 3) for rank in range(3)], []

    def told():
        cpu = torch.device("cpu")
        return [process.all_equal(number, cpu) for process, number in zip(processes, numbers, strict=True)]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: sent.append(tensor.clone()))
    told()
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.copy_(sum(sent)))
    assert told() == [same] * 3


def test_only_the_main_process_writes_and_prints(two):
    folder, _, done = two
    for name in (*RULES, "diverged", "command"):
        assert len(list((folder / name).iterdir())) == 2, "a checkpoint and a file of TensorBoard's"
    assert done.stdout.count("intervention ") == 1
    assert done.stderr.count(" 0/10") == 1, "its progress bar"
    logged = EventAccumulator(str(folder / "command")).Reload().Scalars("train/loss")
    alone = folder / "alone"
    run_command(["train", "cue-reward-hebbian", *SHORT, "--out", str(alone)])
    expected = EventAccumulator(str(alone)).Reload().Scalars("train/loss")
    assert [each.value for each in logged] == pytest.approx([each.value for each in expected], rel=1e-5)


def test_process_group_is_not_initialised_without_torchrun(monkeypatch):
    assert ProcessGroup.from_env() == ProcessGroup(rank=0, world_size=1)
    monkeypatch.setenv("WORLD_SIZE", "2")  # as other launchers may
    assert ProcessGroup.from_env() == ProcessGroup(rank=0, world_size=1)
    outcome(learner())
    assert not torch.distributed.is_initialized()


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    places = {"cuda": "cuda:3", "cuda:1": "cuda:1", "cpu": "cpu"}
    for device, place in places.items():
        assert ProcessGroup(7, 8).local_device(torch.device(device)) == torch.device(place)
        assert ProcessGroup().local_device(torch.device(device)) == torch.device(device)


def test_unsupported_distributed_training_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 4 processes, got 6"):
        learner()
    recipe = SUPERVISED_RECIPES["glyphs-hebbian"]
    with pytest.raises(ValueError, match=r"device must be 'cuda' for 4 processes .* batch normalisation.* got 'cpu'"):
        SupervisedLearner(recipe.task, recipe.network, recipe.training)
    recipe = REINFORCEMENT_RECIPES["cue-choice-hebbian"]
    with pytest.raises(ValueError, match=r"ReinforcementLearner does not support torchrun \(world size 4\)"):
        ReinforcementLearner(recipe.task, recipe.network, recipe.training)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(os.environ["RANK"]))
