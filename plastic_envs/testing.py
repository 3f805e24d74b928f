"""Checks for your own tasks. They raise AssertionError with a description of the fault."""

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
from plastic_envs.registration import as_task
from plastic_envs.task import Array, EpisodeBatch, Task
from plastic_envs.vector_env import TaskVectorEnv

# Number of episodes to which a player is fitted that should not surpass the oracle, and on which it is scored.
_FITTED_EPISODES = 256
# Sample size from which an entry that never changes is taken to be constant.
_CONSTANCY_SAMPLES = 64


def check_task(task: Task | str, *, seed: int = 0, batch_size: int = 64) -> None:
    """Check that a task satisfies the contract of `Task` and that its environment passes Gymnasium's checker.

    The checks are:

    - The spaces are valid, and observations and targets have the right shapes and are within the spaces.
    - The same seed gives the same episodes, also in a copy and in a pickled copy of the task.
    - Steps that are not scored give no reward.
    - Secondary metrics have valid names, shapes and values, and count a step of each batch.
    - Twins have equal stimuli and different targets.
    - Further episodes of a world keep the draws that `Task.world` names.
    - The oracle uses only the observations up to each step: no targets, items or latent draws, no future, and no stake
      that its actions have not revealed.
    - The memoryless policy uses the current observation only.
    - Mean scores are in the order oracle, memoryless policy, random actions, up to chance.
    - With Box actions: no linear function of the oracle's actions, those of the memoryless policy and the observation,
      fitted to the targets of other episodes, scores higher than the oracle. A task with another `Task.oracle_name`
      than "oracle" claims no best player and skips this check.

    Args:
        task: the task to check, or its id.
        seed: seed of the episodes and actions of the checks.
        batch_size: number of episodes of each check.

    Raises:
        AssertionError: a check failed.
        TypeError: `task` is neither a task nor an id.
    """
    task = as_task(task, {})
    _check_spaces(task)
    episode = task.sample(np.random.default_rng(seed), batch_size)
    _check_episode(task, episode, batch_size)
    _check_equal(episode, task.sample(np.random.default_rng(seed), batch_size), "sampling twice from one seed")
    for clone in (copy.deepcopy(task), _pickled(task)):
        _check_equal(episode, clone.sample(np.random.default_rng(seed), batch_size), "sampling from a copy of the task")
        assert repr(clone) == repr(task), f"a copy of {task!r} is a different task, {clone!r}"
    _check_twins(task, *task.sample_yoked(np.random.default_rng(seed), batch_size))
    if task.world:
        _check_world(task, episode, np.random.default_rng(seed + 1))
    _check_rewards(task, episode, np.random.default_rng(seed))
    _check_secondary_metrics(task, episode, np.random.default_rng(seed))
    _check_policies(task, episode, np.random.default_rng(seed + 1))
    if task.oracle_name == "oracle" and isinstance(task.action_space, spaces.Box):
        _check_improvement(task, np.random.default_rng(seed + 2))
    # Without the render check, which makes new environments from the spec: an unregistered task has none.
    check_env(TaskEnv(task), skip_render_check=True)


def check_vector_env(task: Task | str, *, num_envs: int = 3, seed: int = 0) -> None:
    """Compare `TaskVectorEnv` with Gymnasium's `SyncVectorEnv` over `TaskEnv`, in each autoreset mode.

    The first comparison has one lane, in which both must agree bit for bit over several episodes. The second has
    `num_envs` lanes, in which shapes, dtypes, flags, the ends of episodes and the keys and masks of infos must agree.
    It resets one lane half-way, so that lanes end at different times.

    Args:
        task: a task or its id.
        num_envs: number of lanes of the second comparison.
        seed: seed of the episodes and actions.

    Raises:
        AssertionError: the environments differ.
    """
    for mode in AutoresetMode:
        for lanes in (1, num_envs):
            _check_mode(task, lanes, mode, seed)


def _shape(space: spaces.Space[Any]) -> tuple[int, ...]:
    return space.shape or ()


def parts(value: Any) -> dict[str, Any]:
    """Return the entries of a Dict observation or space by name, and any other as the one entry "observation"."""
    return dict(value.items()) if isinstance(value, dict | spaces.Dict) else {"observation": value}


