"""TaskEnv: plays one sampled episode after another (gymnasium.Env)."""

from __future__ import annotations

import copy
import operator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from plastic_envs.arguments import whole_number
from plastic_envs.registration import as_task
from plastic_envs.rendering import draw_episode, print_episode
from plastic_envs.stream import EpisodeStream, reference_scores
from plastic_envs.task import Array, Episode, Task, normalised_score

LARGEST_ACTION = float(np.finfo(np.float32).max)


class TaskEnv(gymnasium.Env[Any, Any]):
    """One player and one episode of a task.

    An episode has as many steps as the task says and then terminates. The action given to `step` answers the
    observation returned before. The observation returned with `terminated` is blank (zeros): nothing is left to answer.

    `info` describes the observation it comes with: `target`, the action an omniscient player would take, shaped like
    an action; `scored`, a bool_, whether the answer to it will be rewarded. With `terminated` come, as float32,
    `score` (mean reward per scored step), `oracle_score` and `memoryless_score` of the same episode, `regret`
    (oracle's score minus this one) and `normalised_score` (0 = memoryless, 1 = oracle, NaN where the oracle is not
    ahead).

    Episodes are drawn some way ahead. Seeding and setting `np_random` begin anew; but to write a remembered state into
    the generator that is in use (`np_random.bit_generator.state`) does not bring the same episodes back.

    Args:
        task: a task, or the id of one.
        render_mode: "rgb_array" (a picture of the episode so far), "ansi" (a table of it) or None.
        **arguments: keyword arguments of the task, where an id is given.

    Raises:
        ValueError, TypeError: unknown id or render mode, or arguments that the task does not take.
    """

    # Gymnasium declares it like this, and gives it no type that says more.
    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(self, task: Task | str, *, render_mode: str | None = None, **arguments: Any) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.task = as_task(task, arguments)
        self.render_mode = render_mode
        # Copies, because spaces have generators of their own, and environments may share a task.
        self.observation_space = copy.deepcopy(self.task.observation_space)
        self.action_space = copy.deepcopy(self.task.action_space)
        self._space = self.task.action_space
        self._shows = isinstance(self.task.observation_space, spaces.Dict)
        self._stream = EpisodeStream(self.task, lanes=1)
        self._block: Episode | None = None
        self._step = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin another episode.

        Args:
            seed: of the generator that all further episodes are drawn with; None goes on with the present one.
            options: not used.

        Returns:
            The first observation, float32 [D] or a dict, and its info.

        Raises:
            TypeError, ValueError: the seed is not a whole number of at least 0.
        """
        if seed is not None:
            seed = whole_number("seed", seed, at_least=0)
        super().reset(seed=seed)
        block, lane = self._stream.deal(self.np_random)
        if block is not self._block:
            self._block = block
            self._oracle_scores, self._memoryless_scores = reference_scores(self.task, block)
        self._lane = lane
        # Numbers are read off the arrays here, all at once: that takes as long as reading one of them at each step.
        # What players get are copies made for this episode, so that they may write to them; observations are copied one
        # by one, so that none is a view of those to come.
        self._observations = [row.copy() for row in block.observation[lane]]
        self._observations.append(np.zeros_like(self._observations[0]))
        self._targets = [*block.target[lane].copy(), np.zeros_like(block.target[lane, 0])]
        self._scored = [*block.scored[lane], np.False_]
        self._answers = block.target[lane].tolist()
        self._worth = block.worth[lane].tolist()
        self._counts = block.scored[lane].tolist()
        self._actions: list[Any] = []
        self._return = 0.0
        self._step = 0
        observation = self._observations[0]
        if self._shows:
            observation = self.task.show(observation)
        return observation, {"target": self._targets[0], "scored": self._scored[0]}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer the last observation.

        Args:
            action: array [A] for Box actions, a whole number for Discrete ones. Box actions beyond the bounds are
                scored as they stand.

        Returns:
            The next observation, reward, terminated, truncated (always False) and info.

        Raises:
            RuntimeError: before the first `reset`, or after the end of an episode.
            ValueError, TypeError: the action has the wrong shape or type, is not finite as float32, or is out of range.
        """
        step = self._step
        if self._block is None:
            raise RuntimeError("step was called before reset: call reset first")
        if step == self.task.episode_length:
            raise RuntimeError(f"step was called after the end of an episode of {step} steps: call reset first")
        reward = 0.0
        scored = self._counts[step]
        if isinstance(self._space, spaces.Discrete):
            action = read_choice(action, self._space)
            self._actions.append(action)
            if scored:
                reward = self.task.reward(action, self._answers[step], self._worth[step])
        else:
            action = read_vector(action, self._space)
            components = action.tolist()
            for component in components:
                if not abs(component) <= LARGEST_ACTION:
                    raise ValueError(f"action must be finite as float32, got {action!r}")
            self._actions.append(components)
            if scored:
                worth = self._worth[step]
                for component, answer in zip(components, self._answers[step], strict=True):
                    reward += self.task.reward(component, answer, worth)
                reward /= len(components)
        self._return += reward
        step += 1
        self._step = step
        terminated = step == self.task.episode_length
        observation = self._observations[step]
        if self.task.interactive and not terminated:
            self.task.respond(observation, action, reward, scored)
        if self._shows:
            observation = self.task.show(observation)
        info = {"target": self._targets[step], "scored": self._scored[step]}
        if terminated:
            info.update(self._summary())
        return observation, reward, terminated, False, info

    def render(self) -> Any:
        """Show the episode so far, as the render mode has it.

        Returns:
            uint8 [height, width, 3] for "rgb_array", a str for "ansi", None without a render mode.

        Raises:
            RuntimeError: before the first `reset`.
        """
        if self.render_mode is None:
            return None
        if self._block is None:
            raise RuntimeError("render was called before reset: call reset first")
        show = draw_episode if self.render_mode == "rgb_array" else print_episode
        return show(self.task, self._block[self._lane : self._lane + 1], np.array(self._actions))

    def _summary(self) -> dict[str, Any]:
        score = self._return / self._counts.count(True)
        oracle, memoryless = self._oracle_scores[self._lane], self._memoryless_scores[self._lane]
        return {
            "score": np.float32(score),
            "oracle_score": np.float32(oracle),
            "memoryless_score": np.float32(memoryless),
            "regret": np.float32(oracle - score),
            "normalised_score": np.float32(normalised_score(score, memoryless, oracle)),
        }


def check_render_mode(render_mode: str | None, known: list[str]) -> None:
    """Raise ValueError unless `render_mode` is None or known."""
    if render_mode is not None and render_mode not in known:
        raise ValueError(f"render_mode must be None or one of {', '.join(known)}, got {render_mode!r}")


def read_vector(action: Any, space: spaces.Box) -> Array:
    """A Box action as an array of numbers of the space's shape; raises ValueError where it is none."""
    try:
        array = np.asarray(action)
    except ValueError:
        array = np.empty(0)
    if array.shape != space.shape or array.dtype.kind not in "fiu":
        raise ValueError(f"action must be an array of numbers of shape {space.shape}, got {action!r}")
    return array


def read_choice(action: Any, space: spaces.Discrete) -> int:
    """A Discrete action as an int; raises TypeError where it is no whole number, ValueError out of range."""
    try:
        choice = operator.index(action)
    except TypeError:
        raise TypeError(f"action must be a whole number from 0 to {space.n - 1}, got {action!r}") from None
    if not 0 <= choice < space.n or isinstance(action, bool | np.bool_):
        raise ValueError(f"action must be a whole number from 0 to {space.n - 1}, got {action!r}")
    return choice
