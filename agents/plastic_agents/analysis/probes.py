"""Probes: experiments that show by intervention in which part of its state a network keeps what it learns.

An intervention changes the state of the network at a step of held-out episodes, by default just before the first query.
If the memory is in the fast weights, erasing them should destroy recall, and erasing the hidden state should hardly
matter. A network that receives the fast weights of the episode's twin (same stimuli, other facts to remember) should
then give the answers of the twin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from plastic_agents.analysis.agent import Agent
from plastic_agents.analysis.controls import CONTROLS
from plastic_agents.analysis.interventions import INTERVENTIONS, Intervention
from plastic_agents.analysis.report import BY_SHOWING, BY_STEP, InterventionResult, Report
from plastic_agents.analysis.statistics import Curve, Estimate, Estimates, curve, estimate, ratio
from plastic_agents.models.core import Hooks, State
from plastic_agents.seeding import HeldOutSplit, held_out_rng
from plastic_envs import EpisodeBatch, StepValues, Task
from plastic_envs.validation import one_of, whole_number

# Curves by showing leave out numbers of showings that a smaller fraction of the scored steps has.
_MIN_FRACTION = {BY_STEP: 0.0, BY_SHOWING: 0.01}


def probe(
    agent: Agent,
    *,
    episodes: int = 1000,
    seed: int = 0,
    interventions: Iterable[str | Intervention] = tuple(INTERVENTIONS),
    step: int | None = None,
    batch_size: int = 250,
    split: HeldOutSplit = "test",
) -> Report:
    """Play the same held-out episodes under each intervention.

    In an interactive task, observations depend on the agent's actions. The agent then plays the episodes anew for each
    intervention: up to the intervention all plays are the same, and after it the agent observes the consequences of its
    actions. The agent also plays the twin episodes, with the actions that it takes there, up to that step. A transplant
    therefore brings the memory that the agent would have acquired in the twin. All steps are scored and the curves show
    the whole episode, but the estimates count only the steps from the intervention on, because the rewards before it
    are the same for all interventions.

    Args:
        agent: a trained network with its task.
        episodes: number of episodes.
        seed: seed of the episodes; with any seed, they are disjoint from those of training.
        interventions: names of `plastic_agents.INTERVENTIONS` and `plastic_agents.CONTROLS`, and
            `plastic_agents.Intervention` objects, such as those of `plastic_agents.layer_interventions`. `probe` leaves
            out those that do not apply to the network, such as those that need fast weights.
        step: the step before which to intervene; by default the task's first query. With 0, all steps count, also in
            interactive tasks.
        batch_size: number of episodes that are sampled and played at a time; another batch size gives other episodes.
        split: "test" episodes for figures to report, "validation" episodes to choose settings by; they are disjoint.
            The classes of a few-shot classification are those of the agent's task, whichever the split.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an intervention is unknown or occurs twice, ``step`` is outside the episode, or a number is out of
            range.
        FloatingPointError: the network's output is not finite.
    """
    if not isinstance(agent, Agent):
        raise TypeError(
            "agent must be a plastic_agents.Agent, such as the agent of a learner, or PolicyAgent(task, model.policy) "
            f"for a model of RecurrentPPO, got {agent!r}"
        )
    task = agent.task
    n_episodes = whole_number("episodes", episodes, at_least=1)
    batch_size = whole_number("batch_size", batch_size, at_least=1)
    seed = whole_number("seed", seed, at_least=0)
    step = whole_number("step", task.query_start if step is None else step, at_least=0, at_most=task.episode_length - 1)
    chosen = [intervention for intervention in _resolved(interventions) if intervention.applies(agent.core)]
    rng = held_out_rng(seed, split)
    plays: list[_Plays] = []
    with agent.evaluating():
        agents = {intervention.name: changed_agent(agent, intervention) for intervention in chosen}
        for size in _batch_sizes(n_episodes, batch_size):
            episode, twin = task.sample_yoked(rng, size)
            plays.append(_play(task, agents, episode, twin, chosen, step))
    return _report(task, chosen, seed, split, step, _concatenated(plays))


def _resolved(interventions: Iterable[str | Intervention]) -> list[Intervention]:
    if isinstance(interventions, str | Intervention):
        raise TypeError(f"interventions must be a sequence of names or Interventions, got {interventions!r}")
    known = {**INTERVENTIONS, **CONTROLS}
    resolved = [
        item if isinstance(item, Intervention) else known[one_of("interventions", item, known)]
        for item in interventions
    ]
    names = [intervention.name for intervention in resolved]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"interventions must have different names, got {name!r} {names.count(name)} times")
    return resolved


class _Plays(NamedTuple):
    """Scores of plays of the same episodes, and the properties of their steps; all arrays are [B, T].

    Attributes:
        oracle: rewards of the oracle.
        memoryless: rewards of the memoryless policy.
        rewards: by intervention, rewards of the agent.
        twin_rewards: by intervention, rewards of the same actions, scored against the targets of the twin.
        scored: bool, true at scored steps.
        times_shown: see `_times_shown`.
        oracle_secondary: secondary metrics of the oracle, by metric.
        memoryless_secondary: secondary metrics of the memoryless policy, by metric.
        secondary: by intervention, secondary metrics of the agent, by metric.
    """

    oracle: np.ndarray
    memoryless: np.ndarray
    rewards: dict[str, np.ndarray]
    twin_rewards: dict[str, np.ndarray]
    scored: np.ndarray
    times_shown: np.ndarray
    oracle_secondary: dict[str, StepValues]
    memoryless_secondary: dict[str, StepValues]
    secondary: dict[str, dict[str, StepValues]]


def changed_agent(agent: Agent, intervention: Intervention) -> Agent:
    """Return the agent, or a copy with a core that the intervention has changed."""
    if intervention.change_core is None:
        return agent
    changed = deepcopy(agent)
    with torch.no_grad():
        intervention.change_core(changed.core)
    return changed


def intervention_hooks(
    intervention: Intervention,
    agent: Agent,
    episode: EpisodeBatch,
    twin: EpisodeBatch,
    step: int,
    twin_states: dict[Agent, State],
) -> Hooks:
    """Return the hooks with which an agent plays episodes under an intervention.

    Args:
        intervention: the intervention.
        agent: the agent that plays, as `changed_agent` returns it.
        episode: the episodes.
        twin: their twins.
        step: the step before which to intervene.
        twin_states: by agent, the state before ``step`` in the twin episodes; the function adds one that is missing.
    """
    donor = None
    if intervention.make_donor is not None:
        donor = intervention.make_donor(agent, episode, twin, step)
    elif intervention.needs_donor:
        if agent not in twin_states:
            twin_states[agent] = agent.state_before(twin, step)
        donor = twin_states[agent]
    return intervention.make_hooks(step, agent.task.episode_length, donor)


def _play(
    task: Task,
    agents: Mapping[str, Agent],
    episode: EpisodeBatch,
    twin: EpisodeBatch,
    interventions: Sequence[Intervention],
    step: int,
) -> _Plays:
    """Play episodes under each intervention, with the agent of its name."""
    of_twin: dict[Agent, State] = {}  # computed once for each agent
    actions = {}
    for intervention in interventions:
        agent = agents[intervention.name]
        hooks = intervention_hooks(intervention, agent, episode, twin, step, of_twin)
        actions[intervention.name], _ = agent.play(episode, hooks)
    oracle, memoryless = task.oracle(episode), task.memoryless(episode)
    return _Plays(
        oracle=task.rewards(episode, oracle),
        memoryless=task.rewards(episode, memoryless),
        rewards={name: task.rewards(episode, taken) for name, taken in actions.items()},
        twin_rewards={name: task.rewards(twin, taken) for name, taken in actions.items()},
        scored=episode.scored,
        times_shown=_times_shown(task, episode),
        oracle_secondary=task.secondary_metrics(episode, oracle),
        memoryless_secondary=task.secondary_metrics(episode, memoryless),
        secondary={name: task.secondary_metrics(episode, taken) for name, taken in actions.items()},
    )


def _batch_sizes(n_episodes: int, batch_size: int) -> list[int]:
    """Return the sizes of batches, the last of which is smaller; a last single episode joins the batch before it.

    Interventions that exchange states between episodes need two of them.
    """
    full, rest = divmod(n_episodes, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    return [*sizes[:-2], sizes[-2] + 1] if rest == 1 and full else sizes


def _times_shown(task: Task, episode: EpisodeBatch) -> np.ndarray:
    """Return how often the item of each step was shown before: int [B, T], -1 at steps without an item.

    Presentations count, that is steps before the first query. In an interactive task the agent learns throughout, and
    all earlier scored steps with the item count.
    """
    times = np.full(episode.item.shape, -1)
    has_item = episode.item >= 0
    steps = np.arange(task.episode_length)
    is_earlier = steps[None, :] < steps[:, None]
    # One episode at a time: for all of them together, T x T comparisons take much memory.
    for lane in np.flatnonzero(has_item.any(axis=1)):
        item = episode.item[lane]
        counted = episode.scored[lane] if task.interactive else steps < task.query_start
        shown = ((item[:, None] == item) & is_earlier & counted).sum(axis=1)
        times[lane] = np.where(has_item[lane], shown, -1)
    return times


def _concatenated(plays: Sequence[_Plays]) -> _Plays:
    def concatenate(name: str) -> np.ndarray:
        return np.concatenate([getattr(batch, name) for batch in plays])

    def concatenate_each(name: str) -> dict[str, np.ndarray]:
        return {key: np.concatenate([getattr(batch, name)[key] for batch in plays]) for key in getattr(plays[0], name)}

    def concatenate_metrics(batches: Sequence[dict[str, StepValues]]) -> dict[str, StepValues]:
        return {
            name: StepValues(
                *(np.concatenate(arrays) for arrays in zip(*(batch[name] for batch in batches), strict=True))
            )
            for name in batches[0]
        }

    return _Plays(
        oracle=concatenate("oracle"),
        memoryless=concatenate("memoryless"),
        rewards=concatenate_each("rewards"),
        twin_rewards=concatenate_each("twin_rewards"),
        scored=concatenate("scored"),
        times_shown=concatenate("times_shown"),
        oracle_secondary=concatenate_metrics([batch.oracle_secondary for batch in plays]),
        memoryless_secondary=concatenate_metrics([batch.memoryless_secondary for batch in plays]),
        secondary={
            name: concatenate_metrics([batch.secondary[name] for batch in plays]) for name in plays[0].secondary
        },
    )


def _report(
    task: Task, interventions: Sequence[Intervention], seed: int, split: HeldOutSplit, step: int, plays: _Plays
) -> Report:
    is_error = isinstance(task.action_space, spaces.Box)
    sign = -1 if is_error else 1  # the reward of a Box action is minus its squared error
    scored = plays.scored
    steps = np.broadcast_to(np.arange(task.episode_length), scored.shape)
    counted = scored & (steps >= step) if task.interactive else scored
    axes = {BY_STEP: steps}
    if (plays.times_shown[scored] >= 0).any():
        axes[BY_SHOWING] = plays.times_shown

    # Rewards of 0 and 1, as in classification, are shares of right answers.
    is_share = not is_error and _are_shares(plays.oracle, scored)

    def curves(rewards: np.ndarray) -> dict[str, Curve]:
        return {
            axis: curve(sign * rewards, scored & (x >= 0), x, _MIN_FRACTION[axis], is_share) for axis, x in axes.items()
        }

    def secondary(metrics: Mapping[str, StepValues]) -> Estimates:
        # In an interactive task, the steps before the intervention are the same for all interventions.
        compared = steps >= step if task.interactive else np.ones_like(scored)
        return Estimates(
            (name, estimate(values, counts & compared, _are_shares(values, counts)))
            for name, (values, counts) in metrics.items()
        )

    def metric(rewards: np.ndarray) -> Estimate:
        return estimate(sign * rewards, counted, is_share)

    def result(intervention: Intervention) -> InterventionResult:
        rewards = plays.rewards[intervention.name]
        return InterventionResult(
            label=intervention.label,
            colour=intervention.colour,
            metric_is_error=is_error,
            metric=metric(rewards),
            twin_metric=metric(plays.twin_rewards[intervention.name]),
            normalised=_normalised(rewards, plays, counted),
            curves=curves(rewards),
            secondary_metrics=secondary(plays.secondary[intervention.name]),
        )

    name = "mean squared error" if is_error else task.score_name
    return Report(
        task=repr(task),
        metric_name=f"{name} from step {step} on" if task.interactive and step > 0 else name,
        metric_is_error=is_error,
        episodes=len(scored),
        spread="95 % interval over episodes",
        seed=seed,
        step=step,
        oracle=metric(plays.oracle),
        memoryless=metric(plays.memoryless),
        oracle_curves=curves(plays.oracle),
        results={intervention.name: result(intervention) for intervention in interventions},
        oracle_secondary_metrics=secondary(plays.oracle_secondary),
        memoryless_secondary_metrics=secondary(plays.memoryless_secondary),
        oracle_name=task.oracle_name,
        split=split,
    )


def _are_shares(values: np.ndarray, counted: np.ndarray) -> bool:
    """Return whether all counted values are 0 or 1, so that their mean is a share."""
    return bool(np.isin(values[counted], (0, 1)).all())


def _normalised(rewards: np.ndarray, plays: _Plays, counted: np.ndarray) -> Estimate:
    """Return the normalised score; NaN if the oracle is not better than the memoryless policy."""
    totals = [np.where(counted, each, 0).sum(axis=1) for each in (rewards, plays.memoryless, plays.oracle)]
    score, memoryless, oracle = totals
    is_known = (oracle - memoryless).sum() > 0
    return ratio(score - memoryless, oracle - memoryless) if is_known else Estimate(np.nan, np.nan, np.nan)