def _check_spaces(task: Task) -> None:
    observation, action = task.observation_space, task.action_space
    if not isinstance(observation, spaces.Dict):
        assert (
            isinstance(observation, spaces.Box) and observation.dtype == np.float32 and len(observation.shape) == 1
        ), f"observation_space must be a one-dimensional float32 Box, or a Dict, got {observation}"
    for box in parts(observation).values():
        assert isinstance(box, spaces.Box) and box.is_bounded(), f"observation_space must be bounded, got {box}"
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
    assert sum(channel_size for _, channel_size in task.channels) == size, (
        f"channels must add up to the observation's size {size}, got {task.channels}"
    )
    _check_array("target", episode.target, (*steps, *_shape(task.action_space)), np.int64 if discrete else np.float32)
    _check_array("scored", episode.scored, steps, np.bool_)
    # A stake for each step, or for each Discrete action.
    n_actions = episode.stake.shape[2:] and (int(getattr(task.action_space, "n", 0)),)
    _check_array("stake", episode.stake, (*steps, *n_actions), np.float32)
    _check_array("item", episode.item, steps, np.int64)
    for name, array in episode.latent.items():
        assert len(array) == batch_size, f"latent {name} must have {batch_size} rows, got {len(array)}"
    observations, observation_spaces = parts(task.observe(episode.observation)), parts(task.observation_space)
    assert list(observations) == list(observation_spaces), (
        f"observations must have the entries {list(observation_spaces)}, got {list(observations)}"
    )
    for name, space in observation_spaces.items():
        observation = observations[name]
        _check_array(f"observed {name}", observation, (*steps, *_shape(space)), space.dtype)
        assert ((observation >= space.low) & (observation <= space.high)).all(), (
            f"observations are outside observation_space {space}"
        )
    for name, blank in parts(task.observe(np.zeros_like(episode.observation[0, 0]))).items():
        assert not blank.any(), f"{name} of a blank observation must be zeros, got {blank}"
    assert all(
        task.action_space.contains(target) for target in episode.target.reshape(-1, *_shape(task.action_space))
    ), f"targets are outside action_space {task.action_space}"
    assert episode.scored.any(axis=1).all(), "each episode must have a scored step"


def _pickled(task: Task) -> Task:
    try:
        clone: Task = pickle.loads(pickle.dumps(task))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise AssertionError(f"tasks must be picklable for worker processes: {error}") from error
    return clone


def _check_array(name: str, array: Array, shape: tuple[int, ...], dtype: Any) -> None:
    assert array.shape == shape and array.dtype == dtype, (
        f"{name} must be {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}"
    )


def _check_equal(episode: EpisodeBatch, repeated: EpisodeBatch, what: str) -> None:
    for name in ("observation", "target", "scored", "stake", "item"):
        assert np.array_equal(getattr(episode, name), getattr(repeated, name)), f"{what} gave a different {name}"


def _check_twins(task: Task, episode: EpisodeBatch, twin: EpisodeBatch) -> None:
    for name in ("scored", "item"):
        assert np.array_equal(getattr(episode, name), getattr(twin, name)), f"twins must share {name}"
    assert not np.array_equal(episode.target, twin.target), "twins must differ in their targets"
    # Observation entries that do not change when the memoranda are redrawn belong to the stimuli.
    rng = np.random.default_rng(0)
    stimuli = task.sample_stimuli(rng, _CONSTANCY_SAMPLES)
    observation, redrawn_observation = (
        task.compose(stimuli, task.sample_memoranda(rng, _CONSTANCY_SAMPLES)).observation for _ in range(2)
    )
    steps, entries = np.nonzero((observation == redrawn_observation).all(axis=0))
    assert np.array_equal(episode.observation[:, steps, entries], twin.observation[:, steps, entries]), (
        "twins must share the observations that do not depend on the memoranda"
    )


def _check_world(task: Task, episode: EpisodeBatch, rng: np.random.Generator) -> None:
    draws = {**task.sample_stimuli(rng, len(episode)), **task.sample_memoranda(rng, len(episode))}
    for name in task.world:
        assert name in draws and name in episode.latent, (
            f"world must name draws {sorted(draws)} that latent {sorted(episode.latent)} has too, got {name!r}"
        )
    further = task.sample_same_world(rng, episode)
    _check_episode(task, further, len(episode))
    for name in task.world:
        assert np.array_equal(further.latent[name], episode.latent[name]), f"{name} changed within a world"


