"""Task and EpisodeBatch, from which environments and supervised batches are made.

A task samples batches of episodes and scores actions. The whole episode is drawn when it is sampled: actions change
rewards, never later stimuli. The single environment, the vector environment and supervised training read the same
episodes, so the logic of a task exists once.

Shape letters: B episodes, T steps, D observation size, A action size.
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from plastic_envs.actions import ActionReader, ActionSpace
from plastic_envs.actions import Array as Array
from plastic_envs.validation import generator, whole_number

Draws = dict[str, Array]


@dataclass(frozen=True, eq=False)
class EpisodeBatch:
    """A batch of B sampled episodes of T steps.

    The batch is the first axis of every array, but arrays may be views of time-major memory. For the tasks of this
    package, except FewShotClassification, `observation.swapaxes(0, 1)` is contiguous, as recurrent networks and vector
    environments read it.

    Attributes:
        observation: float32 [B, T, D], the observations, or the numbers from which `Task.observe` makes them, such as
            indices of images that are too large to store for each step. Zeros are a blank observation.
        target: float32 [B, T, A] for Box actions, int64 [B, T] for Discrete ones: the action of an omniscient agent,
            in action units.
        scored: bool [B, T], whether the action at a step is rewarded.
        stake: float32 [B, T], the size of the reward that depends on the action at a step, an argument of
            `Task.reward`. By default 1 at every step. If the rewards of Discrete actions differ, [B, T, n] with the
            stake of each action; `Task.reward` receives that of the action taken.
        item: int64 [B, T], the index of the repeating item in a step's observation. By default -1, no item.
        latent: the latent draws, each array [B, ...], for rendering and tests. Agents do not observe them.
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
        """Return the episodes at a slice, a mask or an array of indices as a batch."""
        return self._map(lambda array: array[lanes])

    @property
    def nbytes(self) -> int:
        """Total size of all arrays in bytes, including `latent`."""
        arrays = [getattr(self, name) for name in _ARRAYS]
        return sum(array.nbytes for array in (*arrays, *self.latent.values()))

    @classmethod
    def join(cls, batches: Sequence[EpisodeBatch], axis: int) -> EpisodeBatch:
        """Return one batch of several.

        Args:
            batches: if `axis` is 0, any batches of one task; if it is 1, batches of B episodes in the same worlds.
            axis: 0 to add up the episodes [sum of B, T], 1 to join each episode with those of the other batches
                [B, sum of T]; `latent` then has the draws of the first batch.
        """
        arrays = {name: np.concatenate([getattr(batch, name) for batch in batches], axis) for name in _ARRAYS}
        latent = batches[0].latent
        if axis == 0:
            latent = {name: np.concatenate([batch.latent[name] for batch in batches]) for name in latent}
        return cls(**arrays, latent=latent)

    def copy(self) -> EpisodeBatch:
        """Return a copy with writable arrays."""
        return self._map(lambda array: array.copy(order="K"))

    def put(self, lanes: Array, episodes: EpisodeBatch) -> None:
        """Replace the episodes at `lanes` (a mask or indices) by `episodes`, in order.

        The arrays of this batch must be writable; `copy` makes such a batch.
        """
        for name in _ARRAYS:
            getattr(self, name)[lanes] = getattr(episodes, name)
        for name, array in self.latent.items():
            array[lanes] = episodes.latent[name]

    def _map(self, function: Callable[[Array], Array]) -> EpisodeBatch:
        arrays: dict[str, Any] = {name: function(getattr(self, name)) for name in _ARRAYS}
        return replace(self, **arrays, latent={name: function(array) for name, array in self.latent.items()})


_ARRAYS = ("observation", "target", "scored", "stake", "item")


