"""TaskVectorEnv: a task as a `gymnasium.vector.VectorEnv`."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from plastic_envs.actions import ActionReader
from plastic_envs.env import check_options, check_render_mode, read_same_world
from plastic_envs.registration import SpecCheck, as_task
from plastic_envs.rendering import draw_episode, print_episode
from plastic_envs.stream import EpisodeStream, reference_scores
from plastic_envs.task import Array, EpisodeBatch, Task, normalised_score
from plastic_envs.validation import flag, whole_number

StepResult = tuple[Any, Array, Array, Array, dict[str, Any]]


class TaskVectorEnv(SpecCheck, VectorEnv[Any, Array, Array]):
    """B vectorised sub-environments (lanes), each with one agent and one episode of a task at a time.

    All lanes share one generator, which samples a batch of episodes at once and is therefore fast. Lanes are
    independent, but with the same seed lane i has different episodes for different `num_envs`. One lane equals
    `TaskEnv` bit for bit. In each autoreset mode, observations, flags and infos are those of
    `gymnasium.vector.SyncVectorEnv` over `TaskEnv`:

    - `NEXT_STEP` (default): the step after the last step of an episode ignores the action and returns reward 0 and the
      first observation of the next episode.
    - `SAME_STEP`: the last step of an episode returns the first observation of the next episode. `final_obs` and
      `final_info` describe the finished episode.
    - `DISABLED`: finished lanes must be reset by `reset(options={"reset_mask": mask})` before the next step.

    Args:
        task: a task or its id.
        num_envs: number of lanes B.
        autoreset_mode: an `AutoresetMode` or its value ("NextStep", "SameStep", "Disabled").
        render_mode: "rgb_array", "ansi" or None.
        reference_scores: whether to score the oracle and the memoryless policy on finished episodes; see `TaskEnv`.
        **arguments: keyword arguments of the task, if `task` is an id.

    Raises:
        ValueError, TypeError: unknown id, autoreset mode or render mode, or invalid arguments of the task.
    """

    # Gymnasium declares it without ClassVar.
    metadata = {  # noqa: RUF012
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        task: Task | str,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        reference_scores: bool = True,
        **arguments: Any,
    ) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.num_envs = whole_number("num_envs", num_envs, at_least=1)
        if "max_episode_steps" in arguments:
            raise TypeError(
                f"max_episode_steps must be left out, got {arguments['max_episode_steps']!r}: the task sets the length "
                "of episodes. Pass other arguments to the task, or truncate episodes with vectorization_mode='sync'"
            )
        self.task = as_task(task, arguments)
        self.autoreset_mode = read_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.reference_scores = flag("reference_scores", reference_scores)
        # Copies, because each space has a random generator and several environments can share a task.
        self.single_observation_space = copy.deepcopy(self.task.observation_space)
        self.single_action_space = copy.deepcopy(self.task.action_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        self._reader = ActionReader(self.task.action_space)
        self._actions_shape = (self.num_envs, *(self.single_action_space.shape or ()))
        self._dict_observations = isinstance(self.task.observation_space, spaces.Dict)
        self._stream = EpisodeStream(self.task, self.num_envs)
        self._lanes = np.arange(self.num_envs)
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._returns = np.zeros(self.num_envs)
        self._in_phase = True
        self._episode: EpisodeBatch | None = None
        # Whether `_episode` is a writable copy instead of a view of the stream's block.
        self._is_copy = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start new episodes in all lanes or in some of them.

        Args:
            seed: one whole number, the seed of the generator that all lanes share. None keeps the current generator.
            options: `{"reset_mask": mask}` resets the lanes of the mask, an array or a list of bool [B], and leaves
                the others unchanged. `"same_world": True` starts episodes in the worlds of the last ones; see
                `Task.world`.

        Returns:
            Observations of all lanes, float32 [B, D] or a dict of arrays [B, ...], and infos of the lanes that were
            reset.

        Raises:
            TypeError, ValueError: the seed is not one whole number, the mask is not bool [B] with at least one True,
                `same_world` is not a bool, the task has no world, or an option is unknown.
            RuntimeError: a mask excludes lanes before the first reset of all lanes, or `same_world` without an earlier
                episode.
        """
        if seed is not None:
            seed = whole_number("seed", seed, at_least=0)
        mask = _read_mask(options, self.num_envs)
        if self._episode is None and not mask.all():
            raise RuntimeError("reset_mask excluded lanes before the first reset: reset all lanes first")
        same_world = read_same_world(self.task, options, self._episode is not None)
        super().reset(seed=seed)
        self._start_episodes(mask, same_world)
        return self._observe(), self._info(mask)

    def step(self, actions: Array) -> StepResult:
        """Answer the last observations.

        Args:
            actions: [B, A] for a Box, clipped to its bounds; whole numbers [B] for a Discrete space.

        Returns:
            Next observations (see `reset`), rewards float64 [B], terminated and truncated bool [B], and infos.

        Raises:
            RuntimeError: called before the first `reset` or after `close`, or in the `DISABLED` mode with a finished
                lane.
            TypeError: the actions are not numeric, or Discrete actions are not whole numbers.
            ValueError: the actions have the wrong shape, or the action of an unfinished lane is not finite or outside a
                Discrete space.
        """
        if self._episode is None:
            raise RuntimeError("step was called before reset, or after close: call reset first")
        ended = self._steps == self.task.episode_length
        any_ended = bool(ended.any())
        if any_ended and self.autoreset_mode is AutoresetMode.DISABLED:
            raise RuntimeError(
                f"step was called after the end of the episodes of lanes {np.flatnonzero(ended).tolist()}: "
                "reset them first, with options={'reset_mask': mask}"
            )
        ignored = ended if any_ended else None
        actions = self._reader.read("actions", actions, self._actions_shape, ignored=ignored, rows="lanes")
        rewards = np.zeros(self.num_envs)
        if not (any_ended and ended.all()):
            rewards = self._advance(actions, ended, any_ended)
        terminated = (self._steps == self.task.episode_length) & ~ended
        if any_ended:
            self._start_episodes(ended)
        infos = self._info()
        if terminated.any():
            infos.update(self._summary(terminated))
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                infos = self._autoreset(terminated, infos)
        return self._observe(), rewards, terminated, np.zeros(self.num_envs, dtype=np.bool_), infos

    @property
    def episode(self) -> EpisodeBatch:
        """The current episodes, a batch of B, which later resets may change.

        Raises:
            RuntimeError: read before the first `reset`, or after `close`.
        """
        if self._episode is None:
            raise RuntimeError("episode was read before reset, or after close: call reset first")
        return self._episode

    def render(self) -> tuple[Any, ...] | None:
        """Render the episode so far of each lane, as `TaskEnv.render` does.

        Returns:
            A tuple of B frames, or None without a render mode.

        Raises:
            RuntimeError: called before the first `reset`, or after `close`.
        """
        if self.render_mode is None:
            return None
        if self._episode is None:
            raise RuntimeError("render was called before reset, or after close: call reset first")
        render_episode = draw_episode if self.render_mode == "rgb_array" else print_episode
        return tuple(
            render_episode(self.task, self._episode[lane : lane + 1], self._actions[lane, : self._steps[lane]])
            for lane in range(self.num_envs)
        )

    def close(self, **kwargs: Any) -> None:
        """End the episodes. `reset` starts new ones."""
        self._episode = None
        super().close(**kwargs)

    def __repr__(self) -> str:
        return f"TaskVectorEnv({self.task!r}, num_envs={self.num_envs})"

    def _start_episodes(self, mask: Array, same_world: bool = False) -> None:
        """Start new episodes in the lanes of `mask`."""
        in_all_lanes = self._episode is None or bool(mask.all())
        if same_world:
            assert self._episode is not None
            last_episodes = self._episode if in_all_lanes else self._episode[mask]
            new_episodes = self.task.sample_same_world(self.np_random, last_episodes)
        elif in_all_lanes:
            block, start = self._stream.deal(self.np_random)
            new_episodes = block[start : start + self.num_envs]
        else:
            new_episodes = self.task.sample(self.np_random, int(mask.sum()))
        if in_all_lanes:
            self._episode, self._is_copy = new_episodes, False
            self._observation = self._episode.observation[:, 0]
            if self.render_mode is not None:
                self._actions = np.zeros_like(self._episode.target)
        else:
            assert self._episode is not None
            if not self._is_copy:
                self._episode, self._is_copy = self._episode.copy(), True
            self._episode.put(mask, new_episodes)
            self._observation = self._observation.copy()
            self._observation[mask] = new_episodes.observation[:, 0]
        self._steps[mask] = 0
        self._returns[mask] = 0
        self._in_phase = bool((self._steps == self._steps[0]).all())

    def _at(self, steps: Array) -> Any:
        """Return the index of each lane's step in [B, T]. If all lanes are in phase it does not copy."""
        return (slice(None), steps[0]) if self._in_phase else (self._lanes, steps)

    def _advance(self, actions: Array, ended: Array, any_ended: bool) -> Array:
        """Score the actions, advance the lanes that have not ended, and return rewards [B]."""
        assert self._episode is not None
        last_step = self.task.episode_length - 1
        steps = np.minimum(self._steps, last_step)
        at = self._at(steps)
        rewards = self.task.rewards_of_valid(self._episode, actions, at)
        if self.render_mode is not None:
            self._actions[self._lanes, steps] = actions
        if any_ended:
            rewards = np.where(ended, 0.0, rewards)
        self._returns += rewards
        self._steps += ~ended
        at_next = self._at(np.minimum(self._steps, last_step))
        now_ended = self._steps > last_step
        any_now_ended = bool(now_ended.any())
        # `_observe` copies for the agents. Another copy is needed only before writing.
        self._observation = self._episode.observation[at_next]
        if self.task.interactive or any_now_ended:
            self._observation = self._observation.copy()
        if self.task.interactive:
            self.task.write_feedback(self._observation, actions, rewards, self._episode.scored[at])
        if any_now_ended:
            self._observation[now_ended] = 0
        return rewards

    def _observe(self) -> Any:
        """Return the observations of the agents as new arrays."""
        return self.task.observe(self._observation) if self._dict_observations else self._observation.copy()

    def _info(self, mask: Array | None = None) -> dict[str, Any]:
        """Return `target` and `scored` of the current observations, in the lanes of `mask` or in all."""
        assert self._episode is not None
        last_step = self.task.episode_length - 1
        at = self._at(np.minimum(self._steps, last_step))
        target, scored = self._episode.target[at].copy(), self._episode.scored[at].copy()
        blank = self._steps > last_step
        if mask is None:
            mask = np.ones(self.num_envs, dtype=np.bool_)
        else:
            blank |= ~mask
        if blank.any():
            target[blank] = 0
            scored[blank] = False
        return {"target": target, "_target": mask, "scored": scored, "_scored": mask.copy()}

    def _summary(self, terminated: Array) -> dict[str, Any]:
        """Return the scores of the episodes that end at this step, 0 in other lanes, each with its mask."""
        assert self._episode is not None
        finished = self._episode if terminated.all() else self._episode[terminated]
        score = self._returns[terminated] / finished.scored.sum(axis=1)
        values = {"score": score}
        if self.reference_scores:
            oracle, memoryless = reference_scores(self.task, finished)
            values["oracle_score"], values["memoryless_score"] = oracle, memoryless
            values["regret"] = oracle - score
            values["normalised_score"] = normalised_score(score, memoryless, oracle)
        infos: dict[str, Any] = {}
        for key, value in values.items():
            infos[key] = np.zeros(self.num_envs, dtype=np.float32)
            infos[key][terminated] = value
            infos[f"_{key}"] = terminated.copy()
        return infos

    def _autoreset(self, terminated: Array, infos: dict[str, Any]) -> dict[str, Any]:
        """Start new episodes in finished lanes, and return infos with `final_obs` and `final_info`."""
        final_obs = np.full(self.num_envs, None, dtype=object)
        observations = map(self.task.observe, self._observation[terminated])
        final_obs[terminated] = np.fromiter(observations, dtype=object, count=int(terminated.sum()))
        final_info: dict[str, Any] = {}
        for key, value in infos.items():
            final_info[key] = value.copy()
            final_info[key][~terminated] = 0
        self._start_episodes(terminated)
        return {
            "final_obs": final_obs,
            "_final_obs": terminated.copy(),
            "final_info": final_info,
            "_final_info": terminated.copy(),
            **self._info(),
        }


def read_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Return an autoreset mode or that of a value; raise ValueError for any other value."""
    try:
        return AutoresetMode(mode)
    except ValueError:
        values = ", ".join(repr(known_mode.value) for known_mode in AutoresetMode)
        raise ValueError(f"autoreset_mode must be an AutoresetMode or one of {values}, got {mode!r}") from None


def _read_mask(options: dict[str, Any] | None, num_envs: int) -> Array:
    check_options(options, known=("reset_mask", "same_world"))
    if not options or "reset_mask" not in options:
        return np.ones(num_envs, dtype=np.bool_)
    mask = np.array(options["reset_mask"])
    if mask.dtype != np.bool_:
        raise TypeError(
            f"options['reset_mask'] must be a bool array of shape ({num_envs},), got {options['reset_mask']!r}"
        )
    if mask.shape != (num_envs,) or not mask.any():
        raise ValueError(
            f"options['reset_mask'] must have shape ({num_envs},) and at least one True, got {options['reset_mask']!r}"
        )
    return mask
