"""Two processes with half a batch each equal one process with the whole batch; torchrun runs this file as a script."""

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
    """Episodes with different numbers of scored steps, so that slices of a batch have unequal weights in the loss."""

    def compose(self, stimuli, memoranda):
        episode = super().compose(stimuli, memoranda)
        scored = episode.scored & (episode.observation[..., :1].sum(-1) > 0)
        scored[:, -1] = True
        return replace(episode, scored=scored)


TASK = Uneven(n_cues=2, cue_size=3, n_support=4, n_queries=6)


def learner(rule="hebbian", run_dir=None):
    return SupervisedLearner(TASK, NetworkConfig(rule, hidden_size=8), CONFIG, run_dir=run_dir)


def at_step(run, action_step, action):
    """Call ``action`` before a step."""
    train_step = run._train_step

    def acting(step):
        if step == action_step:
            action()
        return train_step(step)

    run._train_step = acting


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def poison(run):
    with torch.no_grad():
        next(run.agent.parameters()).fill_(math.nan)


def training_result(run):
    """Train, and return the weights, the number of steps, the evaluations, and the error that ended training."""
    error = ""
    try:
        run.learn()
    except (KeyboardInterrupt, FloatingPointError, ValueError) as raised:
        error = repr(raised)
    weights = torch.cat([parameter.detach().flatten() for parameter in run.agent.parameters()])
    return {"weights": weights, "step": run.progress.step, "evaluations": run.progress.evaluations, "error": error}


def main(folder, rank):
    """Train in one of two processes, and write its results to a file."""
    results = {rule: training_result(learner(rule, folder / rule)) for rule in RULES}

    run = learner(run_dir=folder / "interrupted in two")
    if rank == 1:  # rank 0, which writes the checkpoint, gets no signal
        at_step(run, 3, interrupt)
    results["interrupted"] = training_result(run)
    results["resumed"] = training_result(
        SupervisedLearner.load(folder / "interrupted in one" / "checkpoint.pt", task=TASK)
    )

    run = learner(run_dir=folder / "diverged")
    if rank == 1:
        at_step(run, 6, lambda: poison(run))
    results["diverged"] = training_result(run)

    run = learner()
    run.progress.step = rank * CONFIG.steps  # rank 1 has no steps left
    results["different steps"] = training_result(run)

    torch.save(results, folder / f"{rank}.pt")
    run_command(["train", "cue-reward-hebbian", *SHORT, "--out", str(folder / "command")])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return the folder with the files of two processes, the results of each, and their output."""
    folder = tmp_path_factory.mktemp("two")
    run = learner(run_dir=folder / "interrupted in one")
    at_step(run, 3, interrupt)
    assert training_result(run)["step"] == 4
    # Some machines cannot resolve their own name, so give the address.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [*torchrun, "--nproc-per-node", "2", __file__, str(folder)]
    # Without a timeout, processes that wait for each other would wait for half an hour.
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)], done


def assert_same_run(a, b):
    # Sums over episodes have another order, which changes the last bits of float32; after eight steps of Adam, weights
    # differ by 1e-7. A wrong gradient would change weights by the learning rate, 1e-2.
    torch.testing.assert_close(a["weights"], b["weights"], rtol=0, atol=2e-6)
    assert a["step"] == b["step"] == CONFIG.steps
    for evaluation_a, evaluation_b in zip(a["evaluations"], b["evaluations"], strict=True):
        assert evaluation_a == pytest.approx(evaluation_b, abs=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_two_processes_train_as_one_with_the_whole_batch(two, rule):
    first, second = (results[rule] for results in two[1])
    assert torch.equal(first["weights"], second["weights"])
    assert first["evaluations"] == second["evaluations"]
    assert_same_run(training_result(learner(rule)), second)
    # The slices must differ in their number of scored steps, or the test would not check their weights.
    scored = TASK.sample(stream_rng(Stream.TRAINING, CONFIG.seed, 0), CONFIG.batch_size).scored
    assert scored[:3].sum() != scored[3:].sum()


def test_interrupt_of_one_process_stops_all_and_any_number_of_processes_resumes(two):
    folder, results, _ = two
    for result in results:
        assert (result["interrupted"]["step"], result["interrupted"]["error"]) == (4, "KeyboardInterrupt()")
    resumed = SupervisedLearner.load(folder / "interrupted in two" / "checkpoint.pt", task=TASK)
    assert resumed.progress.step == 4
    through = training_result(learner())
    assert_same_run(training_result(resumed), through)
    assert_same_run(results[0]["resumed"], through)


def test_divergence_in_one_process_ends_all_and_keeps_the_last_checkpoint(two):
    folder, results, _ = two
    for result in results:
        assert "FloatingPointError('step 6" in result["diverged"]["error"]
    assert SupervisedLearner.load(folder / "diverged" / "checkpoint.pt", task=TASK).progress.step == 5


def test_processes_at_different_steps_are_an_error(two):
    for rank, result in enumerate(two[1]):
        steps = rank * CONFIG.steps
        assert (
            f"all processes must see the same run_dir, this one found {steps} steps"
            in result["different steps"]["error"]
        )


@pytest.mark.parametrize(("numbers", "same"), [((1, 0, 2), False), ((7, 7, 7), True)])
def test_all_equal_gives_the_same_answer_in_each_process(numbers, same, monkeypatch):
    """This includes a process whose number is the mean of all."""
    processes, sent = [ProcessGroup(rank, 3) for rank in range(3)], []

    def answers():
        cpu = torch.device("cpu")
        return [process.all_equal(number, cpu) for process, number in zip(processes, numbers, strict=True)]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: sent.append(tensor.clone()))
    answers()
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.copy_(sum(sent)))
    assert answers() == [same] * 3


def test_only_the_main_process_writes_and_prints(two):
    folder, _, done = two
    for name in (*RULES, "diverged", "command"):
        assert len(list((folder / name).iterdir())) == 2, "a checkpoint and a file of TensorBoard"
    assert done.stdout.count("intervention ") == 1
    assert done.stderr.count(" 0/10") == 1, "the progress bar of the main process"
    logged = EventAccumulator(str(folder / "command")).Reload().Scalars("train/loss")
    alone = folder / "alone"
    run_command(["train", "cue-reward-hebbian", *SHORT, "--out", str(alone)])
    expected = EventAccumulator(str(alone)).Reload().Scalars("train/loss")
    assert [event.value for event in logged] == pytest.approx([event.value for event in expected], rel=1e-5)


def test_process_group_is_not_initialised_without_torchrun(monkeypatch):
    assert ProcessGroup.from_env() == ProcessGroup(rank=0, world_size=1)
    monkeypatch.setenv("WORLD_SIZE", "2")  # as other launchers may
    assert ProcessGroup.from_env() == ProcessGroup(rank=0, world_size=1)
    training_result(learner())
    assert not torch.distributed.is_initialized()


def test_each_process_has_its_own_gpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    devices = {"cuda": "cuda:3", "cuda:1": "cuda:1", "cpu": "cpu"}
    for device, local_device in devices.items():
        assert ProcessGroup(7, 8).local_device(torch.device(device)) == torch.device(local_device)
        assert ProcessGroup().local_device(torch.device(device)) == torch.device(device)


def test_a_gpu_without_a_number_is_refused(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="device must have an index, such as 'cuda:0', where LOCAL_RANK"):
        ProcessGroup(7, 8).local_device(torch.device("cuda"))


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
