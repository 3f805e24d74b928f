"""Task and Episode: what an environment is made of, with its shapes documented once.

A task is one thing: *sample a batch of episodes* and *score an action*. Everything a player will see is drawn when the
episode is sampled; actions change rewards, never later stimuli. The single environment, the vector environment and
supervised batches are readers of the same episodes, so that no task's logic exists twice.

Shape letters: B episodes, T steps, D observation size, A action size.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from gymnasium import spaces

from plastic_envs.actions import ActionReader, ActionSpace
from plastic_envs.actions import Array as Array
from plastic_envs.validation import generator, whole_number

Draws = dict[str, Array]


@dataclass(frozen=True, eq=False)
class EpisodeBatch:
    """A batch of B sampled episodes of T steps.

    Arrays have the batch first, but may be views of time-major memory: `observation.swapaxes(0, 1)` is contiguous for
    the tasks of this package, which is what recurrent networks and vector environments read.

    Attributes:
        observation: float32 [B, T, D]; the observations, or numbers from which `Task.observe` makes them, such as
            indices of images that are too large to be kept for each step. Zeros stand for a blank.
        target: float32 [B, T, A] for Box actions, int64 [B, T] for Discrete ones: the action an omniscient player
            would take, in action units.
        scored: bool [B, T], the steps whose action is rewarded.
        stake: float32 [B, T], the size of the reward that depends on the answer to a step; an argument
            of `Task.reward`. By default 1 at every step.
        item: int64 [B, T], which of the repeating items a step shows, -1 where none (the default).
        latent: what was drawn, each array [B, ...], for rendering and for tests. Players never see it.
    """

    observation: Array
    target: Array
    scored: Array
    stake: Array = None  # type: ignore[assignment]
    item: Array = None  # type: ignore[assignment]
    latent: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.scored.shape
        if self.stake is None:
            object.__setattr__(self, "stake", np.broadcast_to(np.float32(1), shape))
        if self.item is None:
            object.__setattr__(self, "item", np.broadcast_to(np.int64(-1), shape))

    def __len__(self) -> int:
        return len(self.observation)

    def __getitem__(self, lanes: Any) -> EpisodeBatch:
        """The episodes chosen by a slice, a mask or an array of indices, as a smaller batch."""
        return self._map(lambda array: array[lanes])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together, those of `latent` included."""
        arrays = [getattr(self, name) for name in _ARRAYS]
        return sum(array.nbytes for array in (*arrays, *self.latent.values()))

    def copy(self) -> EpisodeBatch:
        """The same episodes in arrays of their own, which may be written to."""
        return self._map(lambda array: array.copy(order="K"))

    def put(self, lanes: Array, fresh: EpisodeBatch) -> None:
        """Write the episodes of `fresh`, in order, over those at `lanes` (a mask or indices); `copy` first."""
        for name in _ARRAYS:
            getattr(self, name)[lanes] = getattr(fresh, name)
        for name, array in self.latent.items():
            array[lanes] = fresh.latent[name]

    def _map(self, function: Callable[[Array], Array]) -> EpisodeBatch:
        arrays: dict[str, Any] = {name: function(getattr(self, name)) for name in _ARRAYS}
        return replace(self, **arrays, latent={name: function(array) for name, array in self.latent.items()})


_ARRAYS = ("observation", "target", "scored", "stake", "item")


