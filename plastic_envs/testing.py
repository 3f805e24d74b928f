"""Checks that anybody can run on a task of their own; each raises AssertionError that says what is wrong."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from plastic_envs.env import TaskEnv
from plastic_envs.task import Array, EpisodeBatch, Task
from plastic_envs.vector_env import TaskVectorEnv

# Episodes in which a number that never changes is one that cannot.
_ENOUGH = 64


def check_task(task: Task, *, seed: int = 0, batch_size: int = 64) -> None:
    """Check that a task keeps the promises of `Task`, and that its environment passes Gymnasium's checker.

    Spaces and shapes; the same draws from the same seed; observations and targets within their spaces; no reward at
    steps that are not scored; twins with equal stimuli and different answers; an oracle that sees only what is observed
    (no target, item or latent draw, no stake that its actions have not brought to light, not the future); a memoryless
    policy that sees the present observation alone; means in this order, but for chance: oracle, memoryless, random
    actions; copies and pickles.

    Args:
        task: the task to check.
        seed: of everything drawn here.
        batch_size: episodes that averages are taken over.

    Raises:
        AssertionError: one of these does not hold.
    """
    _check_spaces(task)
    episode = task.sample(np.random.default_rng(seed), batch_size)
    _check_episode(task, episode, batch_size)
    _check_equal(episode, task.sample(np.random.default_rng(seed), batch_size), "sampling twice from one seed")
    for clone in (copy.deepcopy(task), _pickled(task)):
        _check_equal(episode, clone.sample(np.random.default_rng(seed), batch_size), "sampling from a copy of the task")
        assert repr(clone) == repr(task), f"a copy of {task!r} is another task, {clone!r}"
    _check_twins(task, *task.sample_yoked(np.random.default_rng(seed), batch_size))
    _check_rewards(task, episode, np.random.default_rng(seed))
    _check_policies(task, episode, np.random.default_rng(seed + 1))
    # No render_mode: Gymnasium would make environments again from a spec, which a task's own environment need not have.
    check_env(TaskEnv(task), skip_render_check=True)


def check_vector_env(task: Task | str, *, num_envs: int = 3, seed: int = 0) -> None:
    """Compare `TaskVectorEnv` with Gymnasium's `SyncVectorEnv` over `TaskEnv`, in each autoreset mode.

    With one lane both have to agree bit for bit, through several episodes. With more, in shapes, dtypes, flags, the
    times of episodes' ends, the keys of infos and the lanes that have them; one lane is reset half-way, after which
    lanes end at different times.

    Args:
        task: a task, or the id of one.
        num_envs: number of lanes of the second comparison.
        seed: of everything drawn here.

    Raises:
        AssertionError: they differ.
    """
    for mode in AutoresetMode:
        for lanes in (1, num_envs):
            _check_mode(task, lanes, mode, seed)


def _shape(space: spaces.Space[Any]) -> tuple[int, ...]:
    return space.shape or ()


def parts(value: Any) -> dict[str, Any]:
    """The parts of an observation, or of its space, by name; all of one that is no dict as "observation"."""
    return dict(value.items()) if isinstance(value, dict | spaces.Dict) else {"observation": value}


def _check_spaces(task: Task) -> None:
    observation, action = task.observation_space, task.action_space
    if not isinstance(observation, spaces.Dict):
        assert (
            isinstance(observation, spaces.Box) and observation.dtype == np.float32 and len(observation.shape) == 1
        ), f"observation_space must be a one-dimensional float32 Box, or a Dict, got {observation}"
    for part in parts(observation).values():
        assert isinstance(part, spaces.Box) and part.is_bounded(), f"observation_space must be bounded, got {part}"
    if isinstance(action, spaces.Box):
        assert action.dtype == np.float32 and len(action.shape) == 1, f"Box actions must be float32 [A], got {action}"
        assert (action.low == -1).all() and (action.high == 1).all(), f"Box actions must be in [-1, 1], got {action}"
    else:
        assert isinstance(action, spaces.Discrete) and action.start == 0, (
            f"action_space must be a Box or a Discrete from 0, got {action}"
        )
        assert len(task.action_names) in (0, action.n), f"action_names must name {action.n}, got {task.action_names}"
    assert 0 <= task.query_start < task.episode_length, (
        f"query_start must be a step of the episode, 0 to {task.episode_length - 1}, got {task.query_start}"
    )


def _check_episode(task: Task, episode: EpisodeBatch, batch_size: int) -> None:
    steps = (batch_size, task.episode_length)
    discrete = isinstance(task.action_space, spaces.Discrete)
    size = episode.observation.shape[-1]
    _check_array("observation", episode.observation, (*steps, size), np.float32)
    assert sum(each for _, each in task.channels) == size, (
        f"channels must add up to the observation's size {size}, got {task.channels}"
    )
    _check_array("target", episode.target, (*steps, *_shape(task.action_space)), np.int64 if discrete else np.float32)
    _check_array("scored", episode.scored, steps, np.bool_)
    _check_array("stake", episode.stake, steps, np.float32)
    _check_array("item", episode.item, steps, np.int64)
    for name, array in episode.latent.items():
        assert len(array) == batch_size, f"latent {name} must have {batch_size} rows, got {len(array)}"
    shown, known = parts(task.observe(episode.observation)), parts(task.observation_space)
    assert list(shown) == list(known), f"observations must have the parts {list(known)}, got {list(shown)}"
    for name, space in known.items():
        _check_array(f"{name} shown", shown[name], (*steps, *_shape(space)), space.dtype)
        assert ((shown[name] >= space.low) & (shown[name] <= space.high)).all(), (
            f"observations leave observation_space {space}"
        )
    for name, blank in parts(task.observe(np.zeros_like(episode.observation[0, 0]))).items():
        assert not blank.any(), f"{name} of a blank observation must be zeros, got {blank}"
    assert all(
        task.action_space.contains(target) for target in episode.target.reshape(-1, *_shape(task.action_space))
    ), f"targets leave action_space {task.action_space}"
    assert episode.scored.any(axis=1).all(), "each episode must have a scored step"


def _pickled(task: Task) -> Task:
    try:
        clone: Task = pickle.loads(pickle.dumps(task))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(f"tasks must survive pickling, as worker processes need it: {error}") from error
    return clone


def _check_array(name: str, array: Array, shape: tuple[int, ...], dtype: Any) -> None:
    assert array.shape == shape and array.dtype == dtype, (
        f"{name} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}"
    )


def _check_equal(one: EpisodeBatch, other: EpisodeBatch, what: str) -> None:
    for name in ("observation", "target", "scored", "stake", "item"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), f"{what} gave another {name}"


def _check_twins(task: Task, one: EpisodeBatch, other: EpisodeBatch) -> None:
    for name in ("scored", "item"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), f"twins must share {name}"
    assert not np.array_equal(one.target, other.target), "twins must differ in their targets"
    # What no draw of contents changes, in enough episodes to tell, is stimulus.
    rng = np.random.default_rng(0)
    stimuli = task.sample_stimuli(rng, _ENOUGH)
    first, second = (task.compose(stimuli, task.sample_memoranda(rng, _ENOUGH)).observation for _ in range(2))
    steps, numbers = np.nonzero((first == second).all(axis=0))
    assert np.array_equal(one.observation[:, steps, numbers], other.observation[:, steps, numbers]), (
        "twins must share the observations that do not depend on the memoranda"
    )


def _random_actions(task: Task, episode: EpisodeBatch, rng: np.random.Generator) -> Array:
    if isinstance(task.action_space, spaces.Discrete):
        return rng.integers(task.action_space.n, size=episode.target.shape)
    return rng.uniform(-1, 1, size=episode.target.shape).astype(np.float32)


def _check_rewards(task: Task, episode: EpisodeBatch, rng: np.random.Generator) -> None:
    random = _random_actions(task, episode, rng)
    rewards = task.rewards(episode, random)
    assert rewards.shape == episode.scored.shape and np.isfinite(rewards).all(), "rewards must be finite [B, T]"
    assert (rewards[~episode.scored] == 0).all(), "steps that are not scored must give no reward"
    low, high = task.reward_range
    assert (rewards >= low).all() and (rewards <= high).all(), f"rewards leave reward_range {low} to {high}"
    step = task.episode_length - 1
    assert np.array_equal(task.rewards(episode, random[:, step], (slice(None), step)), rewards[:, step]), (
        "the rewards of one step must be those that scoring all steps gives it"
    )


def _check_policies(task: Task, episode: EpisodeBatch, rng: np.random.Generator) -> None:
    oracle, memoryless = task.oracle(episode), task.memoryless(episode)
    for name, actions in (("oracle", oracle), ("memoryless", memoryless)):
        assert actions.shape == episode.target.shape, f"{name} must return actions {episode.target.shape}"
        assert all(task.action_space.contains(action) for action in actions.reshape(-1, *_shape(task.action_space))), (
            f"{name} leaves action_space {task.action_space}, or has another dtype than {task.action_space.dtype}"
        )
    scored = episode.scored
    assert not np.array_equal(oracle[scored], memoryless[scored]), "the oracle must not be the memoryless policy"
    stranger = task.sample(rng, len(episode))
    _check_blindness(task, episode, stranger, oracle, memoryless)
    for step in _some_steps(task):
        _check_future(task, episode, stranger, oracle, step)
    for _ in range(4):
        # Any two steps come apart in half of these.
        kept = rng.permutation(task.episode_length) < task.episode_length / 2
        _check_memoryless(task, episode, stranger, memoryless, kept)
        _check_memoryless(task, episode, stranger, memoryless, ~kept)

    scores = {
        "oracle": task.score(episode, oracle),
        "memoryless": task.score(episode, memoryless),
        "random": task.score(episode, _random_actions(task, episode, rng)),
    }
    for better, worse in (("oracle", "memoryless"), ("memoryless", "random")):
        gap = scores[better] - scores[worse]
        # Where scores scatter round 0, as where avoiding is free, the worse may be ahead in a batch by chance.
        error = 4 * gap.std() / np.sqrt(len(episode))
        assert gap.mean() >= -error, (
            f"the {better} mean score {scores[better].mean():.4g} is below that of {worse} actions, "
            f"{scores[worse].mean():.4g}, by more than chance"
        )


def _check_blindness(
    task: Task, episode: EpisodeBatch, stranger: EpisodeBatch, oracle: Array, memoryless: Array
) -> None:
    """What is not observed changes no action."""
    blank: dict[str, Any] = {
        "target": np.zeros_like(episode.target),
        "item": np.full_like(episode.item, -1),
        "latent": {},
    }
    for name, nothing in blank.items():
        blind = replace(episode, **{name: nothing})
        for who, policy, actions in (("oracle", task.oracle, oracle), ("memoryless", task.memoryless, memoryless)):
            try:
                same = _alike(policy(blind), actions)
            except KeyError:
                same = False
            assert same, f"{who} must not see {name}"
    # A step's worth is known once an outcome tells it; where it would look the same with another, it is not.
    told = np.zeros_like(episode.scored)
    other = replace(episode, stake=stranger.stake)
    change = task.with_feedback(episode, oracle) != task.with_feedback(other, oracle)
    told[:, :-1] = change.any(axis=-1)[:, 1:]
    other = replace(episode, stake=np.where(told, episode.stake, stranger.stake))
    assert _alike(task.oracle(other), oracle), "oracle must not see a stake that its actions did not bring to light"
    assert _alike(task.memoryless(replace(episode, stake=stranger.stake)), memoryless), "memoryless must not see stake"


def _check_memoryless(
    task: Task, episode: EpisodeBatch, stranger: EpisodeBatch, memoryless: Array, kept: Array
) -> None:
    """Other observations at the steps that are not `kept` change no action at those that are."""
    mixed = _mixed(episode, stranger, kept)
    assert _alike(task.memoryless(mixed)[:, kept], memoryless[:, kept]), (
        "memoryless must not depend on observations of other steps"
    )


def _check_future(task: Task, episode: EpisodeBatch, stranger: EpisodeBatch, oracle: Array, step: int) -> None:
    """What comes from `step` on changes no action before it."""
    steps = np.arange(task.episode_length)
    mixed = _mixed(episode, stranger, steps < step)
    # The action before `step` has not had its outcome.
    mixed = replace(mixed, stake=_mixed(episode, stranger, steps < step - 1).stake)
    assert _alike(task.oracle(mixed)[:, :step], oracle[:, :step]), f"oracle must not see the future, from step {step}"


def _mixed(episode: EpisodeBatch, stranger: EpisodeBatch, kept: Array) -> EpisodeBatch:
    """Episodes that are those of `stranger` at the steps that are not `kept`, bool [T]."""
    arrays: dict[str, Any] = {}
    for name in ("observation", "target", "scored", "stake", "item"):
        array = getattr(episode, name).copy()
        array[:, ~kept] = getattr(stranger, name)[:, ~kept]
        arrays[name] = array
    return replace(episode, **arrays)


def _some_steps(task: Task) -> list[int]:
    """Steps to cut episodes at: all of a short one, some of a long one, those round the first query among them."""
    last = task.episode_length - 1
    steps = np.linspace(1, last, min(last, 30)).round().astype(int)
    around = (task.query_start - 1, task.query_start, task.query_start + 1)
    return sorted({*steps.tolist(), *(step for step in around if 1 <= step <= last)})


def _alike(actions: Array, others: Array) -> bool:
    """Whether actions are the same but for rounding, which may depend on the rest of a batch."""
    return actions.shape == others.shape and bool(np.allclose(actions, others, rtol=0, atol=1e-4))


def _same(one: Any, other: Any) -> bool:
    """Whether observations are equal, part by part."""
    return all(np.array_equal(part, parts(other)[name]) for name, part in parts(one).items())


def _check_mode(task: Task | str, lanes: int, mode: AutoresetMode, seed: int) -> None:
    ours: Any = TaskVectorEnv(task, lanes, autoreset_mode=mode)
    theirs: Any = SyncVectorEnv([lambda: TaskEnv(task)] * lanes, autoreset_mode=mode)
    assert ours.metadata["autoreset_mode"] is mode, f"metadata must name the mode {mode}"
    for space in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, space) == getattr(theirs, space), f"{space} is {getattr(ours, space)}"
    exact = lanes == 1
    where = f"{mode.value} with {lanes} lane(s)"
    _compare(ours.reset(seed=seed), theirs.reset(seed=seed), exact, f"{where}, reset")
    ours.action_space.seed(seed)
    length = ours.task.episode_length
    for step in range(3 * length + 3):
        actions = ours.action_space.sample()
        result, expected = ours.step(actions), theirs.step(actions)
        _compare(result, expected, exact, f"{where}, step {step}")
        half_way = lanes > 1 and step == length // 2
        if half_way or (mode is AutoresetMode.DISABLED and result[2].any()):
            mask = result[2] | (half_way & (np.arange(lanes) == 0))
            # Each gets a dict of its own: SyncVectorEnv takes the mask out of it.
            reset = [env.reset(options={"reset_mask": mask.copy()}) for env in (ours, theirs)]
            _compare(reset[0], reset[1], exact, f"{where}, reset at step {step}")
    ours.close()
    theirs.close()


def _compare(ours: tuple[Any, ...], theirs: tuple[Any, ...], exact: bool, where: str) -> None:
    flags = ours[2:4]
    assert all(np.array_equal(flag, other) for flag, other in zip(flags, theirs[2:4], strict=True)), (
        f"{where}: flags {flags}, expected {theirs[2:4]}"
    )
    ours_seen, theirs_seen = parts(ours[0]), parts(theirs[0])
    assert list(ours_seen) == list(theirs_seen), f"{where}: {list(ours_seen)}, expected {list(theirs_seen)}"
    pairs = [(name, one, theirs_seen[name]) for name, one in ours_seen.items()]
    if len(ours) > 2:
        pairs.append(("rewards", ours[1], theirs[1]))
    for name, one, other in pairs:
        assert one.shape == other.shape and one.dtype == other.dtype, (
            f"{where}: {name} {one.dtype} {one.shape}, expected {other.dtype} {other.shape}"
        )
        assert not exact or np.array_equal(one, other), f"{where}: {name} {one}, expected {other}"
    _compare_infos(ours[-1], theirs[-1], exact, where)


def _compare_infos(ours: dict[str, Any], theirs: dict[str, Any], exact: bool, where: str) -> None:
    assert set(ours) == set(theirs), f"{where}: infos have {sorted(ours)}, expected {sorted(theirs)}"
    for key, one in ours.items():
        other = theirs[key]
        if isinstance(one, dict):
            _compare_infos(one, other, exact, f"{where}, {key}")
        elif key.startswith("_"):
            assert np.array_equal(one, other), f"{where}: {key} {one}, expected {other}"
        elif key == "final_obs":
            for row, expected in zip(one, other, strict=True):
                assert (row is None) == (expected is None), f"{where}: {key} {one}, expected {other}"
                assert row is None or not exact or _same(row, expected), f"{where}: {key} {row}"
        else:
            assert one.shape == other.shape and one.dtype == other.dtype, (
                f"{where}: {key} {one.dtype} {one.shape}, expected {other.dtype} {other.shape}"
            )
            absent = ~ours[f"_{key}"]
            assert np.array_equal(one[absent], other[absent]), f"{where}: {key} {one} of lanes that have none"
            assert not exact or np.array_equal(one, other, equal_nan=True), f"{where}: {key} {one}, expected {other}"
