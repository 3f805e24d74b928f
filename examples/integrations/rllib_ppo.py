"""RLlib's PPO (new API stack) with its own LSTM, or with a plastic network instead."""

import argparse
from collections import deque

import ray
from plastic_agents import NetworkConfig, Plasticity
from plastic_agents.integrations.rllib import RecurrentRLModule
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

ENVS, STEPS = 32, 24  # episodes have 24 steps
MODULES = {
    "lstm": RLModuleSpec(model_config=DefaultModelConfig(use_lstm=True, lstm_cell_size=64, max_seq_len=STEPS)),
    "hebbian": RLModuleSpec(
        module_class=RecurrentRLModule,
        model_config={
            "network": NetworkConfig(rule="hebbian", hidden_size=64, plasticity=Plasticity(max_norm=10.0)),
            "max_seq_len": STEPS,
        },
    ),
}


def train(module, iterations, seed=0, **task):
    """Train on CueChoice with the arguments `task`; yield the mean return of each iteration's episodes."""
    ray.init("local", include_dashboard=False)  # "local": do not join a cluster that already runs
    algorithm = (
        PPOConfig()
        # The prefix imports plastic_envs, which registers the id in the runners' processes.
        .environment("plastic_envs:PlasticRNN/CueChoice-v0", env_config=task)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=ENVS, rollout_fragment_length=STEPS)
        .rl_module(rl_module_spec=module)
        .training(
            lr=1e-3, gamma=0.9, entropy_coeff=0.01, train_batch_size=ENVS * STEPS, minibatch_size=384, num_epochs=5
        )
        .debugging(seed=ENVS * seed)  # the environments have this seed and the next ones
        .build_algo()
    )
    for _ in range(iterations):
        yield algorithm.train()["env_runners"]["episode_return_mean"]
    algorithm.stop()
    ray.shutdown()


def main() -> None:
    """Train and print the mean returns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", choices=MODULES, default="lstm", help="the recurrent network")
    parser.add_argument("--iterations", type=int, default=100, help="training iterations of 768 steps each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recent = deque(maxlen=20)
    for iteration, mean in enumerate(train(MODULES[arguments.module], arguments.iterations, arguments.seed)):
        recent.append(mean)
        print(f"iteration {iteration}: return {mean:.2f} per episode")
    print(f"return {sum(recent) / len(recent):.2f} per episode; without memory 0, best possible 2.03")


if __name__ == "__main__":
    main()
