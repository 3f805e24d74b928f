"""Stable-Baselines3's PPO with an MLP on the observations of the whole episode so far, in one vector."""

import argparse

from plastic_agents import make_sb3_vec_env
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack


def main() -> None:
    """Train and evaluate the policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=500_000, help="steps of all environments together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    # make_sb3_vec_env steps all environments at once; Stable-Baselines3's make_vec_env steps them one by one.
    env = make_sb3_vec_env("PlasticRNN/CueChoice-v0", 32, seed=arguments.seed)
    env = VecFrameStack(env, n_stack=24)  # episodes have 24 steps
    model = PPO(
        "MlpPolicy", env, n_steps=24, batch_size=192, gamma=0.9, ent_coef=0.01, seed=arguments.seed, device="cpu"
    )
    model.learn(arguments.timesteps)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=256)
    print(f"return {mean:.2f} per episode; without memory 0, best possible 2.03")


if __name__ == "__main__":
    main()