class Task(ABC):
    """What is sampled and how it is scored; the one place where a task's logic lives.

    A task has two draws, one composition and two reference policies. `sample_stimuli` and `sample_memoranda` (the facts
    to remember) draw apart, so that twins can share the first and differ in the second, and `compose` makes episodes
    from both. `oracle` is the best policy with memory and `memoryless` the best without. Arguments are keyword-only,
    checked at once and kept as attributes of the same names, which `repr` shows.

    Attributes:
        observation_space: bounded float32 Box [D] of one environment, or, if the task overrides `observe`, a Dict of
            bounded Boxes.
        action_space: Box(-1, 1, [A], float32) or Discrete(n) of one environment.
        episode_length: T, the same for each episode.
        query_start: the step before which everything to be remembered has been shown; probes intervene there.
        action_scale: actions are multiplied by it before they are scored; targets are in action units.
        channels: names and sizes of the parts of an observation in an episode, in order; sizes add up to D.
        action_names: what each Discrete action means, for pictures; empty where numbers say it all.
        score_name: what reports call the mean reward of a scored step, where actions are Discrete.
        interactive: whether observations carry the player's own actions and their outcomes (see `write_feedback`).
    """

    observation_space: Any
    action_space: ActionSpace
    episode_length: int
    query_start: int
    channels: tuple[tuple[str, int], ...]
    action_scale: float = 1.0
    action_names: tuple[str, ...] = ()
    score_name: str = "reward per scored step"
    interactive: bool = False

    @abstractmethod
    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw what twins share: what is shown, in which order, with which noise. Arrays [B, ...] by name."""

    @abstractmethod
    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw what has to be remembered, and differs between twins. Arrays [B, ...] by name."""

    @abstractmethod
    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Make a batch of episodes of what was drawn, without drawing anything more."""

    @abstractmethod
    def oracle(self, episode: EpisodeBatch) -> Array:
        """The best actions, [B, T, A] or [B, T], of a player who knows the task and what was observed so far."""

    @abstractmethod
    def memoryless(self, episode: EpisodeBatch) -> Array:
        """The best actions, [B, T, A] or [B, T], of a player who knows the task and the current observation only."""

    def reward(self, action: Any, target: Any, stake: Any) -> Any:
        """Reward of an action's component at a scored step; the mean over components is what the player gets.

        Elementwise, in plain operators, so that it takes Python numbers and arrays alike. By default
        -stake * (scale * (action - target))^2 for Box actions, and `stake` if right, else 0, for Discrete ones.
        """
        if isinstance(self.action_space, spaces.Discrete):
            # 0 times a negative stake is -0.0, which the addition turns into 0.0.
            return stake * (action == target) + 0.0
        error = self.action_scale * (action - target)
        return -stake * error * error

    @property
    def reward_range(self) -> tuple[float, float]:
        """The least and the largest reward of a step."""
        if isinstance(self.action_space, spaces.Discrete):
            return 0.0, 1.0
        return -((2 * self.action_scale) ** 2), 0.0

    def observe(self, observation: Array) -> Any:
        """What players see of an episode's `observation` [..., D], with the same leading axes.

        A task whose observation_space is a Dict returns a dict of arrays of the caller's own; others the argument.
        """
        return observation

    def write_feedback(self, observation: Array, action: Any, reward: Any, scored: Any) -> None:  # noqa: B027 - optional
        """Write what the last step's action led to into the next `observation` [..., D], in place.

        Only an interactive task does: `action`, `reward` and `scored` [...] are those of the step before.
        """

    def sample(self, rng: np.random.Generator, batch_size: int) -> EpisodeBatch:
        """Draw a batch of B independent episodes.

        Raises:
            TypeError: `rng` is no generator of numpy's, or `batch_size` no whole number.
            ValueError: `batch_size` is less than 1, or `compose` makes another number of episodes.
        """
        rng, batch_size = generator("rng", rng), whole_number("batch_size", batch_size, at_least=1)
        return self._composed(self.sample_stimuli(rng, batch_size), self.sample_memoranda(rng, batch_size), batch_size)

    def sample_yoked(self, rng: np.random.Generator, batch_size: int) -> tuple[EpisodeBatch, EpisodeBatch]:
        """Draw two batches of B episodes, pairwise twins: the same stimuli, other memoranda.

        Raises:
            TypeError, ValueError: as `sample` does.
        """
        rng, batch_size = generator("rng", rng), whole_number("batch_size", batch_size, at_least=1)
        stimuli = self.sample_stimuli(rng, batch_size)
        return (
            self._composed(stimuli, self.sample_memoranda(rng, batch_size), batch_size),
            self._composed(stimuli, self.sample_memoranda(rng, batch_size), batch_size),
        )

    def _composed(self, stimuli: Draws, memoranda: Draws, batch_size: int) -> EpisodeBatch:
        episode = self.compose(stimuli, memoranda)
        if len(episode) != batch_size:
            raise ValueError(f"compose must make {batch_size} episodes of draws for as many, got {len(episode)}")
        return episode

    def rewards(self, episode: EpisodeBatch, actions: Array, at: Any = slice(None)) -> Array:
        """Rewards of actions, 0 at steps that are not scored.

        Args:
            episode: the episodes that were played.
            actions: [B, T, A] or [B, T]; with `at`, the part of them that it chooses. Box actions beyond the bounds are
                clipped to them.
            at: an index of the leading axes [B, T], by default all steps.

        Returns:
            float64 [B, T], or the part chosen by `at`.

        Raises:
            TypeError: the actions are not numbers, or not whole ones where the space is Discrete.
            ValueError: they do not have the shape of the targets, are not finite, or are out of range where the space
                is Discrete.
        """
        return self.rewards_of_valid(episode, self._read(actions, episode.target[at]), at)

    def rewards_of_valid(self, episode: EpisodeBatch, actions: Array, at: Any = slice(None)) -> Array:
        """Rewards as from `rewards`, of actions that an `ActionReader` has read."""
        scored = episode.scored[at]
        # Whole steps are not scored in many tasks, and vector environments ask for one step at a time.
        if not scored.any():
            return np.zeros(scored.shape)
        target = episode.target[at]
        stake = episode.stake[at].astype(np.float64)
        if isinstance(self.action_space, spaces.Discrete):
            reward = self.reward(actions, target, stake)
        else:
            each = self.reward(actions, target.astype(np.float64), stake[..., None])
            # Summed in the order in which a single environment does it, for equal bits.
            reward = 0.0
            for component in range(each.shape[-1]):
                reward = reward + each[..., component]
            reward = reward / each.shape[-1]
        return np.where(scored, reward, 0.0)

    def with_feedback(self, episode: EpisodeBatch, actions: Array) -> Array:
        """The episode's observations, [B, T, D], with the outcomes of a player's own `actions` filled in.

        Raises:
            TypeError, ValueError: as `rewards` does.
        """
        actions = self._read(actions, episode.target)
        if not self.interactive:
            return episode.observation
        observation = episode.observation.copy(order="K")
        rewards = self.rewards_of_valid(episode, actions)
        self.write_feedback(observation[:, 1:], actions[:, :-1], rewards[:, :-1], episode.scored[:, :-1])
        return observation

    def score(self, episode: EpisodeBatch, actions: Array) -> Array:
        """Mean reward per scored step of each episode: float64 [B].

        Raises:
            TypeError, ValueError: as `rewards` does.
        """
        actions = self._read(actions, episode.target)
        # Nothing is scored in the first half of many tasks.
        from_first_scored = (slice(None), slice(int(episode.scored.any(axis=0).argmax()), None))
        rewards = self.rewards_of_valid(episode, actions[from_first_scored], from_first_scored)
        scores: Array = rewards.sum(axis=1) / episode.scored[from_first_scored].sum(axis=1)
        return scores

    def _read(self, actions: Any, target: Array) -> Array:
        return ActionReader(self.action_space).read("actions", actions, target.shape, rows="episodes")

    def __repr__(self) -> str:
        # Arguments that were not kept under their own names are left out.
        kept = [name for name in argument_names(type(self)) if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in kept)})"


def argument_names(task: type[Task]) -> list[str]:
    """Return the names of a task's arguments; a `**` argument stands for those of the base class."""
    names: list[str] = []
    for kind in task.__mro__:
        if "__init__" not in vars(kind) or kind is object:
            continue
        _, *parameters = inspect.signature(vars(kind)["__init__"]).parameters.values()
        names += [each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
        if not any(each.kind is each.VAR_KEYWORD for each in parameters):
            break
    return list(dict.fromkeys(names))


def normalised_score(score: Any, memoryless: Any, oracle: Any) -> Any:
    """Where a score stands between the best policy without memory of the episode (0) and the oracle (1).

    Args:
        score: mean reward per scored step; a number or an array.
        memoryless: that of `Task.memoryless` on the same episodes.
        oracle: that of `Task.oracle` on the same episodes.

    Returns:
        float64, NaN where the oracle does not beat the memoryless policy, as happens by chance in single episodes:
        average the three scores over episodes first.
    """
    score, memoryless, oracle = (np.asarray(value, dtype=np.float64) for value in (score, memoryless, oracle))
    gap = oracle - memoryless
    normalised = np.full(np.broadcast(score, gap).shape, np.nan)
    np.divide(score - memoryless, gap, out=normalised, where=gap > 0)
    return normalised[()]
