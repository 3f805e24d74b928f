"""TorchRL's PPO with a plastic network instead of an LSTM; its fast weights are in the tensordict."""

from plastic_agents import NetworkConfig, Plasticity
from plastic_agents.integrations.torchrl import RecurrentModule
from torchrl_lstm_ppo import UNITS, main


def make_plastic(size):
    """Make a plastic network from observations of `size` numbers to UNITS features."""
    config = NetworkConfig(rule="hebbian", hidden_size=UNITS, plasticity=Plasticity(max_norm=10.0))
    return RecurrentModule(config.make_core(size, UNITS), in_key="observation", out_key="memory")


if __name__ == "__main__":
    main(make_plastic)
