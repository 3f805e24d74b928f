"""Tests of Trials and VectorTrials: several episodes of one world as one episode."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from plastic_envs import stream
from plastic_envs.env import TaskEnv
from plastic_envs.stream import trial_returns
from plastic_envs.task import Task
from plastic_envs.tasks import Bandit, CueChoice, CueReward, FewShotRegression, Harlow, SequenceReproduction
from plastic_envs.testing import _compare
from plastic_envs.vector_env import TaskVectorEnv
from plastic_envs.wrappers import PreviousActionReward, Trials, VectorPreviousActionReward, VectorTrials


class Maze(gymnasium.Env):
    """An environment of another library: an observed world, and episodes of random lengths."""

    observation_space = spaces.Box(0, 100, (2,), np.float32)
    action_space = spaces.Discrete(2)
    # An agent must find these draws out; the agent of a test may observe them.
    world = 0

    def __init__(self, lengths=(2, 4)):
        self._lengths = lengths

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if not (options or {}).get("keep"):
            self.world = self.np_random.integers(100)
        self._left = self.np_random.integers(*self._lengths)
        return self._observe(), {"left": self._left, "start": {"world": self.world}}

    def step(self, action):
        self._left -= 1
        info = {"position": {"left": self._left}} if action else {}
        return self._observe(), 1.0 + action, False, bool(self._left == 0), info

    def _observe(self):
        return np.array([self.world, self._left], np.float32)


def play(env, action=0):
    """Return the steps of one trial."""
    steps, is_over = [], False
    while not is_over:
        steps.append(env.step(action))
        is_over = steps[-1][2] or steps[-1][3]
    return steps


def test_trial_joins_episodes_of_one_world():
    env = Trials(Maze(), 3, {"keep": True})
    worlds = []
    for seed in (0, None):
        observation, info = env.reset(seed=seed)
        assert info["episode_start"]
        worlds.append(observation[0])
        steps = play(env, action=1)
        starts = [step for step in steps if step[-1]["episode_start"]]
        assert {step[0][0] for step in steps} == {observation[0]}
        assert len(starts) == 2
        # The last reward of an inner episode comes with the first observation of the next one.
        assert all(step[1] == 2 and step[0][1] == step[-1]["left"] > 0 for step in starts)
        assert steps[-1][2:4] == (True, False)
        returns = steps[-1][-1]["episode_returns"]
        assert returns.shape == (3,)
        assert (returns >= 4).all()
        assert returns.sum() == sum(step[1] for step in steps) == 2 * len(steps)
    assert worlds[0] != worlds[1]
    with pytest.raises(RuntimeError, match="after the end of a trial"):
        env.step(0)


def test_agent_sees_the_ends_of_episodes_through_the_flag_of_previous_action_reward():
    env = PreviousActionReward(Trials(Maze(lengths=(2, 3)), 2, {"keep": True}), reward_range=(0, 2))
    observations = [env.reset(seed=0)[0], *(step[0] for step in play(env, action=1))]
    # Last action (one-hot), last reward, episode start.
    assert [observation[2:].tolist() for observation in observations] == [
        [0, 0, 0, 1],
        [0, 1, 2, 0],
        [0, 1, 2, 1],
        [0, 1, 2, 0],
        [0, 1, 2, 0],
    ]


@pytest.mark.parametrize(
    ("task", "world"),
    [
        (Bandit(n_trials=3), ["means"]),
        (CueChoice(n_trials=3), ["cues", "values"]),
        (CueReward(n_support=2, n_queries=2), ["cues", "rewards"]),
        (Harlow(n_trials=3), ["objects", "rewarded"]),
        (SequenceReproduction(delay_range=8), ["values"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_episodes_of_tasks_keep_their_world_and_change_otherwise(task, world):
    env = Trials(TaskEnv(task), 2)
    _, info = env.reset(seed=0)
    first = env.unwrapped.episode
    steps = play(env, info["target"])
    second = env.unwrapped.episode
    for name in world:
        np.testing.assert_array_equal(first.latent[name], second.latent[name])
    changed = "stake" if isinstance(task, Bandit) else "observation"
    assert not np.array_equal(getattr(first, changed), getattr(second, changed))
    env.reset()
    third = env.unwrapped.episode
    assert not np.array_equal(first.latent[world[0]], third.latent[world[0]])
    # The oracle of an episode knows nothing of earlier ones, so its scores are absent.
    ends = [steps[task.episode_length - 1][-1], steps[-1][-1]]
    assert [{key for key in end if "score" in key or key == "regret"} for end in ends] == [
        {"scored", "score", "memoryless_score"}
    ] * 2
    expected = [end["score"] * episode.scored.sum() for end, episode in zip(ends, (first, second), strict=True)]
    np.testing.assert_allclose(ends[1]["episode_returns"], expected, rtol=1e-5)
    # Another oracle plays whole trials.
    returns = [ends[1]["oracle_returns"], ends[1]["memoryless_returns"]]
    np.testing.assert_array_equal(returns, np.concatenate(trial_returns(task, [first, second])))
    memoryless = [
        end["memoryless_score"] * episode.scored.sum() for end, episode in zip(ends, (first, second), strict=True)
    ]
    np.testing.assert_allclose(returns[1], memoryless, rtol=1e-5)


MODES = {
    "next step": (AutoresetMode.NEXT_STEP, None, AutoresetMode.NEXT_STEP),
    "same step": (AutoresetMode.DISABLED, "SameStep", AutoresetMode.SAME_STEP),
    "disabled": (AutoresetMode.DISABLED, None, AutoresetMode.DISABLED),
}


@pytest.mark.parametrize(("env_mode", "autoreset_mode", "mode"), MODES.values(), ids=MODES)
@pytest.mark.parametrize("env_name", ["task", "tasks", "maze"])
def test_vector_trials_equal_single_trials_in_each_lane(env_name, env_mode, autoreset_mode, mode):
    if env_name == "task":
        task = CueChoice(n_trials=2)
        inner, make, options = TaskVectorEnv(task, 1, autoreset_mode=env_mode), lambda: TaskEnv(task), None
        reward_range = None
    elif env_name == "tasks":
        make, options, reward_range = lambda: TaskEnv(CueReward(n_support=2, n_queries=2)), None, None
        inner = SyncVectorEnv([make] * 3, autoreset_mode=env_mode)
    else:
        inner, make, options = SyncVectorEnv([Maze] * 3, autoreset_mode=env_mode), Maze, {"keep": True}
        reward_range = (0, 2)
    env = VectorPreviousActionReward(VectorTrials(inner, 3, options, autoreset_mode), reward_range)
    expected_env = SyncVectorEnv(
        [lambda: PreviousActionReward(Trials(make(), 3, options), reward_range)] * inner.num_envs, autoreset_mode=mode
    )
    assert env.metadata["autoreset_mode"] is mode
    _compare(env.reset(seed=1), expected_env.reset(seed=1), True, "reset")
    env.action_space.seed(0)
    n_ends = 0
    for step in range(60):
        actions = env.action_space.sample()
        result, expected = env.step(actions), expected_env.step(actions)
        _compare(result, expected, True, f"step {step}")
        n_ends += result[2].sum()
        infos = result[4].get("final_info", result[4])
        assert ("oracle_returns" in infos) == (env_name != "maze" and result[2].any())
        if mode is AutoresetMode.DISABLED and result[2].any():
            results = (each.reset(options={"reset_mask": result[2].copy()}) for each in (env, expected_env))
            _compare(*results, True, f"reset after step {step}")
    assert n_ends > 3


@pytest.mark.parametrize("kind", ["native", "sync"])
def test_the_oracle_of_a_lane_remembers_its_own_world(kind):
    task = Harlow(n_trials=2)
    env = SyncVectorEnv([lambda: TaskEnv(task)] * 3) if kind == "sync" else TaskVectorEnv(task, 3)
    env = VectorTrials(env, 3)
    env.reset(seed=0)
    n_trials = np.zeros(3, int)
    for step in range(100):
        *_, infos = env.step(np.zeros(3, int))
        if step in (3, 18):
            # Lane 1 starts a new trial after its first inner episode, and later in the middle of one.
            env.reset(options={"reset_mask": np.array([False, True, False])})
        for lane in np.flatnonzero(infos.get("_oracle_returns", [])):
            n_trials[lane] += 1
            first, *others = infos["oracle_returns"][lane]
            assert first in (0, 2)
            assert others == [2, 2]
            # The memoryless policy plays these actions too.
            np.testing.assert_array_equal(infos["memoryless_returns"][lane], infos["episode_returns"][lane])
    assert (n_trials >= 6).all()


def test_long_trials_are_scored_in_chunks(monkeypatch):
    task, rng = CueReward(n_support=2, n_queries=2), np.random.default_rng(0)
    episodes = [task.sample(rng, 5)]
    episodes.append(task.sample_same_world(rng, episodes[0]))
    expected = trial_returns(task, episodes)
    monkeypatch.setattr(stream, "_ENTRIES_AT_ONCE", 2 * 4 * task.oracle_entries(episodes[0]))
    sizes, oracle = [], task.trial_oracle
    monkeypatch.setattr(task, "trial_oracle", lambda chunks: sizes.append(len(chunks[0])) or oracle(chunks))
    np.testing.assert_array_equal(trial_returns(task, episodes), expected)
    assert sizes == [2, 2, 1]


def without_scores(task):
    return TaskEnv(task, reference_scores=False)


def truncated(task):
    return gymnasium.wrappers.TimeLimit(TaskEnv(task), 3)


class Quiet(Bandit):
    """A task with a world and without an oracle for trials."""

    trial_oracle = Task.trial_oracle


@pytest.mark.parametrize(
    ("make", "task", "options"),
    [
        (without_scores, Bandit(n_trials=2), None),
        (truncated, Bandit(n_trials=2), None),
        (TaskEnv, Bandit(n_trials=2), {}),
        (TaskEnv, Quiet(n_trials=2), None),
    ],
    ids=["no scores", "truncated", "new worlds", "no oracle"],
)
def test_trials_without_the_returns_of_an_oracle(make, task, options):
    env = Trials(make(task), 2, options)
    env.reset(seed=0)
    keys = play(env)[-1][-1].keys()
    assert "episode_returns" in keys
    assert not {"oracle_returns", "memoryless_returns"} & keys
    env = VectorTrials(SyncVectorEnv([lambda: make(task)] * 2), 2, options)
    env.reset(seed=0)
    keys = [env.step(np.zeros(2, int))[-1].keys() for _ in range(8)]
    assert any("episode_returns" in each for each in keys)
    assert not any({"oracle_returns", "memoryless_returns"} & each for each in keys)


@pytest.mark.parametrize("kind", ["single", "vector"])
def test_the_scores_of_one_trial_do_not_count_in_the_next(kind):
    limited = gymnasium.wrappers.TimeLimit(TaskEnv(Bandit(n_trials=2)), 100)
    env = Trials(limited, 2) if kind == "single" else VectorTrials(SyncVectorEnv([lambda: limited]), 2)
    action = 0 if kind == "single" else [0]
    env.reset(seed=0)
    assert "oracle_returns" in [env.step(action) for _ in range(8)][-1][-1]
    limited._max_episode_steps = 3
    env.reset()
    infos = [env.step(action)[-1] for _ in range(6)]
    assert "episode_returns" in infos[-1]
    assert "oracle_returns" not in infos[-1]


def test_a_task_without_an_oracle_for_trials_says_so():
    task = Quiet(n_trials=2)
    with pytest.raises(NotImplementedError, match=r"trial_oracle must be overridden by a task .* got Quiet\(n_arms=5"):
        task.trial_oracle([task.sample(np.random.default_rng(0), 1)])


@pytest.mark.parametrize("kind", [TaskEnv, TaskVectorEnv])
def test_the_episode_exists_between_reset_and_close(kind):
    env = kind(Bandit())
    for end in (lambda: None, env.close):
        end()
        with pytest.raises(RuntimeError, match="episode was read before reset, or after close"):
            env.episode  # noqa: B018
        env.reset(seed=0)
        assert len(env.episode) == 1


def test_native_vector_trials_keep_the_world_of_each_lane():
    env = VectorTrials(TaskVectorEnv(Bandit(n_trials=2), 3, autoreset_mode="Disabled"), 3)

    def play_inner_end():
        """Play until an inner episode ends in a lane; return these lanes and all worlds."""
        while True:
            *_, infos = env.step(np.zeros(3, int))
            if infos["episode_start"].any():
                return infos["episode_start"].tolist(), env.unwrapped._episode.latent["means"].copy()

    env.reset(seed=0)
    env.step(np.zeros(3, int))
    # Lane 1 plays one step behind the others.
    env.reset(options={"reset_mask": [False, True, False]})
    means = env.unwrapped._episode.latent["means"].copy()
    for expected in ([True, False, True], [False, True, False]) * 2:
        ended, worlds = play_inner_end()
        assert ended == expected
        np.testing.assert_array_equal(worlds, means)
    env.reset()
    assert not np.isin(env.unwrapped._episode.latent["means"], means).any()


def test_infos_of_inner_episodes_outlast_resets_that_change_them_in_place():
    env = gymnasium.make_vec("PlasticRNN/Bandit-v0", num_envs=2, n_trials=2, autoreset_mode="Disabled")
    env = VectorTrials(RecordEpisodeStatistics(env), 2, autoreset_mode="SameStep")
    env.reset(seed=0)
    for _ in range(4):
        *_, infos = env.step(np.zeros(2, int))
    assert infos["_episode"].tolist() == [True, True]
    assert infos["episode"]["l"].tolist() == [4, 4]


def test_nan_in_observations_is_not_a_change():
    class Blind(Maze):
        def _observe(self):
            return np.array([self.world, np.nan], np.float32)

    env = VectorTrials(SyncVectorEnv([lambda: Blind((2, 3)), lambda: Blind((4, 5))]), 2, {"keep": True})
    env.reset(seed=0)
    starts = [env.step(np.zeros(2, int))[-1]["episode_start"].tolist() for _ in range(4)]
    assert starts == [[False, False], [True, False], [False, False], [False, True]]


@pytest.mark.parametrize("env", [Trials(TaskEnv(Bandit()), 2), VectorTrials(TaskVectorEnv(Bandit(), 2), 2)])
def test_trials_start_in_new_worlds_only(env):
    env.reset(seed=0, options={"same_world": False})
    with pytest.raises(ValueError, match=r"options\['same_world'\] must be False or left out: a trial .* got True"):
        env.reset(options={"same_world": True})


def test_trials_pass_the_environment_checker():
    env = PreviousActionReward(Trials(TaskEnv(Harlow(n_trials=2)), 2))
    check_env(env, skip_render_check=True)


def test_environments_whose_world_is_unknown_raise():
    with pytest.raises(ValueError, match=r"reset_options must be .* got None for an environment"):
        Trials(Maze(), 2)
    with pytest.raises(ValueError, match=r"reset_options must be .* got None for an environment"):
        VectorTrials(SyncVectorEnv([Maze] * 2), 2)
    with pytest.raises(ValueError, match=r"a task with a world, got FewShotRegression"):
        Trials(TaskEnv(FewShotRegression()), 2)
    with pytest.raises(TypeError, match=r"reset_options must be a dict or None, got 'same_world'"):
        Trials(TaskEnv(Bandit()), 2, "same_world")
    with pytest.raises(ValueError, match="n_episodes must be at least 1, got 0"):
        Trials(TaskEnv(Bandit()), 0)


def test_previous_action_reward_inside_trials_raises():
    task = Bandit()
    with pytest.raises(ValueError, match="must not be wrapped in PreviousActionReward"):
        Trials(PreviousActionReward(TaskEnv(task)), 2)
    with pytest.raises(ValueError, match="must not be wrapped in PreviousActionReward"):
        VectorTrials(SyncVectorEnv([lambda: PreviousActionReward(TaskEnv(task))]), 2)
    with pytest.raises(ValueError, match="must not be wrapped in VectorPreviousActionReward"):
        VectorTrials(VectorPreviousActionReward(TaskVectorEnv(task)), 2)


def test_autoreset_modes_that_lose_the_world_raise():
    with pytest.raises(ValueError, match="env must have the autoreset mode NEXT_STEP or DISABLED, got SAME_STEP"):
        VectorTrials(TaskVectorEnv(Bandit(), autoreset_mode="SameStep"), 2)
    with pytest.raises(ValueError, match=r"autoreset_mode must be that of env, .* got SAME_STEP for an env with NEXT"):
        VectorTrials(TaskVectorEnv(Bandit()), 2, autoreset_mode="SameStep")


def test_vector_environments_that_ignore_the_mask_raise():
    env = VectorTrials(gymnasium.make_vec("CartPole-v1", 2), 2, {})
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"env must reset only the lanes of options\['reset_mask'\]"):
        for step in range(100):
            env.step(np.array([0, step % 2]))


@pytest.mark.parametrize("env", [TaskEnv(CueReward()), TaskVectorEnv(CueReward(), 2)], ids=["single", "vector"])
def test_same_world_needs_a_world_and_a_bool(env):
    with pytest.raises(RuntimeError, match="there is no world yet"):
        env.reset(options={"same_world": True})
    env.reset(seed=0)
    with pytest.raises(TypeError, match=r"options\['same_world'\] must be True or False, got 1"):
        env.reset(options={"same_world": 1})
    env.close()
    with pytest.raises(RuntimeError, match="there is no world yet"):
        env.reset(options={"same_world": True})


@pytest.mark.parametrize("kind", [TaskEnv, TaskVectorEnv])
def test_a_task_without_a_world_refuses_the_option_and_keeps_its_generator(kind):
    env = kind(FewShotRegression())
    env.reset(seed=0)
    generator = env.np_random
    with pytest.raises(
        ValueError, match=r"options\['same_world'\] must be False or left out: FewShotRegression has no world, got True"
    ):
        env.reset(seed=1, options={"same_world": True})
    assert env.np_random is generator