class StepValues(NamedTuple):
    """A quantity at the steps of a batch of episodes.

    Attributes:
        values: float64 [B, T], the value at each step.
        counted: bool [B, T], whether the mean of the quantity includes a step.
    """

    values: Array
    counted: Array

    def per_episode(self) -> Array:
        """Return the mean over the counted steps of each episode, float64 [B]; NaN if no step is counted."""
        totals = np.where(self.counted, self.values, 0.0).sum(axis=1)
        means = np.full(len(totals), np.nan)
        np.divide(totals, self.counted.sum(axis=1), out=means, where=self.counted.any(axis=1))
        return means


# Number of times that memoranda of twins are drawn again if they coincide. If two are equally likely, the probability
# that twins still coincide is 1e-30.
_TWIN_DRAWS = 100
# Names are also tags of TensorBoard, which replaces other characters.
_METRIC_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class Task(ABC):
    """Base class of tasks: how episodes are sampled and how actions are scored.

    `sample_stimuli` and `sample_memoranda` (the facts to remember) draw independently, so that twins can share stimuli
    and differ in memoranda. `compose` makes episodes from both. `oracle` is the best policy with memory, `memoryless`
    the best policy without. Arguments should be keyword-only, be checked by `__init__`, and be stored as attributes of
    the same names, which `repr` prints.

    Attributes:
        observation_space: space of one observation: a bounded float32 Box [D], or a Dict of bounded Boxes if the task
            overrides `observe`.
        action_space: space of one action: Box(-1, 1, [A], float32) or Discrete(n).
        episode_length: T, the same for each episode.
        query_start: the first step after the presentation of the memoranda. Probes intervene at this step.
        action_scale: actions and targets are multiplied by it before they are scored. Targets are in action units.
        channels: names and sizes of the channels of `EpisodeBatch.observation`, in order. The sizes add up to D.
        action_names: the meaning of each Discrete action, for pictures. If empty, pictures have the numbers.
        score_name: the name of the mean reward per scored step in reports on Discrete actions.
        oracle_name: the name of `oracle` in tables and figures: ``"oracle"`` if no player that sees only observations
            scores higher on average, else for example ``"reference"`` or ``"upper bound"``. It can depend on the
            arguments of the task: `plastic_envs.tasks.cue_posterior.name_of_oracle` decides for the cue tasks.
        interactive: whether observations contain the agent's actions and their outcomes; see `write_feedback`.
        world: names of the draws that further episodes of the same world have too, such as the cues and their values;
            see `sample_same_world`. `EpisodeBatch.latent` must have them. If empty, there are no such episodes.
    """

    observation_space: Any
    action_space: ActionSpace
    episode_length: int
    query_start: int
    channels: tuple[tuple[str, int], ...]
    action_scale: float = 1.0
    action_names: tuple[str, ...] = ()
    score_name: str = "reward per scored step"
    oracle_name: str = "oracle"
    interactive: bool = False
    world: tuple[str, ...] = ()

    @abstractmethod
    def sample_stimuli(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw the stimuli, their order and their noise, which twins share. Return arrays [B, ...] by name."""

    @abstractmethod
    def sample_memoranda(self, rng: np.random.Generator, batch_size: int) -> Draws:
        """Draw the memoranda, which differ between twins. Return arrays [B, ...] by name."""

    @abstractmethod
    def compose(self, stimuli: Draws, memoranda: Draws) -> EpisodeBatch:
        """Make a batch of episodes from the draws. This step is deterministic."""

    @abstractmethod
    def oracle(self, episode: EpisodeBatch) -> Array:
        """Return the best actions given the task and all observations up to each step, [B, T, A] or [B, T].

        If they are not exactly the best ones, `oracle_name` says so.
        """

    def oracle_entries(self, episode: EpisodeBatch) -> int:
        """Return the number of entries of the largest array that `oracle` makes for one of the episodes.

        Environments score fewer episodes at a time if it is large. By default the square of the number of steps or of
        the size of an observation: oracles compare all pairs of steps, or invert matrices of an observation's size.
        """
        size: int = max(self.episode_length, episode.observation.shape[-1])
        return size**2

    @abstractmethod
    def memoryless(self, episode: EpisodeBatch) -> Array:
        """Return the best actions given the task and the current observation only, [B, T, A] or [B, T]."""

    def trial_oracle(self, episodes: Sequence[EpisodeBatch]) -> list[Array]:
        """Return the actions of an oracle that plays several episodes of one world and keeps its memory between them.

        Its rewards in all episodes together are the highest on average that a player of these observations can have,
        unless `oracle_name` says that they are not. A task with a `world` can override this method.

        Args:
            episodes: the episodes in their order, each a batch [B, T] in the same B worlds; see `sample_same_world`.

        Returns:
            The actions in each episode, as `oracle` returns them.

        Raises:
            NotImplementedError: the task has no such oracle.
        """
        raise NotImplementedError(f"trial_oracle must be overridden by a task with such an oracle, got {self!r}")

    def reward(self, action: Any, target: Any, stake: Any) -> Any:
        """Return the reward of a Discrete action, or of one component of a Box action, at a scored step.

        The agent receives the mean over components. The default is -stake * (action_scale * (action - target))^2 for
        Box actions; for Discrete ones it is `stake` if the action equals the target, else 0. Overrides must use
        elementwise operators only, because the arguments are Python numbers or arrays.
        """
        if isinstance(self.action_space, spaces.Discrete):
            # 0 times a negative stake is -0.0, which the addition turns into 0.0.
            return stake * (action == target) + 0.0
        error = self.action_scale * (action - target)
        return -stake * error * error

    def mean_over_components(self, action: Sequence[Any], target: Sequence[Any], stake: Any) -> Any:
        """Return the mean of `reward` over the components of a Box action.

        Components are numbers or arrays. They are added in order, so that both give the same bits.
        """
        total = 0.0
        # `zip` with its `strict` argument would take a tenth of the time of a step.
        for index, component in enumerate(action):
            total = total + self.reward(component, target[index], stake)
        return total / len(action)

    @property
    def reward_range(self) -> tuple[float, float]:
        """The smallest and the largest reward of a step."""
        if isinstance(self.action_space, spaces.Discrete):
            return 0.0, 1.0
        return -((2 * self.action_scale) ** 2), 0.0

    def observe(self, observation: Array) -> Any:
        """Convert `EpisodeBatch.observation` [..., D] to observations of agents, with the same leading axes.

        The default returns the argument. A task with a Dict `observation_space` returns a dict of new arrays.
        """
        return observation

    def write_feedback(self, observation: Array, action: Any, reward: Any, scored: Any) -> None:  # noqa: B027 - optional
        """Write the outcome of the last action into the next `observation` [..., D], in place.

        Interactive tasks override this method. `action`, `reward` and `scored` [...] are those of the previous step.
        """

    def sample(self, rng: np.random.Generator, batch_size: int) -> EpisodeBatch:
        """Draw a batch of B independent episodes.

        Raises:
            TypeError: `rng` is not a numpy generator, `batch_size` is not a whole number, or `compose` returns another
                object than an EpisodeBatch.
            ValueError: `batch_size` is less than 1, or `compose` makes a different number of episodes.
        """
        rng, batch_size = generator("rng", rng), whole_number("batch_size", batch_size, at_least=1)
        return self._composed(self.sample_stimuli(rng, batch_size), self.sample_memoranda(rng, batch_size), batch_size)

    def sample_yoked(self, rng: np.random.Generator, batch_size: int) -> tuple[EpisodeBatch, EpisodeBatch]:
        """Draw two batches of B episodes that are pairwise twins, with the same stimuli and different memoranda.

        Memoranda of a twin that equal those of its episode are drawn again, up to 100 times. Twins therefore differ in
        at least one number, unless the task has only one possible memorandum or all others are very rare.

        Raises:
            TypeError, ValueError: as `sample` does.
        """
        rng, batch_size = generator("rng", rng), whole_number("batch_size", batch_size, at_least=1)
        stimuli = self.sample_stimuli(rng, batch_size)
        memoranda = self.sample_memoranda(rng, batch_size)
        other_memoranda = self._sample_other_memoranda(rng, memoranda, batch_size)
        return (
            self._composed(stimuli, memoranda, batch_size),
            self._composed(stimuli, other_memoranda, batch_size),
        )

    def _sample_other_memoranda(self, rng: np.random.Generator, memoranda: Draws, batch_size: int) -> Draws:
        others = self.sample_memoranda(rng, batch_size)
        for _ in range(_TWIN_DRAWS):
            is_same = np.ones(batch_size, dtype=np.bool_)
            for name, array in memoranda.items():
                is_same &= (array == others[name]).reshape(batch_size, -1).all(axis=1)
            if not is_same.any():
                break
            redrawn = self.sample_memoranda(rng, int(is_same.sum()))
            # Copies, because draws may be views that cannot be written to.
            others = {name: array.copy(order="K") for name, array in others.items()}
            for name, array in others.items():
                array[is_same] = redrawn[name]
        return others

    def sample_same_world(self, rng: np.random.Generator, episode: EpisodeBatch) -> EpisodeBatch:
        """Draw a further episode in the world of each of B episodes: only the draws that `world` names stay the same.

        Raises:
            TypeError: `rng` is not a numpy generator.
            ValueError: `world` is empty.
        """
        if not self.world:
            raise ValueError(f"world must name the draws that further episodes keep, got () from {self!r}")
        rng, batch_size = generator("rng", rng), len(episode)
        stimuli, memoranda = (
            {name: episode.latent[name] if name in self.world else array for name, array in draws.items()}
            for draws in (self.sample_stimuli(rng, batch_size), self.sample_memoranda(rng, batch_size))
        )
        return self._composed(stimuli, memoranda, batch_size)

    def _composed(self, stimuli: Draws, memoranda: Draws, batch_size: int) -> EpisodeBatch:
        episode = self.compose(stimuli, memoranda)
        if not isinstance(episode, EpisodeBatch):
            raise TypeError(f"compose must return an EpisodeBatch, got {type(episode).__name__}")
        if len(episode) != batch_size:
            raise ValueError(f"compose must make {batch_size} episodes from {batch_size} draws, got {len(episode)}")
        return episode

    def rewards(self, episode: EpisodeBatch, actions: Array, at: Any = slice(None)) -> Array:
        """Return the rewards of actions, 0 at steps that are not scored.

        Args:
            episode: the episodes in which the actions were taken.
            actions: [B, T, A] or [B, T], at the index `at`. Box actions are clipped to their bounds.
            at: an index into the leading axes [B, T]; by default all steps.

        Returns:
            float64 [B, T], at the index `at`.

        Raises:
            TypeError: the actions are not numbers, or Discrete actions are not whole numbers.
            ValueError: the actions do not have the shape of the targets, are not finite, or are outside a Discrete
                space.
        """
        return self.rewards_of_valid(episode, self._read(actions, episode.target[at]), at)

    def rewards_of_valid(self, episode: EpisodeBatch, actions: Array, at: Any = slice(None)) -> Array:
        """Return the rewards of actions that an `ActionReader` has checked; see `rewards`."""
        scored = episode.scored[at]
        # A shortcut for vector environments, which score one step at a time: many tasks do not score support steps.
        if not scored.any():
            return np.zeros(scored.shape)
        target = episode.target[at]
        stake = episode.stake[at].astype(np.float64)
        if stake.ndim > scored.ndim:
            stake = np.take_along_axis(stake, actions[..., None], axis=-1)[..., 0]
        if isinstance(self.action_space, spaces.Discrete):
            reward = self.reward(actions, target, stake)
        else:
            target = target.astype(np.float64)
            components = range(actions.shape[-1])
            reward = self.mean_over_components(
                [actions[..., index] for index in components], [target[..., index] for index in components], stake
            )
        return np.where(scored, reward, 0.0)

    def with_feedback(self, episode: EpisodeBatch, actions: Array) -> Array:
        """Return the observations [B, T, D] of an agent that takes these actions, with their outcomes filled in.

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
        """Return the mean reward per scored step of each episode, float64 [B].

        Raises:
            TypeError, ValueError: as `rewards` does.
        """
        actions = self._read(actions, episode.target)
        # Many tasks do not score the first half of an episode.
        from_first_scored = (slice(None), slice(int(episode.scored.any(axis=0).argmax()), None))
        rewards = self.rewards_of_valid(episode, actions[from_first_scored], from_first_scored)
        scores: Array = rewards.sum(axis=1) / episode.scored[from_first_scored].sum(axis=1)
        return scores

    def secondary_metrics(self, episode: EpisodeBatch, actions: Array) -> dict[str, StepValues]:
        """Return the secondary metrics of actions by name; most tasks have none.

        Args:
            episode: the episodes in which the actions were taken.
            actions: [B, T, A] or [B, T]. Box actions are clipped to their bounds, as for rewards.

        Raises:
            TypeError, ValueError: as `rewards` does.
            ValueError: `secondary_metrics_of_valid` returns an invalid name, or values of the wrong shape or that are
                not finite at counted steps.
        """
        metrics = self.secondary_metrics_of_valid(episode, self._read(actions, episode.target))
        taken = ("normalised_score", "mean_squared_error", self.score_name.replace(" ", "_"))
        shape = episode.scored.shape
        for name, (values, counted) in metrics.items():
            if not _METRIC_NAME.fullmatch(name) or name in taken:
                raise ValueError(
                    "the name of a secondary metric must consist of letters, digits, '_', '.' and '-', and be none of "
                    f"{', '.join(taken)}, got {name!r}"
                )
            if values.shape != shape or counted.shape != shape or counted.dtype != np.bool_:
                raise ValueError(
                    f"{name} must have values and bools of shape {shape}, got {values.shape} and "
                    f"{counted.dtype} {counted.shape}"
                )
            if not np.isfinite(values[counted]).all():
                raise ValueError(f"{name} must be finite at counted steps, got {values[counted].tolist()[:10]}")
        return metrics

    def secondary_metrics_of_valid(self, episode: EpisodeBatch, actions: Array) -> dict[str, StepValues]:
        """Return the secondary metrics of actions that an `ActionReader` has checked and clipped.

        Tasks override this method to report further metrics beside the mean reward. Probes, tables, TensorBoard and
        sweeps then include them under their names, also for the oracle and the memoryless policy.
        """
        return {}

    def _read(self, actions: Any, target: Array) -> Array:
        return ActionReader(self.action_space).read("actions", actions, target.shape, rows="episodes")

    def __repr__(self) -> str:
        # Arguments that the task did not store as attributes of the same names are left out.
        stored_names = [name for name in argument_names(type(self)) if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in stored_names)})"


def argument_names(task: type[Task]) -> list[str]:
    """Return the names of a task's arguments, with those of the base class in place of a `**` argument."""
    names: list[str] = []
    for base in task.__mro__:
        if "__init__" not in vars(base) or base is object:
            continue
        _, *parameters = inspect.signature(vars(base)["__init__"]).parameters.values()
        names += [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(dict.fromkeys(names))


def normalised_score(score: Any, memoryless: Any, oracle: Any) -> Any:
    """Scale scores so that the memoryless policy has 0 and the oracle 1.

    Args:
        score: mean reward per scored step, a number or an array.
        memoryless: score of `Task.memoryless` on the same episodes.
        oracle: score of `Task.oracle` on the same episodes.

    Returns:
        float64. NaN if the oracle is not better than the memoryless policy, which happens by chance in single episodes;
        therefore average the three scores over episodes first.
    """
    score, memoryless, oracle = (np.asarray(value, dtype=np.float64) for value in (score, memoryless, oracle))
    gap = oracle - memoryless
    normalised = np.full(np.broadcast(score, gap).shape, np.nan)
    np.divide(score - memoryless, gap, out=normalised, where=gap > 0)
    return normalised[()]
