"""Tianshou's PPO: an MLP on the observations of the whole episode so far, in one vector.

Tianshou's PPO trains on single steps in random order and without their recurrent states, so Tianshou's `Recurrent`
network cannot learn to remember. A network that observes the history can.
"""

import argparse

import gymnasium as gym
from gymnasium.wrappers import FlattenObservation, FrameStackObservation
from tianshou.algorithm import PPO
from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import DummyVectorEnv
from tianshou.trainer import OnPolicyTrainerParams
from tianshou.utils.net.common import Net
from tianshou.utils.net.discrete import DiscreteActor, DiscreteCritic
from torch import manual_seed
from torch.distributions import Categorical

ENVS, STEPS = 32, 24  # episodes have 24 steps


class WithoutInfo(gym.Wrapper):
    """Remove infos: Tianshou refuses NaN, which the normalised score of a single episode can be."""

    def step(self, action):
        """Step without info."""
        return *self.env.step(action)[:4], {}


def make_env():
    """Make an environment whose observation is the episode so far as one vector."""
    env = WithoutInfo(gym.make("plastic_envs:PlasticRNN/CueChoice-v0"))
    return FlattenObservation(FrameStackObservation(env, STEPS, padding_type="zero"))


def main():
    """Train and evaluate the policy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=500_000, help="steps of all environments together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    manual_seed(arguments.seed)
    env = make_env()
    observations, actions = env.observation_space.shape, env.action_space
    # DummyVectorEnv steps single environments in turn; SubprocVectorEnv steps them in processes.
    envs = DummyVectorEnv([make_env] * ENVS)
    # From a single number, neighbouring seeds would give almost the same environments.
    envs.seed([arguments.seed * ENVS + i for i in range(ENVS)])

    actor = DiscreteActor(
        preprocess_net=Net(state_shape=observations, hidden_sizes=[64, 64]),
        action_shape=actions.n,
        softmax_output=False,
    )
    critic = DiscreteCritic(preprocess_net=Net(state_shape=observations, hidden_sizes=[64, 64]))
    policy = ProbabilisticActorPolicy(
        actor=actor,
        dist_fn=lambda logits: Categorical(logits=logits),
        deterministic_eval=True,
        action_space=actions,
        action_scaling=False,
    )
    algorithm = PPO(
        policy=policy, critic=critic, optim=AdamOptimizerFactory(lr=3e-4), gamma=0.9, ent_coef=0.01, max_grad_norm=0.5
    )
    collector = Collector(algorithm, envs, VectorReplayBuffer(ENVS * STEPS, ENVS))
    algorithm.run_training(
        OnPolicyTrainerParams(
            training_collector=collector,
            max_epochs=1,
            epoch_num_steps=arguments.timesteps,
            collection_step_num_env_steps=ENVS * STEPS,
            update_step_num_repetitions=10,
            batch_size=192,
        )
    )
    result = Collector(algorithm, envs).collect(n_episode=256, reset_before_collect=True)
    print(f"return {result.returns_stat.mean:.2f} per episode; without memory 0, best possible 2.03")


if __name__ == "__main__":
    main()
