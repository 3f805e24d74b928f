"""TaskEnv: a task as a `gymnasium.Env`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from plastic_envs.actions import ActionReader
from plastic_envs.registration import SpecCheck, as_task
from plastic_envs.rendering import draw_episode, print_episode
from plastic_envs.stream import EpisodeStream, ReferenceScores
from plastic_envs.task import EpisodeBatch, Task, normalised_score
from plastic_envs.validation import flag, whole_number


class TaskEnv(SpecCheck, gymnasium.Env[Any, Any]):
    """An environment with one agent and one episode of a task at a time.

    Each episode terminates after `task.episode_length` steps. The action passed to `step` answers the observation
    returned before. Box actions are clipped to their bounds. The observation returned with `terminated` is blank
    (zeros) and needs no answer.

    `info` describes the observation returned with it: `target` is the action of an omniscient agent, and `scored`, a
    bool, tells whether the answer will be rewarded. With `terminated`, `info` also has `score`, the mean reward per
    scored step. Unless `reference_scores` is False, it has `oracle_score` and `memoryless_score` on the same episode,
    `regret` (`oracle_score - score`) and `normalised_score` (memoryless 0, oracle 1, NaN if the oracle is not better).
    All scores are float32.

    Episodes are sampled ahead, in blocks of up to 128 (fewer if they are long or large), so the first episode after
    seeding differs from `task.sample(rng, 1)`. `reset(seed=...)` and setting `np_random` restart the sequence of
    episodes; restoring `np_random.bit_generator.state` does not.

    Args:
        task: a task or its id.
        render_mode: "rgb_array" (a picture of the episode so far), "ansi" (a table of it) or None.
        reference_scores: whether to score the oracle and the memoryless policy on each finished episode. This is slow
            for long episodes.
        **arguments: keyword arguments of the task, if `task` is an id.

    Raises:
        ValueError, TypeError: unknown id or render mode, or invalid arguments of the task.
    """

    # Gymnasium declares it without ClassVar.
    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self, task: Task | str, *, render_mode: str | None = None, reference_scores: bool = True, **arguments: Any
    ) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.task = as_task(task, arguments)
        self.render_mode = render_mode
        self.reference_scores = flag("reference_scores", reference_scores)
        # Copies, because each space has a random generator and several environments can share a task.
        self.observation_space = copy.deepcopy(self.task.observation_space)
        self.action_space = copy.deepcopy(self.task.action_space)
        self._discrete = isinstance(self.task.action_space, spaces.Discrete)
        reader = ActionReader(self.task.action_space)
        self._read_action: Callable[[Any], Any] = reader.choice if self._discrete else reader.vector
        self._dict_observations = isinstance(self.task.observation_space, spaces.Dict)
        self._stream = EpisodeStream(self.task, lanes=1)
        # The episodes that the stream dealt last, and those of the current episode, which may be drawn in its world.
        self._dealt: ReferenceScores | None = None
        self._current: ReferenceScores | None = None
        self._lane = 0
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a new episode.

        Args:
            seed: seed of the generator of this and all further episodes. None keeps the current generator.
            options: `{"same_world": True}` starts an episode in the world of the last one; see `Task.world`.

        Returns:
            The first observation, float32 [D] or a dict, and its info.

        Raises:
            TypeError, ValueError: the seed is not a whole number of at least 0, an option is unknown, `same_world` is
                not a bool, or the task has no world.
            RuntimeError: `same_world` without an earlier episode.
        """
        if seed is not None:
            seed = whole_number("seed", seed, at_least=0)
        check_options(options, known=("same_world",))
        same_world = read_same_world(self.task, options, self._current is not None)
        super().reset(seed=seed)
        if same_world:
            assert self._current is not None
            last_episode = self._current.block[self._lane : self._lane + 1]
            block, lane = self.task.sample_same_world(self.np_random, last_episode), 0
            self._current = ReferenceScores(self.task, block)
        else:
            block, lane = self._stream.deal(self.np_random)
            if self._dealt is None or block is not self._dealt.block:
                self._dealt = ReferenceScores(self.task, block)
            self._current = self._dealt
        self._lane = lane
        # The whole episode is converted to Python values once, which costs as much as one array read per step. Callers
        # may write to the copies that they get. Observations are copied singly, so a caller cannot see later ones.
        self._observations = [observation.copy() for observation in block.observation[lane]]
        self._observations.append(np.zeros_like(self._observations[0]))
        self._targets = [*block.target[lane].copy(), np.zeros_like(block.target[lane, 0])]
        self._scored = [*block.scored[lane].tolist(), False]
        self._target_values = block.target[lane].tolist()
        self._stakes = block.stake[lane].tolist()
        self._actions: list[Any] = []
        self._return = 0.0
        self._step = 0
        observation = self._observations[0]
        if self._dict_observations:
            observation = self.task.observe(observation)
        return observation, {"target": self._targets[0], "scored": self._scored[0]}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer the last observation.

        Args:
            action: an array [A] for a Box, clipped to its bounds; a whole number for a Discrete space.

        Returns:
            The next observation, reward, terminated, truncated (always False) and info.

        Raises:
            RuntimeError: called before the first `reset`, after `close`, or after the end of an episode.
            TypeError: the action is not numeric, or a Discrete action is not a whole number.
            ValueError: the action has the wrong shape, is not finite, or is outside a Discrete space.
        """
        step = self._step
        if self._current is None:
            raise RuntimeError("step was called before reset, or after close: call reset first")
        if step == self.task.episode_length:
            raise RuntimeError(f"step was called after the end of an episode of {step} steps: call reset first")
        action = self._read_action(action)
        self._actions.append(action)
        reward = 0.0
        scored = self._scored[step]
        if scored:
            score = self.task.reward if self._discrete else self.task.mean_over_components
            stake = self._stakes[step]
            if isinstance(stake, list):
                stake = stake[action]
            reward = score(action, self._target_values[step], stake)
        self._return += reward
        step += 1
        self._step = step
        terminated = step == self.task.episode_length
        observation = self._observations[step]
        if self.task.interactive and not terminated:
            self.task.write_feedback(observation, action if self._discrete else np.array(action), reward, scored)
        if self._dict_observations:
            observation = self.task.observe(observation)
        info = {"target": self._targets[step], "scored": self._scored[step]}
        if terminated:
            info.update(self._summary())
        return observation, reward, terminated, False, info

    @property
    def episode(self) -> EpisodeBatch:
        """The current episode, a batch of one.

        Raises:
            RuntimeError: read before the first `reset`, or after `close`.
        """
        if self._current is None:
            raise RuntimeError("episode was read before reset, or after close: call reset first")
        return self._current.block[self._lane : self._lane + 1]

    def render(self) -> Any:
        """Render the episode so far.

        Returns:
            uint8 [height, width, 3] for "rgb_array", a str for "ansi", None without a render mode.

        Raises:
            RuntimeError: called before the first `reset`, or after `close`.
        """
        if self.render_mode is None:
            return None
        if self._current is None:
            raise RuntimeError("render was called before reset, or after close: call reset first")
        render_episode = draw_episode if self.render_mode == "rgb_array" else print_episode
        return render_episode(self.task, self.episode, np.array(self._actions))

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Return the action of each key for `gymnasium.utils.play.play`: 0 for the key 0, and so on.

        The picture shows the whole episode so far. In `plastic-rnn play` the past is hidden.

        Raises:
            TypeError: the actions are not Discrete.
            ValueError: there are more than ten actions.
        """
        if not isinstance(self.task.action_space, spaces.Discrete):
            raise TypeError(f"keys need a task with Discrete actions, got {self.task.action_space}")
        if self.task.action_space.n > 10:
            raise ValueError(f"keys need a task with at most 10 actions, got {self.task.action_space.n}")
        return {(ord(str(action)),): action for action in range(int(self.task.action_space.n))}

    def close(self) -> None:
        """End the episode. `reset` starts a new one."""
        self._current = None

    def __str__(self) -> str:
        return f"TaskEnv({self.task!r})"

    def _summary(self) -> dict[str, Any]:
        score = self._return / self._scored.count(True)
        if not self.reference_scores:
            return {"score": np.float32(score)}
        assert self._current is not None
        oracle, memoryless = self._current.of(self._lane)
        return {
            "score": np.float32(score),
            "oracle_score": np.float32(oracle),
            "memoryless_score": np.float32(memoryless),
            "regret": np.float32(oracle - score),
            "normalised_score": np.float32(normalised_score(score, memoryless, oracle)),
        }


def check_render_mode(render_mode: str | None, known: list[str]) -> None:
    """Raise ValueError if `render_mode` is neither None nor one of the known modes."""
    if render_mode is not None and render_mode not in known:
        raise ValueError(f"render_mode must be None or one of {', '.join(known)}, got {render_mode!r}")


def check_options(options: Any, known: Collection[str]) -> None:
    """Raise TypeError if the options of a reset are neither a dict nor None, and ValueError if one is unknown."""
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, got {options!r}")
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"options must be {', '.join(map(repr, known)) or 'empty'}, got {unknown[0]!r}")


def read_same_world(task: Task, options: Mapping[str, Any] | None, has_episode: bool) -> bool:
    """Return the option `same_world` of a reset, False by default.

    Raises:
        TypeError: it is not a bool.
        ValueError: it is True, and the task has no world.
        RuntimeError: it is True, and `has_episode` is False.
    """
    same_world = flag("options['same_world']", (options or {}).get("same_world", False))
    if same_world and not task.world:
        raise ValueError(
            f"options['same_world'] must be False or left out: {type(task).__name__} has no world, got True"
        )
    if same_world and not has_episode:
        raise RuntimeError("same_world must be False before the first reset and after close: there is no world yet")
    return same_world
