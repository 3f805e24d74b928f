"""The recorder of the curves of other libraries' scripts."""

import gymnasium as gym
import numpy as np
import pytest

from plastic_envs import TaskEnv, TaskVectorEnv


@pytest.fixture(scope="module")
def libraries(benchmark_script):
    return benchmark_script("libraries")


@pytest.fixture
def recorder(libraries, monkeypatch):
    """Return a recorder that watches the classes for the time of a test."""
    for environment_class in (TaskEnv, TaskVectorEnv):
        for name in ("step", "reset"):
            monkeypatch.setattr(environment_class, name, getattr(environment_class, name))
    recorder = libraries.Recorder()
    for environment_class in (TaskEnv, TaskVectorEnv):
        recorder.watch(environment_class)
    return recorder


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_returns_of_a_vector_environment_are_those_of_gymnasium(recorder, mode):
    env = gym.make_vec("PlasticRNN/CueChoice-v0", num_envs=3, autoreset_mode=mode)
    env = gym.wrappers.vector.RecordEpisodeStatistics(env)
    env.reset(seed=0)
    env.action_space.seed(0)
    expected = []
    for _ in range(60):
        _, _, terminated, _, infos = env.step(env.action_space.sample())
        if "episode" in infos:
            expected += infos["episode"]["r"][infos["_episode"]].tolist()
        if mode == "Disabled" and terminated.any():
            env.reset(options={"reset_mask": terminated})
    assert len(expected) == 6
    np.testing.assert_allclose(recorder.returns, expected, rtol=1e-6)
    assert recorder.steps == 180
    assert recorder.ends[:3] == [72, 72, 72]


def test_returns_of_a_single_environment_start_at_its_reset(recorder):
    env = gym.make("PlasticRNN/CueChoice-v0")
    env.reset(seed=0)
    for _ in range(5):  # an episode that is cut off
        env.step(0)
    env.reset(seed=0)
    rewards = [env.step(0)[1] for _ in range(24)]
    assert recorder.returns == [pytest.approx(sum(rewards))]


def test_curve_has_the_mean_of_each_part_and_stops_with_training(libraries):
    recorder = libraries.Recorder()
    recorder.ends, recorder.returns = [1, 10, 11, 20, 30], [1.0, 3.0, 4.0, 6.0, 100.0]
    assert recorder.curve(20, points=2) == {"steps": [10, 20], "returns": [2.0, 5.0]}


def test_runs_are_those_of_scripts(libraries):
    for run in libraries.RUNS.values():
        assert (libraries.SCRIPTS / f"{run.script}.py").exists()
