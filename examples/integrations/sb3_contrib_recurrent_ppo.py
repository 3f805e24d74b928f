"""sb3-contrib's RecurrentPPO: an LSTM instead of a history of observations."""

import argparse

from plastic_agents import make_sb3_vec_env
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.evaluation import evaluate_policy


def main() -> None:
    """Train and evaluate the policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=150_000, help="steps of all environments together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    env = make_sb3_vec_env("PlasticRNN/CueChoice-v0", 32, seed=arguments.seed)
    model = RecurrentPPO(
        "MlpLstmPolicy",
        env,
        learning_rate=1e-3,
        n_steps=24,
        batch_size=384,
        gamma=0.9,
        ent_coef=0.01,
        seed=arguments.seed,
        device="cpu",
    )
    model.learn(arguments.timesteps)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=256)
    print(f"return {mean:.2f} per episode; without memory 0, best possible 2.03")


if __name__ == "__main__":
    main()
