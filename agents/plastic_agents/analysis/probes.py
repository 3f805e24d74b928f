"""Probes: where does a network keep what it learns inside an episode? Shown by intervening, on held-out episodes.

An intervention changes the state of the network at one step (by default just before the first query) and leaves the
rest of the episode alone. If the memory is in the fast weights, erasing them must cost the memory, erasing the hidden
state must not, and a network that is given the fast weights of its episode's twin (same stimuli, other contents) must
answer its twin's answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from plastic_agents.analysis.agent import Agent
from plastic_agents.models.core import Hooks, State, map_state
from plastic_agents.seeding import held_out_rng
from plastic_envs import EpisodeBatch, Task, normalised_score

# (state before the step, the twin's state at that step where it is needed) -> the state to go on from
_AT_ONE_STEP: dict[str, Callable[[State, Any], State]] = {
    "fast_erased": lambda state, twin: state._replace(fast=_zero(state.fast)),
    "hidden_erased": lambda state, twin: state._replace(hidden=_zero(state.hidden)),
    "transplant": lambda state, twin: state._replace(fast=twin.fast),
    "hidden_transplant": lambda state, twin: state._replace(hidden=twin.hidden),
}
BY_STEP = "step of the episode"
BY_SHOWING = "times the item was shown before"
INTERVENTIONS = ("intact", "no_writing", *_AT_ONE_STEP)
# Curves leave out how often an item was shown where fewer than this part of the scored steps had it so.
RAREST = 0.01
_NEED_FAST_WEIGHTS = ("no_writing", "fast_erased", "transplant")


def _zero(part: Any) -> Any:
    return map_state(torch.zeros_like, part)


class Estimate(NamedTuple):
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float


def estimate(values: np.ndarray, counted: np.ndarray) -> Estimate:
    """Mean of ``values`` [B, T] where ``counted`` [B, T], its interval from the spread between episodes.

    Steps of one episode depend on each other, so the episode is the unit of sampling (a ratio estimator's variance).
    With nothing counted all three are NaN; with one episode the interval is NaN.
    """
    sums, counts = np.where(counted, values, 0).sum(axis=1), counted.sum(axis=1)
    total = counts.sum()
    if total == 0:
        return Estimate(np.nan, np.nan, np.nan)
    mean = sums.sum() / total
    episodes = int((counts > 0).sum())
    if episodes < 2:
        return Estimate(float(mean), np.nan, np.nan)
    error = np.sqrt(np.square(sums - mean * counts).sum() * episodes / (episodes - 1)) / total
    return Estimate(float(mean), float(mean - 1.96 * error), float(mean + 1.96 * error))


class Curve(NamedTuple):
    """A quantity, in the report's metric, against ``x``."""

    x: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class InterventionResult:
    """What one intervention did.

    Attributes:
        own: the report's metric against the episode's own targets.
        twin: the same answers held against the targets of the episode's twin.
        normalised_score: of the mean: 0 = best policy without memory of the episode, 1 = oracle.
        curves: adaptation over the episode, in the same metric, by what x is: ``BY_STEP``, and where items repeat
            ``BY_SHOWING``.
    """

    own: Estimate
    twin: Estimate
    normalised_score: float
    curves: dict[str, Curve]


@dataclass(frozen=True)
class Report:
    """Outcome of each intervention on the same held-out episodes, with where perfect is and where remembering begins.

    Attributes:
        task: the task, with its arguments.
        metric: ``"mean squared error"`` in the task's own units for Box actions, else the task's ``score_name``; where
            the task is interactive, with the step from which on steps count (see `probe`).
        episodes: how many held-out episodes.
        spread: what ``low`` and ``high`` of the estimates are.
        seed: what they were drawn from.
        step: where the interventions were made (``no_writing`` holds from the start).
        oracle: the best possible player's metric, on the same episodes.
        memoryless: that of the best policy without memory of the episode.
        oracle_curves: the oracle's adaptation.
        outcomes: by intervention, in the order of `INTERVENTIONS`; those on fast weights only where there are any.
    """

    task: str
    metric: str
    episodes: int
    spread: str
    seed: int
    step: int
    oracle: Estimate
    memoryless: Estimate
    oracle_curves: dict[str, Curve]
    outcomes: dict[str, InterventionResult]

    def to_json(self) -> dict[str, Any]:
        """The report in plain dicts, lists, strings and numbers."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def _plain(value: Any) -> Any:
    """Named tuples as dicts, NaN as None: what JSON can hold."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def probe(
    model: Agent,
    *,
    episodes: int = 1000,
    seed: int = 0,
    interventions: Sequence[str] = INTERVENTIONS,
    step: int | None = None,
    batch_size: int = 250,
) -> Report:
    """Play held-out episodes once for each intervention.

    In an interactive task what is observed depends on the player. Each intervention is a playing of its own: up to the
    intervention all are the same, after it the player observes what its own actions lead to. The twin plays its own
    episode with its own actions up to that step, so that what is transplanted is what the player would have learnt
    there. Steps are scored from the beginning, but only those from the intervention on count in the estimates of the
    report, since what was earned before is the same for all; curves show the whole episode.

    Args:
        model: a trained network with its task.
        episodes: how many.
        seed: draws the episodes; they are disjoint from those of training, whatever the seed.
        interventions: which, of `INTERVENTIONS`; those on fast weights are passed over where the network has none.
        step: where to intervene; by default the task's own boundary, just before the first query. With 0 everything
            counts, of interactive tasks too.
        batch_size: how many episodes are drawn and played at a time; other sizes draw other episodes.

    Raises:
        ValueError: an unknown intervention, a step outside the episode, or a number out of range.
        FloatingPointError: the network's output is not finite.
    """
    task = model.task
    if isinstance(interventions, str):
        raise TypeError(f"interventions must be a sequence of names, such as ({interventions!r},), got a string")
    unknown = [name for name in interventions if name not in INTERVENTIONS]
    if unknown:
        raise ValueError(f"interventions must be of {INTERVENTIONS}, got {unknown[0]!r}")
    boundary = task.query_start if step is None else step
    if not (isinstance(boundary, int) and 0 <= boundary < task.episode_length):
        raise ValueError(f"step must be a whole number in [0, {task.episode_length - 1}], got {boundary!r}")
    for name, value, least in (("episodes", episodes, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if not (isinstance(value, int) and value >= least):
            raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")
    plastic = model.core.initial_state(1).fast is not None
    names = [name for name in INTERVENTIONS if name in interventions and (plastic or name not in _NEED_FAST_WEIGHTS)]

    rng = held_out_rng(seed)
    tallies: list[_Tally] = []
    with model.evaluating():
        for first in range(0, episodes, batch_size):
            pair = task.sample_yoked(rng, min(batch_size, episodes - first))
            tallies.append(_play_batch(model, pair, names, boundary))
    return _report(task, names, episodes, seed, boundary, tallies)


def over_seeds(reports: Sequence[Report]) -> Report:
    """One report of several runs that differ in their training seed: means, with the lowest and the highest of them.

    Args:
        reports: of the same task, on the same held-out episodes, with the same interventions.

    Raises:
        ValueError: there are none, or they are not of the same kind.
    """
    if not reports:
        raise ValueError("reports must be one or more, got none")
    first = reports[0]
    for report in reports:
        same = ("task", "episodes", "seed", "step", "oracle")
        if (
            any(getattr(report, name) != getattr(first, name) for name in same)
            or report.outcomes.keys() != first.outcomes.keys()
        ):
            raise ValueError(
                f"reports must be on the same episodes and interventions, got {report.task} beside {first.task}"
            )

    def spread(values: Sequence[float]) -> Estimate:
        return Estimate(float(np.mean(values)), float(np.min(values)), float(np.max(values)))

    def combine(outcomes: Sequence[InterventionResult]) -> InterventionResult:
        def curve(axis: str) -> Curve:
            each = [outcome.curves[axis] for outcome in outcomes]
            points = [spread(values) for values in zip(*(one.mean for one in each), strict=True)]
            return Curve(each[0].x, *(list(part) for part in zip(*points, strict=True)))

        return InterventionResult(
            spread([outcome.own.mean for outcome in outcomes]),
            spread([outcome.twin.mean for outcome in outcomes]),
            float(np.mean([outcome.normalised_score for outcome in outcomes])),
            {axis: curve(axis) for axis in outcomes[0].curves},
        )

    return replace(
        first,
        spread=f"range over {len(reports)} training seeds",
        outcomes={name: combine([report.outcomes[name] for report in reports]) for name in first.outcomes},
    )


class _Tally(NamedTuple):
    """Rewards [B, T] of one batch by player, and of interventions against the twin's targets; what is counted; x."""

    own: dict[str, np.ndarray]
    twin: dict[str, np.ndarray]
    scored: np.ndarray
    shown: np.ndarray


def _play_batch(model: Agent, pair: tuple[EpisodeBatch, EpisodeBatch], names: Sequence[str], boundary: int) -> _Tally:
    task, (episode, twin) = model.task, pair
    donor = model.state_before(twin, boundary) if any(name.endswith("transplant") for name in names) else None
    players = {
        "oracle": task.oracle(episode),
        "memoryless": task.memoryless(episode),
        **{name: model.play(episode, _hooks(name, boundary, task.episode_length, donor))[0] for name in names},
    }
    return _Tally(
        own={name: task.rewards(episode, actions) for name, actions in players.items()},
        twin={name: task.rewards(twin, players[name]) for name in names},
        scored=episode.scored,
        shown=times_shown(task, episode),
    )


def _hooks(name: str, boundary: int, steps: int, donor: State | None) -> Hooks:
    if name == "intact":
        return {}
    if name == "no_writing":
        # Fast weights start at zero: undoing each update before the next step is the same as eta = 0 throughout.
        return {step: lambda state: state._replace(fast=_zero(state.fast)) for step in range(steps)}
    change = _AT_ONE_STEP[name]
    return {boundary: lambda state: change(state, donor)}


def times_shown(task: Task, episode: EpisodeBatch) -> np.ndarray:
    """How often each step's item was shown before: int [B, T], -1 where a step shows no item.

    Presentations count, that is the steps before the first query. Where the task is interactive the player goes on
    learning, and every earlier scored step with the item counts.
    """
    steps = np.arange(task.episode_length)
    same = episode.item[:, :, None] == episode.item[:, None, :]
    earlier = same & (steps[None, :] < steps[:, None])
    counted = episode.scored[:, None, :] if task.interactive else steps < task.query_start
    return np.where(episode.item >= 0, (earlier & counted).sum(axis=2), -1)


def _report(
    task: Task, names: Sequence[str], episodes: int, seed: int, boundary: int, tallies: Sequence[_Tally]
) -> Report:
    is_error = isinstance(task.action_space, spaces.Box)
    sign = -1 if is_error else 1
    scored = np.concatenate([tally.scored for tally in tallies])
    shown = np.concatenate([tally.shown for tally in tallies])
    steps = np.broadcast_to(np.arange(task.episode_length), scored.shape)
    axes = {BY_STEP: steps}
    counted = scored & (steps >= boundary) if task.interactive else scored
    if (shown[scored] >= 0).any():
        axes[BY_SHOWING] = shown

    def metric(of: str, agent: str) -> np.ndarray:
        return np.concatenate([sign * getattr(tally, of)[agent] for tally in tallies])

    def curve(values: np.ndarray, axis: str) -> Curve:
        x = axes[axis]
        placed = scored & (x >= 0)
        positions, counts = np.unique(x[placed], return_counts=True)
        if axis == BY_SHOWING:
            positions = positions[counts >= RAREST * counts.sum()]
        points = [estimate(values, placed & (x == position)) for position in positions]
        return Curve([int(position) for position in positions], *(list(part) for part in zip(*points, strict=True)))

    def curves(values: np.ndarray) -> dict[str, Curve]:
        return {axis: curve(values, axis) for axis in axes}

    oracle, memoryless = metric("own", "oracle"), metric("own", "memoryless")
    best, worst = estimate(oracle, counted), estimate(memoryless, counted)

    def outcome(name: str) -> InterventionResult:
        own = metric("own", name)
        mean = estimate(own, counted)
        normalised = float(normalised_score(sign * mean.mean, sign * worst.mean, sign * best.mean))
        return InterventionResult(mean, estimate(metric("twin", name), counted), normalised, curves(own))

    return Report(
        task=repr(task),
        metric=("mean squared error" if is_error else task.score_name)
        + (f" from step {boundary} on" if task.interactive and boundary > 0 else ""),
        episodes=episodes,
        spread="95 % interval over episodes",
        seed=seed,
        step=boundary,
        oracle=best,
        memoryless=worst,
        oracle_curves=curves(oracle),
        outcomes={name: outcome(name) for name in names},
    )
