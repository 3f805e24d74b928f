"""TorchRL's PPO with a plastic network in the LSTM's place: its fast weights travel in the tensordict."""

import argparse

from torchrl_lstm_ppo import ENVS, STEPS, UNITS, train

from agents import NetworkConfig, Plasticity
from agents.integrations.torchrl import RecurrentModule


def make_plastic(size):
    """From an observation of `size` numbers to UNITS numbers of memory."""
    config = NetworkConfig(rule="hebbian", hidden_size=UNITS, plasticity=Plasticity(max_norm=10.0))
    return RecurrentModule(config.make(size, UNITS), in_key="observation", out_key="memory")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=200 * ENVS * STEPS, help="steps of all environments together")
    train(make_plastic, parser.parse_args().timesteps)