def _random_actions(task: Task, episode: EpisodeBatch, rng: np.random.Generator) -> Array:
    if isinstance(task.action_space, spaces.Discrete):
        return rng.integers(task.action_space.n, size=episode.target.shape)
    return rng.uniform(-1, 1, size=episode.target.shape).astype(np.float32)


def _check_rewards(task: Task, episode: EpisodeBatch, rng: np.random.Generator) -> None:
    actions = _random_actions(task, episode, rng)
    rewards = task.rewards(episode, actions)
    assert rewards.shape == episode.scored.shape and np.isfinite(rewards).all(), "rewards must be finite [B, T]"
    assert (rewards[~episode.scored] == 0).all(), "steps that are not scored must give no reward"
    low, high = task.reward_range
    assert (rewards >= low).all() and (rewards <= high).all(), f"rewards are outside reward_range {low} to {high}"
    step = task.episode_length - 1
    assert np.array_equal(task.rewards(episode, actions[:, step], (slice(None), step)), rewards[:, step]), (
        "the rewards of a step must be the same whether one step or all steps are scored"
    )


def _check_secondary_metrics(task: Task, episode: EpisodeBatch, rng: np.random.Generator) -> None:
    try:
        metrics = task.secondary_metrics(episode, _random_actions(task, episode, rng))
    except ValueError as error:
        raise AssertionError(f"secondary metrics are invalid: {error}") from error
    for name, (_, counted) in metrics.items():
        assert counted.any(), f"{name} must count a step"


def _check_policies(task: Task, episode: EpisodeBatch, rng: np.random.Generator) -> None:
    oracle, memoryless = task.oracle(episode), task.memoryless(episode)
    for name, actions in (("oracle", oracle), ("memoryless", memoryless)):
        assert actions.shape == episode.target.shape, f"{name} must return actions {episode.target.shape}"
        assert all(task.action_space.contains(action) for action in actions.reshape(-1, *_shape(task.action_space))), (
            f"{name} must return actions in action_space {task.action_space}, of dtype {task.action_space.dtype}"
        )
    scored = episode.scored
    assert not np.array_equal(oracle[scored], memoryless[scored]), "the oracle must not be the memoryless policy"
    unrelated = task.sample(rng, len(episode))
    _check_hidden_arrays(task, episode, unrelated, oracle, memoryless)
    for step in _cut_steps(task):
        _check_future(task, episode, unrelated, oracle, step)
    for _ in range(4):
        # Each of these halves separates any two steps with probability 1/2.
        keep = rng.permutation(task.episode_length) < task.episode_length / 2
        _check_memoryless(task, episode, unrelated, memoryless, keep)
        _check_memoryless(task, episode, unrelated, memoryless, ~keep)

    scores = {
        "oracle": task.score(episode, oracle),
        "memoryless": task.score(episode, memoryless),
        "random": task.score(episode, _random_actions(task, episode, rng)),
    }
    for better, worse in (("oracle", "memoryless"), ("memoryless", "random")):
        gap = scores[better] - scores[worse]
        # Allow 4 standard errors: if both policies score about 0, the worse can win a batch by chance.
        error = 4 * gap.std() / np.sqrt(len(episode))
        assert gap.mean() >= -error, (
            f"the {better} mean score {scores[better].mean():.4g} is below that of {worse} actions, "
            f"{scores[worse].mean():.4g}, by more than chance"
        )


def _check_improvement(task: Task, rng: np.random.Generator) -> None:
    """Check that no linear function of what the oracle answers and what is observed improves on the oracle."""
    (features, known), (new_features, new) = (_features(task, task.sample(rng, _FITTED_EPISODES)) for _ in range(2))
    scored = known.scored
    # The small penalty decides between entries of the observation that always have the same sum.
    penalty = 1e-6 * np.eye(features.shape[-1])
    inputs, targets = features[scored], known.target[scored]
    weights = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ targets)
    gap = task.score(new, np.clip(new_features @ weights, -1, 1)) - task.score(new, task.oracle(new))
    error = gap.std() / np.sqrt(len(new))
    assert gap.mean() <= 4 * error, (
        "oracle must be the best player, but a linear function of its actions, those of memoryless and the observation "
        f"scores {gap.mean():.2g} more (standard error {error:.2g}); if it is a reference, oracle_name must say so"
    )


