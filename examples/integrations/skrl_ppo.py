"""skrl's PPO: an MLP on the observations of the whole episode so far, in one vector."""

import argparse

import gymnasium as gym
import torch
from gymnasium.wrappers import FlattenObservation, FrameStackObservation
from skrl.agents.torch.ppo import PPO, PPO_CFG
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from torch import nn

import plastic_envs  # noqa: F401 - registers the environments

STEPS = 24  # the length of an episode


def history(env):
    """Concatenate the observations of the episode so far into one vector."""
    return FlattenObservation(FrameStackObservation(env, STEPS))


class Policy(CategoricalMixin, Model):
    """The distribution of actions."""

    def __init__(self, env):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space)
        CategoricalMixin.__init__(self)
        self.net = nn.Sequential(nn.Linear(self.num_observations, 64), nn.Tanh(), nn.Linear(64, self.num_actions))

    def compute(self, inputs, role):
        """Return logits."""
        return self.net(inputs["observations"]), {}


class Value(DeterministicMixin, Model):
    """The expected return."""

    def __init__(self, env):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space)
        DeterministicMixin.__init__(self)
        self.net = nn.Sequential(nn.Linear(self.num_observations, 64), nn.Tanh(), nn.Linear(64, 1))

    def compute(self, inputs, role):
        """Return values."""
        return self.net(inputs["observations"]), {}


def main():
    """Train and print the mean return."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=5000, help="steps of each of 32 environments")
    timesteps = parser.parse_args().timesteps
    torch.manual_seed(0)
    envs = gym.make_vec(
        "PlasticRNN/CueChoice-v0",
        num_envs=32,
        vectorization_mode="sync",
        wrappers=[history],
        vector_kwargs={"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP},
    )
    env = wrap_env(envs, verbose=False)
    config = PPO_CFG(rollouts=STEPS, learning_epochs=5, mini_batches=4, discount_factor=0.9, entropy_loss_scale=0.01)
    config.experiment.write_interval = config.experiment.checkpoint_interval = 0  # no files
    agent = PPO(
        models={"policy": Policy(env).to(env.device), "value": Value(env).to(env.device)},
        memory=RandomMemory(memory_size=STEPS, num_envs=env.num_envs, device=env.device),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device=env.device,
        cfg=config,
    )
    SequentialTrainer(cfg={"timesteps": timesteps, "headless": True}, env=env, agents=agent).train()
    mean = float(agent.memory.get_tensor_by_name("rewards").sum()) / env.num_envs
    print(f"return {mean:.2f} per episode; without memory 0, best possible 2.02")


if __name__ == "__main__":
    main()
