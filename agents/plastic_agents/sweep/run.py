"""Training the trials of a sweep, each in a run folder under ``trials``.

`plastic_agents.sweep.plan.plan_sweep` makes the trials, `run_sweep` trains the unfinished ones on Ray Tune
(`plastic_agents.sweep.ray_tune`), and `plastic_agents.sweep.results` makes a table and a figure of their results.
"""

from __future__ import annotations

import os
import platform
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import torch

from plastic_agents.atomic_files import locked, remove_temporaries, write_json
from plastic_agents.models.config import NO_PLASTICITY
from plastic_agents.models.plastic.rule import RULES, register_rule
from plastic_agents.sweep.plan import PLAN_FILE, Trial, check_plan, learner_class, read_json
from plastic_agents.training.learner import OnEvaluation, check_device
from plastic_envs import register
from plastic_envs.registration import TASKS, registered_id
from plastic_envs.validation import real_number, whole_number

RESULT_FILE = "result.json"  # in a trial's folder, as is the next
ERROR_FILE = "error.txt"
# A run that diverged is not tried again: another attempt would diverge at the same step.
DONE = ("finished", "diverged")


@dataclass(frozen=True)
class SweepOptions:
    """Options of `run_sweep`.

    Attributes:
        concurrent: number of trials to train at the same time; None uses all cores.
        threads: number of torch threads of each trial, each on a core of its own.
        gpus_per_trial: GPUs of each trial; a fraction lets trials share a GPU.
        retries: number of times that a failed trial is tried again.
        address: address of a Ray cluster, such as "auto" on one of its machines; None uses this machine.
        device: device that trials train on; None means "cuda" if ``gpus_per_trial`` is above 0, and "cpu" otherwise.

    Raises:
        TypeError: a number has the wrong type.
        ValueError: a number is out of range, or ``device`` needs a GPU and trials have none.
    """

    concurrent: int | None = None
    threads: int = 1
    gpus_per_trial: float = 0.0
    retries: int = 1
    address: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.concurrent is not None:
            whole_number("concurrent", self.concurrent, at_least=1)
        whole_number("threads", self.threads, at_least=1)
        real_number("gpus_per_trial", self.gpus_per_trial, at_least=0)
        whole_number("retries", self.retries, at_least=0)
        if self.trial_device.startswith("cuda") and not self.gpus_per_trial:
            raise ValueError(
                f"gpus_per_trial must be more than 0 for device {self.device!r}, got {self.gpus_per_trial!r}"
            )

    @property
    def trial_device(self) -> str:
        """The device that trials train on."""
        return self.device or ("cuda" if self.gpus_per_trial else "cpu")


def run_trial(
    trial: Trial, folder: Path, on_evaluation: OnEvaluation, *, device: str = "cpu", threads: int = 1
) -> None:
    """Train a trial, or resume it, and write ``result.json`` into its folder: its score on the trial's split.

    A run that diverges writes its status and raises nothing.

    Args:
        trial: the trial.
        folder: run folder, for the checkpoint and TensorBoard's files too.
        on_evaluation: called with each evaluation.
        device: device to train on.
        threads: number of torch threads.

    Raises:
        Exception: training failed. ``result.json`` then holds the error, and ``error.txt`` its traceback.
    """
    torch.set_num_threads(threads)
    for name in (RESULT_FILE, ERROR_FILE):  # of an earlier attempt
        (folder / name).unlink(missing_ok=True)
    recipe = trial.recipe
    try:
        learner = learner_class(recipe).start_or_resume(
            recipe.task,
            recipe.network,
            recipe.training,
            task_arguments=recipe.task_arguments,
            run_dir=folder,
            device=device,
        )
        report = learner.learn(progress_bar=False, on_evaluation=on_evaluation)
        if trial.split == "test":
            report = learner.evaluate("test")
    except Exception as error:
        diverged = isinstance(error, FloatingPointError)
        (folder / ERROR_FILE).write_text(traceback.format_exc())
        write_failure(folder, f"{type(error).__name__}: {error}", "diverged" if diverged else "failed")
        if not diverged:
            raise
        return
    intact = report["intact"]
    result = {
        "split": report.split,
        "metric_name": report.metric_name,
        "metric_is_error": report.metric_is_error,
        "metric": intact.metric.mean,
        "normalised_score": _without_nan(intact.normalised_score),
        "oracle": report.oracle.mean,
        "oracle_name": report.oracle_name,
        "memoryless": report.memoryless.mean,
        "secondary_metrics": {
            name: {
                "metric": _without_nan(value.mean),
                "oracle": _without_nan(report.oracle_secondary_metrics[name].mean),
                "memoryless": _without_nan(report.memoryless_secondary_metrics[name].mean),
            }
            for name, value in intact.secondary_metrics.items()
        },
        "steps": learner.progress.step,
        "seconds": learner.progress.seconds,
        "processor": _processor(learner.agent.device),
        "parameters": sum(parameter.numel() for parameter in learner.agent.parameters()),
    }
    write_json(folder / RESULT_FILE, {"status": "finished", **result})