def _features(task: Task, episode: EpisodeBatch) -> tuple[Array, EpisodeBatch]:
    """Return what a player knows at each step, float64 [B, T, F], and the episodes."""
    known = (np.ones((*episode.scored.shape, 1)), task.oracle(episode), task.memoryless(episode), episode.observation)
    return np.concatenate(known, axis=-1, dtype=np.float64), episode


def _check_hidden_arrays(
    task: Task, episode: EpisodeBatch, unrelated: EpisodeBatch, oracle: Array, memoryless: Array
) -> None:
    """Check that no action depends on an array that agents do not observe."""
    blanks: dict[str, Any] = {
        "target": np.zeros_like(episode.target),
        "item": np.full_like(episode.item, -1),
        "latent": {},
    }
    for name, blank in blanks.items():
        blinded = replace(episode, **{name: blank})
        for policy_name, policy, actions in (
            ("oracle", task.oracle, oracle),
            ("memoryless", task.memoryless, memoryless),
        ):
            try:
                is_unchanged = _is_close(policy(blinded), actions)
            except KeyError:
                is_unchanged = False
            assert is_unchanged, f"{policy_name} must not see {name}"
    # The oracle may use the stake of a step only if that stake changed an observation that it has already received.
    is_revealed = np.zeros_like(episode.scored)
    restaked = replace(episode, stake=unrelated.stake)
    is_changed = task.with_feedback(episode, oracle) != task.with_feedback(restaked, oracle)
    is_revealed[:, :-1] = is_changed.any(axis=-1)[:, 1:]
    if episode.stake.ndim > is_revealed.ndim:
        # Only the stake of the action that the oracle took.
        is_revealed = is_revealed[..., None] & (oracle[..., None] == np.arange(episode.stake.shape[-1]))
    assert _is_close(task.memoryless(restaked), memoryless), "memoryless must not see stake"
    restaked = replace(episode, stake=np.where(is_revealed, episode.stake, unrelated.stake))
    assert _is_close(task.oracle(restaked), oracle), "oracle must not see a stake that its actions did not reveal"


def _check_memoryless(
    task: Task, episode: EpisodeBatch, unrelated: EpisodeBatch, memoryless: Array, keep: Array
) -> None:
    """Check that no action at the steps of the mask `keep` depends on the other steps."""
    mixed = _mixed(episode, unrelated, keep)
    assert _is_close(task.memoryless(mixed)[:, keep], memoryless[:, keep]), (
        "memoryless must not depend on observations of other steps"
    )


def _check_future(task: Task, episode: EpisodeBatch, unrelated: EpisodeBatch, oracle: Array, step: int) -> None:
    """Check that no action before `step` depends on observations from `step` on."""
    steps = np.arange(task.episode_length)
    mixed = _mixed(episode, unrelated, steps < step)
    # The outcome of the last action before `step` is not observed yet.
    mixed = replace(mixed, stake=_mixed(episode, unrelated, steps < step - 1).stake)
    assert _is_close(task.oracle(mixed)[:, :step], oracle[:, :step]), (
        f"oracle must not see the future, from step {step}"
    )


def _mixed(episode: EpisodeBatch, unrelated: EpisodeBatch, keep: Array) -> EpisodeBatch:
    """Return `episode` with the steps outside the mask `keep`, bool [T], taken from `unrelated`."""
    arrays: dict[str, Any] = {}
    for name in ("observation", "target", "scored", "stake", "item"):
        array = getattr(episode, name).copy()
        array[:, ~keep] = getattr(unrelated, name)[:, ~keep]
        arrays[name] = array
    return replace(episode, **arrays)


def _cut_steps(task: Task) -> list[int]:
    """Return the steps at which to cut episodes: about 30 evenly spaced steps, and those around the first query."""
    last_step = task.episode_length - 1
    steps = np.linspace(1, last_step, min(last_step, 30)).round().astype(int)
    query_steps = (task.query_start - 1, task.query_start, task.query_start + 1)
    return sorted({*steps.tolist(), *(step for step in query_steps if 1 <= step <= last_step)})


def _is_close(actions: Array, expected: Array) -> bool:
    """Return whether actions are equal up to rounding, which can depend on the other episodes of a batch."""
    return actions.shape == expected.shape and bool(np.allclose(actions, expected, rtol=0, atol=1e-4))


