"""TaskVectorEnv: plays B episodes of a task in lockstep (gymnasium.vector.VectorEnv)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from plastic_envs.actions import ActionReader
from plastic_envs.env import check_options, check_render_mode
from plastic_envs.registration import as_task, checked_spec
from plastic_envs.rendering import draw_episode, print_episode
from plastic_envs.stream import EpisodeStream, reference_scores
from plastic_envs.task import Array, EpisodeBatch, Task, normalised_score
from plastic_envs.validation import flag, whole_number

StepResult = tuple[Any, Array, Array, Array, dict[str, Any]]


class TaskVectorEnv(VectorEnv[Any, Array, Array]):
    """B players, each with an episode of its own, as arrays.

    One generator draws all episodes, a batch at a time, which is what makes it fast: lanes are independent, but lane 3
    of 8 is not what lane 3 of 16 is under the same seed. With one lane it equals `TaskEnv` bit for bit. Observations,
    flags and infos are those of `gymnasium.vector.SyncVectorEnv` over `TaskEnv`, in each mode:

    - `NEXT_STEP` (default): the step after the last one of an episode ignores the action, gives reward 0 and the first
      observation of the next episode.
    - `SAME_STEP`: the last step of an episode returns the first observation of the next one; `final_obs` and
      `final_info` hold what ended.
    - `DISABLED`: finished lanes have to be reset by `reset(options={"reset_mask": mask})` before the next step.

    Args:
        task: a task, or the id of one.
        num_envs: number of lanes B.
        autoreset_mode: an `AutoresetMode` or its value ("NextStep", "SameStep", "Disabled").
        render_mode: "rgb_array", "ansi" or None.
        reference_scores: whether to score the oracle and the memoryless policy on episodes that end; see `TaskEnv`.
        **arguments: keyword arguments of the task, where an id is given.

    Raises:
        ValueError, TypeError: unknown id, mode or render mode, or arguments that the task does not take.
    """

    # Gymnasium declares it like this, and gives it no type that says more.
    metadata = {  # noqa: RUF012
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    _spec: EnvSpec | None = None

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
                f"max_episode_steps must be left out, got {arguments['max_episode_steps']!r}: the task says how long "
                "episodes are, so give it other arguments, or ask for vectorization_mode='sync', which cuts them short"
            )
        self.task = as_task(task, arguments)
        self.autoreset_mode = _read_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = render_mode
        self.reference_scores = flag("reference_scores", reference_scores)
        # Copies, because spaces have generators of their own, and environments may share a task.
        self.single_observation_space = copy.deepcopy(self.task.observation_space)
        self.single_action_space = copy.deepcopy(self.task.action_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

        self._reader = ActionReader(self.task.action_space)
        self._actions_shape = (self.num_envs, *(self.single_action_space.shape or ()))
        self._shows = isinstance(self.task.observation_space, spaces.Dict)
        self._stream = EpisodeStream(self.task, self.num_envs)
        self._lanes = np.arange(self.num_envs)
        self._steps = np.zeros(self.num_envs, dtype=np.int64)
        self._returns = np.zeros(self.num_envs)
        self._in_phase = True
        self._episode: EpisodeBatch | None = None
        # Whether the episodes are a copy of this environment's own, and not a part of the stream's block.
        self._owned = False

    @property
    def spec(self) -> EnvSpec | None:
        """The spec from which `gymnasium.make_vec` made this environment, if it did."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = checked_spec(spec)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin another episode in all lanes, or in some.

        Args:
            seed: one whole number, for the one generator that all lanes' further episodes are drawn with.
            options: `{"reset_mask": mask}`, an array or a list of bool [B], names the lanes to reset; the others stay
                where they are.

        Returns:
            The lanes' observations, float32 [B, D] or a dict of arrays [B, ...], and infos of those that were reset.

        Raises:
            TypeError, ValueError: the seed is not one whole number, the mask is not bool [B] with a True in it, or
                there are other options.
            RuntimeError: a mask leaves lanes out before all have been reset once.
        """
        if seed is not None:
            seed = whole_number("seed", seed, at_least=0)
        mask = _read_mask(options, self.num_envs)
        if self._episode is None and not mask.all():
            raise RuntimeError("reset_mask left lanes out before the first reset: reset all lanes first")
        super().reset(seed=seed)
        self._begin(mask)
        return self._shown(), self._info(mask)

    def step(self, actions: Array) -> StepResult:
        """Answer the last observations.

        Args:
            actions: [B, A] for Box actions, which are clipped to their bounds; whole numbers [B] for Discrete ones.

        Returns:
            Next observations (see `reset`), rewards float64 [B], terminated and truncated bool [B], and infos.

        Raises:
            RuntimeError: before the first `reset`, after `close`, or, where resets are up to the player, after a
                lane's end.
            TypeError: the actions are not numbers, or not whole ones where they are Discrete.
            ValueError: they have the wrong shape, or those of lanes that have not ended are not finite, or out of range
                of a Discrete space.
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
            rewards = self._play(actions, ended, any_ended)
        terminated = (self._steps == self.task.episode_length) & ~ended
        if any_ended:
            self._begin(ended)
        infos = self._info()
        if terminated.any():
            infos.update(self._summary(terminated))
            if self.autoreset_mode is AutoresetMode.SAME_STEP:
                infos = self._restart(terminated, infos)
        return self._shown(), rewards, terminated, np.zeros(self.num_envs, dtype=np.bool_), infos

    def render(self) -> tuple[Any, ...] | None:
        """Show each lane's episode so far, as `TaskEnv.render` does: a tuple of B frames, or None without a mode.

        Raises:
            RuntimeError: before the first `reset`, or after `close`.
        """
        if self.render_mode is None:
            return None
        if self._episode is None:
            raise RuntimeError("render was called before reset, or after close: call reset first")
        show = draw_episode if self.render_mode == "rgb_array" else print_episode
        return tuple(
            show(self.task, self._episode[lane : lane + 1], self._actions[lane, : self._steps[lane]])
            for lane in range(self.num_envs)
        )

    def close(self, **kwargs: Any) -> None:
        """End the episodes; a `reset` begins others."""
        self._episode = None
        super().close(**kwargs)

    def __repr__(self) -> str:
        return f"TaskVectorEnv({self.task!r}, num_envs={self.num_envs})"

    def _begin(self, mask: Array) -> None:
        """Deal new episodes to the lanes of `mask`."""
        if self._episode is None or mask.all():
            block, start = self._stream.deal(self.np_random)
            self._episode, self._owned = block[start : start + self.num_envs], False
            self._observation = self._episode.observation[:, 0]
            if self.render_mode is not None:
                self._actions = np.zeros_like(self._episode.target)
        else:
            fresh = self.task.sample(self.np_random, int(mask.sum()))
            if not self._owned:
                self._episode, self._owned = self._episode.copy(), True
            self._episode.put(mask, fresh)
            self._observation = self._observation.copy()
            self._observation[mask] = fresh.observation[:, 0]
        self._steps[mask] = 0
        self._returns[mask] = 0
        self._in_phase = bool((self._steps == self._steps[0]).all())

    def _at(self, steps: Array) -> Any:
        """An index of [B, T] that picks each lane's step; a slice, which copies nothing, where all have the same."""
        return (slice(None), steps[0]) if self._in_phase else (self._lanes, steps)

    def _play(self, actions: Array, ended: Array, any_ended: bool) -> Array:
        """Score the actions, move on the lanes that have not ended, and return rewards [B]."""
        assert self._episode is not None
        last = self.task.episode_length - 1
        now = np.minimum(self._steps, last)
        at = self._at(now)
        rewards = self.task.rewards_of_valid(self._episode, actions, at)
        if self.render_mode is not None:
            self._actions[self._lanes, now] = actions
        if any_ended:
            rewards = np.where(ended, 0.0, rewards)
        self._returns += rewards
        self._steps += ~ended
        following = self._at(np.minimum(self._steps, last))
        over = self._steps > last
        any_over = bool(over.any())
        # Players get copies in any case; one more is needed only where something is written to it here.
        self._observation = self._episode.observation[following]
        if self.task.interactive or any_over:
            self._observation = self._observation.copy()
        if self.task.interactive:
            self.task.write_feedback(self._observation, actions, rewards, self._episode.scored[at])
        if any_over:
            self._observation[over] = 0
        return rewards

    def _shown(self) -> Any:
        """What players see, in arrays of their own."""
        return self.task.observe(self._observation) if self._shows else self._observation.copy()

    def _info(self, mask: Array | None = None) -> dict[str, Any]:
        """Target and scored of the lanes of `mask`, or of all, for the observations they have now."""
        assert self._episode is not None
        last = self.task.episode_length - 1
        at = self._at(np.minimum(self._steps, last))
        target, scored = self._episode.target[at].copy(), self._episode.scored[at].copy()
        blank = self._steps > last
        if mask is None:
            mask = np.ones(self.num_envs, dtype=np.bool_)
        else:
            blank |= ~mask
        if blank.any():
            target[blank] = 0
            scored[blank] = False
        return {"target": target, "_target": mask, "scored": scored, "_scored": mask.copy()}

    def _summary(self, terminated: Array) -> dict[str, Any]:
        """Scores of the episodes that have just ended, 0 elsewhere, each with its mask."""
        assert self._episode is not None
        played = self._episode if terminated.all() else self._episode[terminated]
        score = self._returns[terminated] / played.scored.sum(axis=1)
        values = {"score": score}
        if self.reference_scores:
            oracle, memoryless = reference_scores(self.task, played)
            values["oracle_score"], values["memoryless_score"] = oracle, memoryless
            values["regret"] = oracle - score
            values["normalised_score"] = normalised_score(score, memoryless, oracle)
        infos: dict[str, Any] = {}
        for key, value in values.items():
            infos[key] = np.zeros(self.num_envs, dtype=np.float32)
            infos[key][terminated] = value
            infos[f"_{key}"] = terminated.copy()
        return infos

    def _restart(self, terminated: Array, infos: dict[str, Any]) -> dict[str, Any]:
        """Put what has ended into `final_obs` and `final_info`, and begin the next episodes at once."""
        final_obs = np.full(self.num_envs, None, dtype=object)
        ended = map(self.task.observe, self._observation[terminated])
        final_obs[terminated] = np.fromiter(ended, dtype=object, count=int(terminated.sum()))
        final_info: dict[str, Any] = {}
        for key, value in infos.items():
            final_info[key] = value.copy()
            final_info[key][~terminated] = 0
        self._begin(terminated)
        return {
            "final_obs": final_obs,
            "_final_obs": terminated.copy(),
            "final_info": final_info,
            "_final_info": terminated.copy(),
            **self._info(),
        }


def _read_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(repr(each.value) for each in AutoresetMode)
        raise ValueError(f"autoreset_mode must be an AutoresetMode or one of {known}, got {mode!r}") from None


def _read_mask(options: dict[str, Any] | None, num_envs: int) -> Array:
    check_options(options, known=("reset_mask",))
    if not options:
        return np.ones(num_envs, dtype=np.bool_)
    given = options["reset_mask"]
    mask = np.array(given)
    if mask.dtype != np.bool_:
        raise TypeError(f"options['reset_mask'] must be a bool array of shape ({num_envs},), got {given!r}")
    if mask.shape != (num_envs,) or not mask.any():
        raise ValueError(f"options['reset_mask'] must have shape ({num_envs},) and a True in it, got {given!r}")
    return mask