def _processor(device: torch.device) -> str:
    """Return the name of the processor of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*: (.*)$", cpu_info.read_text(), re.MULTILINE) if cpu_info.exists() else None
    return model.group(1) if model else platform.processor() or platform.machine()


def _without_nan(number: float) -> float | None:
    """Return the number, or None for NaN, which JSON does not have."""
    return None if isnan(number) else number


def write_failure(folder: Path, error: str, status: str = "failed") -> None:
    """Write an error as the result of a trial, unless the trial has a result."""
    if not (folder / RESULT_FILE).exists():
        write_json(folder / RESULT_FILE, {"status": status, "error": error})


def run_sweep(trials: Iterable[Trial], out: str | os.PathLike[str], options: SweepOptions | None = None) -> None:
    """Train the trials that are not done yet; a failed trial is tried again, and does not stop the others.

    Trials resume from their own checkpoints. Tune's checkpoints are pickles, which can run code when loaded. So the
    same call resumes an interrupted sweep, with any version of Ray.

    Args:
        trials: trials from `plan_sweep`.
        out: folder of the sweep; all machines of a cluster must share it.
        options: how to run the trials; None takes the defaults of `SweepOptions`.

    Raises:
        BlockingIOError: another sweep is running in ``out``.
        ValueError: ``out`` holds another sweep, or this machine lacks the device or the cores that a trial needs.
        ModuleNotFoundError: Ray is not installed.
    """
    trials, out, options = list(trials), Path(out).resolve(), options or SweepOptions()
    if options.address is None:
        check_device(options.trial_device)
    if not unfinished_trials(trials, out):
        return
    try:
        from plastic_agents.sweep.ray_tune import run_trials
    except ImportError as error:
        raise ModuleNotFoundError(
            f"sweep needs ray[tune], an optional dependency ({error}): "
            "run pip install -e '.[sweep]' in the project's folder"
        ) from error
    with locked(out) as is_locked:
        unfinished = unfinished_trials(trials, out)  # another process may have finished some since the first call
        if is_locked:
            remove_temporaries(out / PLAN_FILE)
        for name in unfinished:
            (out / "trials" / name).mkdir(parents=True, exist_ok=True)
        write_json(out / PLAN_FILE, {"trials": [trial.to_json() for trial in trials]})
        run_trials(
            _worker_function(unfinished, out, options),
            list(unfinished),
            on_failure=lambda name, error: write_failure(out / "trials" / name, error),
            scratch=out / ".tune",
            options=options,
        )


def _worker_function(
    trials: Mapping[str, Trial], out: Path, options: SweepOptions
) -> Callable[[str, OnEvaluation], None]:
    """Return the function that trains the trial of a name in a worker process.

    Ray sends the function by value, so it carries everything that a worker's own imports would lack.
    """
    train = run_trial
    # A worker process registers the environments and rules of this project only.
    ids = {registered_id(trial.recipe.task) for trial in trials.values()}
    tasks = {env_id: TASKS[env_id] for env_id in ids}
    names = {trial.recipe.network.rule for trial in trials.values()} - {NO_PLASTICITY}
    rules = {rule: RULES[rule] for rule in names}

    def train_by_name(name: str, on_evaluation: OnEvaluation) -> None:
        for rule, rule_class in rules.items():
            register_rule(rule)(rule_class)
        for env_id, (task, preset) in tasks.items():
            register(env_id, task, **preset)
        folder = out / "trials" / name
        train(trials[name], folder, on_evaluation, device=options.trial_device, threads=options.threads)

    return train_by_name


def unfinished_trials(trials: Sequence[Trial], out: Path) -> dict[str, Trial]:
    """Return the trials that are not done, by name.

    Raises:
        ValueError: ``out`` holds another sweep.
    """
    check_plan(trials, out)
    return {trial.name: trial for trial in trials if trial_status(out / "trials" / trial.name) not in DONE}


def trial_status(folder: Path) -> str:
    """Return the status of a trial: "finished", "diverged", "failed" or "unfinished"."""
    path = folder / RESULT_FILE
    status: str = read_json(path)["status"] if path.exists() else "unfinished"
    return status
