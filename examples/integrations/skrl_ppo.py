"""skrl's recurrent PPO: a policy and a critic with a GRU each, on the native vector environment."""

import argparse

import gymnasium as gym
from skrl.agents.torch.ppo import PPO_CFG, PPO_RNN
from skrl.envs.wrappers.torch import wrap_env
from skrl.memories.torch import RandomMemory
from skrl.models.torch import CategoricalMixin, DeterministicMixin, Model
from skrl.trainers.torch import SequentialTrainer
from skrl.utils import set_seed
from torch import nn

import plastic_envs  # noqa: F401 - registers the environments

ENVS, STEPS, UNITS = 32, 24, 64  # episodes have 24 steps


class Recurrent(Model):
    """A GRU with a linear layer on top."""

    def __init__(self, env, outputs):
        Model.__init__(self, observation_space=env.observation_space, action_space=env.action_space)
        self.gru = nn.GRU(self.num_observations, UNITS, batch_first=True)
        self.head = nn.Linear(UNITS, outputs)

    def get_specification(self):
        """Tell skrl the length of the sequences, and the shape of the state: layers, environments, units."""
        return {"rnn": {"sequence_length": STEPS, "sizes": [(1, ENVS, UNITS)]}}

    def compute(self, inputs, role):
        """Return the outputs of the linear layer, and the next state."""
        x, (state,) = inputs["observations"], inputs["rnn"]
        if "terminated" in inputs:  # skrl trains on whole rollouts, in this task episodes, with a state for each step
            x, state = x.unflatten(0, (-1, STEPS)), state[:, ::STEPS].contiguous()
        else:
            x = x[:, None]
        features, state = self.gru(x, state)
        return self.head(features.flatten(0, 1)), {"rnn": [state]}


class Policy(CategoricalMixin, Recurrent):
    """The distribution of actions."""

    def __init__(self, env):
        Recurrent.__init__(self, env, env.action_space.n)
        CategoricalMixin.__init__(self)


class Value(DeterministicMixin, Recurrent):
    """The expected return."""

    def __init__(self, env):
        Recurrent.__init__(self, env, 1)
        DeterministicMixin.__init__(self)


class Agent(PPO_RNN):
    """PPO that keeps the mean return of each rollout."""

    def init(self, **arguments):
        """Prepare for training."""
        super().init(**arguments)
        self.returns = []

    def update(self, **arguments):
        """Train on a rollout."""
        self.returns.append(float(self.memory.get_tensor_by_name("rewards").sum()) / ENVS)
        super().update(**arguments)


def main():
    """Train and print the mean return of the last 20 rollouts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=4800, help="steps of each of 32 environments")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    set_seed(arguments.seed)  # of the environments, too
    envs = gym.make_vec("PlasticRNN/CueChoice-v0", num_envs=ENVS, autoreset_mode="SameStep")
    env = wrap_env(envs, verbose=False)
    config = PPO_CFG(
        rollouts=STEPS,
        learning_rate=1e-3,
        learning_epochs=10,
        mini_batches=2,
        discount_factor=0.9,
        entropy_loss_scale=0.01,
    )
    config.experiment.write_interval = config.experiment.checkpoint_interval = 0  # no files
    agent = Agent(
        models={"policy": Policy(env).to(env.device), "value": Value(env).to(env.device)},
        memory=RandomMemory(memory_size=STEPS, num_envs=ENVS, device=env.device),
        observation_space=env.observation_space,
        action_space=env.action_space,
        device=env.device,
        cfg=config,
    )
    SequentialTrainer(cfg={"timesteps": arguments.timesteps, "headless": True}, env=env, agents=agent).train()
    recent = agent.returns[-20:]
    print(f"return {sum(recent) / len(recent):.2f} per episode; without memory 0, best possible 2.03")


if __name__ == "__main__":
    main()
