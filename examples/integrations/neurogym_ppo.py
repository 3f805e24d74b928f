"""NeuroGym: a vanilla RNN, an LSTM or a plastic RNN learns a perceptual decision by reinforcement.

NeuroGym 2.3 pins older versions of Gymnasium and NumPy, but runs with current ones:

    pip install --no-deps neurogym && pip install loguru natsort pydantic-settings scipy tomlkit
"""

import argparse

import gymnasium as gym
import neurogym
import numpy as np
from plastic_agents import NetworkConfig, RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

CORES = {
    "rnn": NetworkConfig("none", "rnn", hidden_size=64),
    "gru": NetworkConfig("none", "gru", hidden_size=64),
    "lstm": NetworkConfig("none", "lstm", hidden_size=64),
    "hebbian": NetworkConfig("hebbian", "tanh_rnn", hidden_size=64),
}
STEPS = 128  # of an episode: NeuroGym's trials follow each other without end


def make_env(task: str) -> gym.Env:
    """Make an environment of NeuroGym with steps of 100 ms, whose episodes are cut after some trials."""
    return Monitor(gym.wrappers.TimeLimit(neurogym.make(task, dt=100), STEPS))


def performance(model: RecurrentPPO, env: VecEnv, steps: int = 1000) -> float:
    """Return the share of correct decisions in new trials."""
    observation, state, starts = env.reset(), None, None
    correct = []
    for _ in range(steps):
        actions, state = model.predict(observation, state, episode_start=starts, deterministic=True)
        observation, _, starts, infos = env.step(actions)
        correct += [info["performance"] for info in infos if info.get("new_trial")]
    return float(np.mean(correct))


def main() -> None:
    """Train and evaluate the policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="PerceptualDecisionMaking-v0", help="id of NeuroGym")
    parser.add_argument("--core", choices=CORES, default="rnn", help="recurrent core")
    parser.add_argument("--timesteps", type=int, default=100_000, help="steps of all environments together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    env = make_vec_env(lambda: make_env(arguments.task), n_envs=16, seed=arguments.seed)
    model = RecurrentPPO(
        "RecurrentPolicy",
        env,
        learning_rate=3e-3,
        n_steps=STEPS,
        gamma=0.9,
        ent_coef=0.01,
        policy_kwargs={"network": CORES[arguments.core]},
        seed=arguments.seed,
    )
    print(f"before: {performance(model, env):.2f} of the decisions are correct")
    model.learn(arguments.timesteps)
    print(f"after {arguments.timesteps} steps: {performance(model, env):.2f}")


if __name__ == "__main__":
    main()
