"""TorchRL's PPO with an LSTM, on the native vector environment."""

import argparse
from collections import deque

import gymnasium as gym
import torch
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictSequential
from tensordict.nn import TensorDictModule as Module
from torch.distributions import Categorical
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper, InitTracker, TransformedEnv
from torchrl.modules import LSTMModule, set_recurrent_mode
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import plastic_envs  # noqa: F401 - registers the environments

ENVS, STEPS, UNITS = 32, 24, 64  # episodes have 24 steps


def make_lstm(size):
    """Make an LSTM from observations of `size` numbers to UNITS features."""
    return LSTMModule(size, UNITS, in_keys=["observation", "h", "c"], out_keys=["memory", ("next", "h"), ("next", "c")])


def train(make_core, timesteps, seed=0, **task):
    """Train on CueChoice with the arguments `task`; yield the mean return of each iteration's episodes."""
    torch.manual_seed(seed)
    vector = gym.make_vec("PlasticRNN/CueChoice-v0", num_envs=ENVS, autoreset_mode="Disabled", **task)
    env = TransformedEnv(GymWrapper(vector, categorical_action_encoding=True), InitTracker())
    core = make_core(env.observation_spec["observation"].shape[-1])
    env.append_transform(core.make_tensordict_primer())
    actor = ProbabilisticTensorDictSequential(
        core,
        Module(torch.nn.Linear(UNITS, int(vector.single_action_space.n)), ["memory"], ["logits"]),
        ProbabilisticTensorDictModule(["logits"], ["action"], distribution_class=Categorical, return_log_prob=True),
    )
    critic = TensorDictSequential(core, Module(torch.nn.Linear(UNITS, 1), ["memory"], ["state_value"]))
    loss = ClipPPOLoss(actor, critic, entropy_coeff=0.01, normalize_advantage=True)
    advantage = GAE(gamma=0.9, lmbda=0.95, value_network=critic, shifted=True)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)

    collector = Collector(env, actor, frames_per_batch=ENVS * STEPS, total_frames=timesteps)
    for data in collector:
        for _ in range(10):
            with set_recurrent_mode(True):
                with torch.no_grad():
                    advantage(data)
                losses = loss(data)
            optimizer.zero_grad()
            sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
            torch.nn.utils.clip_grad_norm_(loss.parameters(), 0.5)
            optimizer.step()
        yield float(data["next", "reward"].sum() / data["next", "done"].sum())
    collector.shutdown()


def main(make_core):
    """Train and print the mean returns."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--timesteps", type=int, default=200 * ENVS * STEPS, help="steps of all environments together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    recent = deque(maxlen=20)
    for iteration, mean in enumerate(train(make_core, arguments.timesteps, arguments.seed)):
        recent.append(mean)
        if iteration % 20 == 0:
            print(f"iteration {iteration}: return {mean:.2f} per episode")
    print(f"return {sum(recent) / len(recent):.2f} per episode; without memory 0, best possible 2.03")


if __name__ == "__main__":
    main(make_lstm)
