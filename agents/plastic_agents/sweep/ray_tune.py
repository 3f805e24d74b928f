"""Ray Tune as the engine of sweeps: it schedules trials on cores or machines, and retries failed ones."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from plastic_agents.sweep.run import SweepOptions
from plastic_agents.training.interrupt import sigterm_interrupts
from plastic_agents.training.learner import OnEvaluation

# Environment variables that Ray reads when it starts. A variable that is set already keeps its value.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # send no usage statistics
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints the path of Tune's files, which are removed at the end
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # an argument of a task may be a relative path
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each run writes its own logs
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a sweep at once, since trials resume from their checkpoints
}


def run_trials(
    train: Callable[[str, OnEvaluation], None],
    names: Sequence[str],
    *,
    on_failure: Callable[[str, str], None],
    scratch: Path,
    options: SweepOptions,
) -> None:
    """Run each trial in a process of its own, and print the progress.

    Args:
        train: trains the trial of a name in a worker process, and calls its second argument with each evaluation.
        names: names of the trials.
        on_failure: called in this process with the name and the error of a trial that failed at its last attempt.
        scratch: folder for Tune's own files; it is removed at the end.
        options: resources and retries of the trials.

    Raises:
        ValueError: this machine has too few cores or GPUs for a trial.
        ConnectionError: there is no cluster at ``options.address``.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # errors are reported by `_Progress`
    threads, gpus = options.threads, options.gpus_per_trial
    local: dict[str, Any] = {
        "num_cpus": None if options.concurrent is None else options.concurrent * threads,
        "include_dashboard": False,
    }
    ray.init(
        options.address or "local",
        log_to_driver=False,
        logging_level=logging.ERROR,
        **({} if options.address else local),
    )
    try:
        # Without this check, trials would wait forever. A cluster may still grow.
        for resource, required in (("CPU", threads), ("GPU", gpus)):
            available = ray.cluster_resources().get(resource, 0)
            if options.address is None and available < required:
                raise ValueError(f"a trial needs {required:g} {resource}s, and this machine has {available:g}")
        tuner = tune.Tuner(
            tune.with_resources(lambda config: train(config["trial"], tune.report), {"cpu": threads, "gpu": gpus}),
            param_space={"trial": tune.grid_search(list(names))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=options.concurrent,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                failure_config=tune.FailureConfig(max_failures=options.retries),
                callbacks=[_Progress(len(names), on_failure)],
                verbose=0,
            ),
        )
        with sigterm_interrupts():  # replaces the handler that Ray installs, which exits with another code
            tuner.fit()
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _trial_name(trial: Any) -> str:
    name: str = trial.config["trial"]
    return name


class _Progress(tune.Callback):
    """Prints a line for each evaluation and for each trial that ends."""

    def __init__(self, total: int, on_failure: Callable[[str, str], None]) -> None:
        self.total, self.on_failure, self.ended = total, on_failure, 0

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self._print(trial, f"step {result['step']:g}, normalised score {result['normalised_score']:.3f}")

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.ended += 1
        self._print(trial, "ended")

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._print(trial, f"failed, and is tried again: {_reason(trial)}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.ended += 1
        self.on_failure(trial.config["trial"], _reason(trial))
        self._print(trial, f"failed: {_reason(trial)}")

    def _print(self, trial: Any, text: str) -> None:
        print(f"[{self.ended}/{self.total}] {trial.config['trial']}: {text}", file=sys.stderr, flush=True)


def _reason(trial: Any) -> str:
    """Return the last error of a trial in one line: its exception, or Ray's message about a process that died."""
    # `trial.get_error()` would return an error that Tune stored before this failure.
    errors = Path(trial.error_file).read_text() if trial.error_file else ""
    lines = re.split(r"Failure # \d+ .*\n", errors)[-1].strip().splitlines() or ["unknown"]
    return lines[-1] if "Traceback" in lines[0] or "ray::" in lines[0] else lines[0]
