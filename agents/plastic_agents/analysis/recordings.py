"""Recordings of one episode: what a network observes, answers and writes at each step, also under an intervention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from plastic_agents.analysis.agent import Agent
from plastic_agents.analysis.interventions import INTERVENTIONS, Intervention
from plastic_agents.analysis.probes import changed_agent, intervention_hooks
from plastic_agents.analysis.traces import fast_matrices
from plastic_agents.models.core import Hooks, State, apply_hook
from plastic_agents.seeding import HeldOutSplit, held_out_rng
from plastic_envs import EpisodeBatch, Task
from plastic_envs.validation import one_of, whole_number


@dataclass(frozen=True)
class Recording:
    """One episode of T steps as an agent played it.

    Attributes:
        task: the task.
        episode: a batch of one episode.
        actions: the agent's actions, [T, A] or [T].
        eta: the rate eta at each step, [T]; None for a core without a rate.
        used: by the name of the matrix (see `plastic_agents.analysis.traces.fast_matrices`), the fast weights with
            which the network makes each step, [T, m, n].
        written: by the name of the matrix, the fast weights after each step, [T, m, n]. Those after the last step are
            not known: the array repeats the ones before it.
        intervention: the intervention, or None.
        step: the step before which the intervention takes place.
    """

    task: Task
    episode: EpisodeBatch
    actions: np.ndarray
    eta: np.ndarray | None
    used: dict[str, np.ndarray]
    written: dict[str, np.ndarray]
    intervention: Intervention | None
    step: int


def record(
    agent: Agent,
    *,
    seed: int = 0,
    intervention: str = "intact",
    step: int | None = None,
    split: HeldOutSplit = "test",
) -> Recording:
    """Play one held-out episode, and record what happens at each step.

    Args:
        agent: a trained network with its task.
        seed: seed of the episode.
        intervention: name of one of `plastic_agents.INTERVENTIONS`.
        step: the step before which to intervene; by default the task's first query.
        split: "test" or "validation" episodes.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the intervention is unknown or does not apply to the network, or ``step`` is outside the episode.
        FloatingPointError: the network's output is not finite.
    """
    task = agent.task
    one_of("intervention", intervention, tuple(INTERVENTIONS))
    applicable = [name for name, each in INTERVENTIONS.items() if each.applies(agent.core)]
    chosen = INTERVENTIONS[one_of("intervention on this network", intervention, applicable)]
    step = whole_number("step", task.query_start if step is None else step, at_least=0, at_most=task.episode_length - 1)
    rng = held_out_rng(whole_number("seed", seed, at_least=0), split)
    episode, twin = task.sample_yoked(rng, 1)
    before: list[dict[str, np.ndarray]] = []  # of each step, before the intervention
    used: list[dict[str, np.ndarray]] = []
    with agent.evaluating():
        player = changed_agent(agent, chosen)
        hooks = intervention_hooks(chosen, player, episode, twin, step, {})
        actions, output = player.play(episode, _recording(hooks, task.episode_length, before, used))
    # An intervention at one step shows at that step; one that undoes each write hides the writes.
    changes_once = hooks.keys() <= {0, step}
    after = [*before[1:], used[-1]] if changes_once else [*used[1:], used[-1]]
    return Recording(
        task=task,
        episode=episode,
        actions=actions[0],
        eta=None if output.eta is None else _array(output.eta[:, 0]),
        used={name: np.stack([matrices[name] for matrices in used]) for name in used[0]},
        written={name: np.stack([matrices[name] for matrices in after]) for name in used[0]},
        intervention=None if chosen.name == "intact" else chosen,
        step=step,
    )


def _recording(
    hooks: Hooks, n_steps: int, before: list[dict[str, np.ndarray]], used: list[dict[str, np.ndarray]]
) -> Hooks:
    """Return hooks at all steps that record the fast weights before and after the given hooks."""

    def hook_at(step: int) -> Callable[[State], State]:
        def record_and_intervene(state: State) -> State:
            before.append(_matrices(state))
            state = apply_hook(hooks, step, state)
            used.append(_matrices(state))
            return state

        return record_and_intervene

    return {step: hook_at(step) for step in range(n_steps)}


def _matrices(state: State) -> dict[str, np.ndarray]:
    return {name: _array(matrix[0]) for name, matrix in fast_matrices(state.fast).items()}


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy().copy()
    return array
