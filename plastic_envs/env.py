"""TaskEnv: plays one sampled episode after another (gymnasium.Env)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from plastic_envs.actions import ActionReader
from plastic_envs.registration import as_task, checked_spec
from plastic_envs.rendering import draw_episode, print_episode
from plastic_envs.stream import EpisodeStream, ReferenceScores
from plastic_envs.task import EpisodeBatch, Task, normalised_score
from plastic_envs.validation import flag, whole_number


class TaskEnv(gymnasium.Env[Any, Any]):
    """One player and one episode of a task.

    An episode has as many steps as the task says and then terminates. The action given to `step` answers the
    observation returned before. Box actions beyond the bounds are clipped to them. The observation returned with
    `terminated` is blank (zeros): nothing is left to answer.

    `info` describes the observation it comes with: `target`, the action an omniscient player would take, shaped like
    an action; `scored`, a bool, whether the answer to it will be rewarded. With `terminated` come, as float32, `score`
    (mean reward per scored step) and, unless `reference_scores` is False, `oracle_score` and `memoryless_score` of the
    same episode, `regret` (oracle's score minus this one) and `normalised_score` (0 = memoryless, 1 = oracle, NaN where
    the oracle is not ahead).

    Episodes are drawn some way ahead, in blocks of up to 128, or fewer where they are long or large. The first episode
    under a seed is therefore the first of a block, and not what `task.sample(rng, 1)` draws. Seeding and setting
    `np_random` begin anew; but to write a remembered state into the generator that is in use
    (`np_random.bit_generator.state`) does not bring the same episodes back.

    Args:
        task: a task, or the id of one.
        render_mode: "rgb_array" (a picture of the episode so far), "ansi" (a table of it) or None.
        reference_scores: whether to score the oracle and the memoryless policy on episodes that end; slow if long.
        **arguments: keyword arguments of the task, where an id is given.

    Raises:
        ValueError, TypeError: unknown id or render mode, or arguments that the task does not take.
    """

    # Gymnasium declares it like this, and gives it no type that says more.
    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 4}  # noqa: RUF012
    _spec: EnvSpec | None = None

    def __init__(
        self, task: Task | str, *, render_mode: str | None = None, reference_scores: bool = True, **arguments: Any
    ) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.task = as_task(task, arguments)
        self.render_mode = render_mode
        self.reference_scores = flag("reference_scores", reference_scores)
        # Copies, because spaces have generators of their own, and environments may share a task.
        self.observation_space = copy.deepcopy(self.task.observation_space)
        self.action_space = copy.deepcopy(self.task.action_space)
        self._discrete = isinstance(self.task.action_space, spaces.Discrete)
        self._reader = ActionReader(self.task.action_space)
        self._shows = isinstance(self.task.observation_space, spaces.Dict)
        self._stream = EpisodeStream(self.task, lanes=1)
        self._block: EpisodeBatch | None = None
        self._step = 0

    @property
    def spec(self) -> EnvSpec | None:
        """The spec from which `gymnasium.make` made this environment, if it did."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = checked_spec(spec)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin another episode.

        Args:
            seed: of the generator that all further episodes are drawn with; None goes on with the present one.
            options: None or an empty dict, as there are no options.

        Returns:
            The first observation, float32 [D] or a dict, and its info.

        Raises:
            TypeError, ValueError: the seed is not a whole number of at least 0, or there are options.
        """
        if seed is not None:
            seed = whole_number("seed", seed, at_least=0)
        check_options(options, known=())
        super().reset(seed=seed)
        block, lane = self._stream.deal(self.np_random)
        if block is not self._block:
            self._block = block
            self._references = ReferenceScores(self.task, block)
        self._lane = lane
        # Numbers are read off the arrays here, all at once: that takes as long as reading one of them at each step.
        # What players get are copies made for this episode, so that they may write to them; observations are copied one
        # by one, so that none is a view of those to come.
        self._observations = [row.copy() for row in block.observation[lane]]
        self._observations.append(np.zeros_like(self._observations[0]))
        self._targets = [*block.target[lane].copy(), np.zeros_like(block.target[lane, 0])]
        self._scored = [*block.scored[lane].tolist(), False]
        self._answers = block.target[lane].tolist()
        self._worth = block.stake[lane].tolist()
        self._actions: list[Any] = []
        self._return = 0.0
        self._step = 0
        observation = self._observations[0]
        if self._shows:
            observation = self.task.observe(observation)
        return observation, {"target": self._targets[0], "scored": self._scored[0]}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Answer the last observation.

        Args:
            action: array [A] for Box actions, which are clipped to their bounds; a whole number for Discrete ones.

        Returns:
            The next observation, reward, terminated, truncated (always False) and info.

        Raises:
            RuntimeError: before the first `reset`, after `close`, or after the end of an episode.
            TypeError: the action is not made of numbers, or no whole number where it is Discrete.
            ValueError: the action has the wrong shape, is not finite, or is out of range of a Discrete space.
        """
        step = self._step
        if self._block is None:
            raise RuntimeError("step was called before reset, or after close: call reset first")
        if step == self.task.episode_length:
            raise RuntimeError(f"step was called after the end of an episode of {step} steps: call reset first")
        reward = 0.0
        scored = self._scored[step]
        if self._discrete:
            action = self._reader.choice(action)
            self._actions.append(action)
            if scored:
                reward = self.task.reward(action, self._answers[step], self._worth[step])
        else:
            components = self._reader.vector(action)
            self._actions.append(components)
            if scored:
                stake = self._worth[step]
                for component, answer in zip(components, self._answers[step], strict=True):
                    reward += self.task.reward(component, answer, stake)
                reward /= len(components)
        self._return += reward
        step += 1
        self._step = step
        terminated = step == self.task.episode_length
        observation = self._observations[step]
        if self.task.interactive and not terminated:
            self.task.write_feedback(observation, action if self._discrete else np.array(components), reward, scored)
        if self._shows:
            observation = self.task.observe(observation)
        info = {"target": self._targets[step], "scored": self._scored[step]}
        if terminated:
            info.update(self._summary())
        return observation, reward, terminated, False, info

    def render(self) -> Any:
        """Show the episode so far, as the render mode has it.

        Returns:
            uint8 [height, width, 3] for "rgb_array", a str for "ansi", None without a render mode.

        Raises:
            RuntimeError: before the first `reset`, or after `close`.
        """
        if self.render_mode is None:
            return None
        if self._block is None:
            raise RuntimeError("render was called before reset, or after close: call reset first")
        show = draw_episode if self.render_mode == "rgb_array" else print_episode
        return show(self.task, self._block[self._lane : self._lane + 1], np.array(self._actions))

    def close(self) -> None:
        """End the episode; a `reset` begins another."""
        self._block = None

    def __str__(self) -> str:
        return f"TaskEnv({self.task!r})"

    def _summary(self) -> dict[str, Any]:
        score = self._return / self._scored.count(True)
        if not self.reference_scores:
            return {"score": np.float32(score)}
        oracle, memoryless = self._references.of(self._lane)
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


def check_options(options: Any, known: Collection[str]) -> None:
    """Raise TypeError unless the options of a reset are a dict or None, and ValueError if one is not known."""
    if options is None:
        return
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, got {options!r}")
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"options must be {', '.join(map(repr, known)) or 'empty'}, got {unknown[0]!r}")