def _is_equal(observation: Any, expected: Any) -> bool:
    """Return whether all entries of two observations are equal."""
    expected_entries = parts(expected)
    return all(np.array_equal(entry, expected_entries[name]) for name, entry in parts(observation).items())


def _check_mode(task: Task | str, lanes: int, mode: AutoresetMode, seed: int) -> None:
    env: Any = TaskVectorEnv(task, lanes, autoreset_mode=mode)
    sync_env: Any = SyncVectorEnv([lambda: TaskEnv(task)] * lanes, autoreset_mode=mode)
    assert env.metadata["autoreset_mode"] is mode, f"metadata must name the mode {mode}"
    for space in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(env, space) == getattr(sync_env, space), (
            f"{space} must be {getattr(sync_env, space)}, got {getattr(env, space)}"
        )
    exact = lanes == 1
    where = f"{mode.value} with {lanes} lane(s)"
    _compare(env.reset(seed=seed), sync_env.reset(seed=seed), exact, f"{where}, reset")
    env.action_space.seed(seed)
    length = env.task.episode_length
    for step in range(3 * length + 3):
        actions = env.action_space.sample()
        result, expected = env.step(actions), sync_env.step(actions)
        _compare(result, expected, exact, f"{where}, step {step}")
        is_half_way = lanes > 1 and step == length // 2
        if is_half_way or (mode is AutoresetMode.DISABLED and result[2].any()):
            mask = result[2] | (is_half_way & (np.arange(lanes) == 0))
            # One dict for each environment, because SyncVectorEnv removes the mask from it.
            result, expected = (each.reset(options={"reset_mask": mask.copy()}) for each in (env, sync_env))
            _compare(result, expected, exact, f"{where}, reset at step {step}")
    env.close()
    sync_env.close()


def _compare(result: tuple[Any, ...], expected: tuple[Any, ...], exact: bool, where: str) -> None:
    """Compare the results of `reset` or `step`; values must be equal if `exact`."""
    flags, expected_flags = result[2:4], expected[2:4]
    assert all(np.array_equal(*pair) for pair in zip(flags, expected_flags, strict=True)), (
        f"{where}: flags {flags}, expected {expected_flags}"
    )
    observation, expected_observation = parts(result[0]), parts(expected[0])
    assert list(observation) == list(expected_observation), (
        f"{where}: {list(observation)}, expected {list(expected_observation)}"
    )
    pairs = [(name, array, expected_observation[name]) for name, array in observation.items()]
    if len(result) > 2:
        pairs.append(("rewards", result[1], expected[1]))
    for name, array, expected_array in pairs:
        _compare_types(array, expected_array, f"{where}: {name}")
        assert not exact or np.array_equal(array, expected_array), f"{where}: {name} {array}, expected {expected_array}"
    _compare_infos(result[-1], expected[-1], exact, where)


def _compare_types(array: Array, expected: Array, where: str) -> None:
    assert array.shape == expected.shape and array.dtype == expected.dtype, (
        f"{where} {array.dtype} {array.shape}, expected {expected.dtype} {expected.shape}"
    )


def _compare_infos(infos: dict[str, Any], expected_infos: dict[str, Any], exact: bool, where: str) -> None:
    assert set(infos) == set(expected_infos), f"{where}: infos have {sorted(infos)}, expected {sorted(expected_infos)}"
    for key, value in infos.items():
        expected = expected_infos[key]
        if isinstance(value, dict):
            _compare_infos(value, expected, exact, f"{where}, {key}")
        elif key.startswith("_"):
            assert np.array_equal(value, expected), f"{where}: {key} {value}, expected {expected}"
        elif key == "final_obs":
            for observation, expected_observation in zip(value, expected, strict=True):
                assert (observation is None) == (expected_observation is None), (
                    f"{where}: {key} {value}, expected {expected}"
                )
                assert observation is None or not exact or _is_equal(observation, expected_observation), (
                    f"{where}: {key} {observation}, expected {expected_observation}"
                )
        else:
            _compare_types(value, expected, f"{where}: {key}")
            is_absent = ~infos[f"_{key}"]
            assert np.array_equal(value[is_absent], expected[is_absent]), (
                f"{where}: {key} {value} in lanes without {key}"
            )
            assert not exact or np.array_equal(value, expected, equal_nan=True), (
                f"{where}: {key} {value}, expected {expected}"
            )
