"""Ray Tune as the engine of sweeps: it says when and where each trial runs, and tries again what failed."""

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

from plastic_agents.training.interrupt import sigterm_interrupts

# For Ray when it starts. What a person has set stays.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_AIR_NEW_OUTPUT": "0",  # the other one prints where Tune's own files are, which do not stay
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a task's argument may be the path of a file
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # runs write logs of their own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a sweep at once: trials have checkpoints of their own
}


def run_trials(
    train: Callable[[str, Callable[[Any], object]], None],
    names: Sequence[str],
    *,
    on_failure: Callable[[str, str], None],
    scratch: Path,
    concurrent: int | None,
    threads: int,
    gpus_per_trial: float,
    retries: int,
    address: str | None,
) -> None:
    """Run trials, a process each, and print how they get on.

    Args:
        train: trains the trial of a name in its process, and calls the function it is given with each evaluation.
        names: of the trials.
        on_failure: called here with the name of a trial that failed for good, and why.
        scratch: folder for Tune's own files, which are removed in the end.
        concurrent: how many at a time.
        threads: processors of each.
        gpus_per_trial: of each.
        retries: how often each is tried again.
        address: of a cluster; None is this machine.

    Raises:
        ValueError: this machine has not got what a trial needs.
        ConnectionError: there is no cluster at ``address``.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # errors are reported by `_Progress`
    here = {"num_cpus": None if concurrent is None else concurrent * threads, "include_dashboard": False}
    ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **({} if address else here))
    try:
        # Without this check trials would wait for ever. A cluster may still grow.
        for kind, wanted in (("CPU", threads), ("GPU", gpus_per_trial)):
            there_are = ray.cluster_resources().get(kind, 0)
            if address is None and there_are < wanted:
                raise ValueError(f"a trial needs {wanted:g} {kind}s, and this machine has {there_are:g}")
        tuner = tune.Tuner(
            tune.with_resources(
                lambda config: train(config["trial"], tune.report), {"cpu": threads, "gpu": gpus_per_trial}
            ),
            param_space={"trial": tune.grid_search(list(names))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=concurrent, trial_name_creator=_name_of, trial_dirname_creator=_name_of
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                failure_config=tune.FailureConfig(max_failures=retries),
                callbacks=[_Progress(len(names), on_failure)],
                verbose=0,
            ),
        )
        with sigterm_interrupts():  # Ray has its own handler when it starts, which exits with another code
            tuner.fit()
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _name_of(trial: Any) -> str:
    name: str = trial.config["trial"]
    return name


class _Progress(tune.Callback):
    """A line for each evaluation and each end of a trial."""

    def __init__(self, total: int, on_failure: Callable[[str, str], None]) -> None:
        self.total, self.on_failure, self.ended = total, on_failure, 0

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        self._say(trial, f"step {result['step']:g}, normalised score {result['normalised_score']:.3f}")

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.ended += 1
        self._say(trial, "ended")

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._say(trial, f"failed, and is tried again: {_reason(trial)}")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self.ended += 1
        self.on_failure(trial.config["trial"], _reason(trial))
        self._say(trial, f"failed: {_reason(trial)}")

    def _say(self, trial: Any, text: str) -> None:
        print(f"[{self.ended}/{self.total}] {trial.config['trial']}: {text}", file=sys.stderr, flush=True)


def _reason(trial: Any) -> str:
    """Why a trial failed last, in one line: its exception, or what Ray says of a process that died."""
    # Not `trial.get_error()`, which reads what was stored before this failure.
    errors = Path(trial.error_file).read_text() if trial.error_file else ""
    last = re.split(r"Failure # \d+ .*\n", errors)[-1].strip().splitlines() or ["unknown"]
    return last[-1] if "Traceback" in last[0] or "ray::" in last[0] else last[0]
