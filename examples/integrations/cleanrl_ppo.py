"""PPO with an LSTM in one file, in the manner of CleanRL, on the native vector environment.

The recurrent state is kept at the start of a rollout only; minibatches are made of environments, whose steps stay
together. Changes to a CleanRL script of your own: `make_vec` with `autoreset_mode="SameStep"`, and the scores of
episodes read from `infos["final_info"]`.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import plastic_envs  # noqa: F401 - registers the environments

ENVS, STEPS, EPOCHS, MINIBATCHES, HIDDEN = 32, 24, 5, 4, 64
GAMMA, LAMBDA, CLIP, ENTROPY = 0.9, 0.95, 0.2, 0.01


class Agent(nn.Module):
    """An LSTM with an actor and a critic on top."""

    def __init__(self, inputs, actions, hidden=HIDDEN):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden)
        self.actor, self.critic = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def forward(self, xs, starts, state):
        """From xs [T, B, I], starts [T, B] and the state before: distribution, values [T, B], the state after."""
        memory = []
        for x, start in zip(xs, starts, strict=True):
            y, state = self.lstm(x[None], tuple((1 - start)[None, :, None] * part for part in state))
            memory.append(y)
        memory = torch.cat(memory)
        return Categorical(logits=self.actor(memory)), self.critic(memory).squeeze(-1), state


def main():
    """Train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=200 * ENVS * STEPS, help="steps of all environments together")
    iterations = parser.parse_args().timesteps // (ENVS * STEPS)
    torch.manual_seed(0)
    envs = gym.make_vec("PlasticRNN/CueChoice-v0", num_envs=ENVS, autoreset_mode="SameStep")
    size = envs.single_observation_space.shape[0]
    agent = Agent(size, envs.single_action_space.n)
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3, eps=1e-5)
    xs, starts = torch.zeros(STEPS, ENVS, size), torch.zeros(STEPS + 1, ENVS)
    actions = torch.zeros(STEPS, ENVS, dtype=torch.long)
    log_probs, values, rewards = (torch.zeros(STEPS, ENVS) for _ in range(3))
    state = (torch.zeros(1, ENVS, HIDDEN), torch.zeros(1, ENVS, HIDDEN))
    observation, _ = envs.reset(seed=0)
    over, scores = np.ones(ENVS), []

    for iteration in range(iterations):
        first = state
        for t in range(STEPS):
            xs[t], starts[t] = torch.as_tensor(observation), torch.as_tensor(over)
            with torch.no_grad():
                policy, value, state = agent(xs[t : t + 1], starts[t : t + 1], state)
                actions[t], values[t] = policy.sample()[0], value[0]
                log_probs[t] = policy.log_prob(actions[t : t + 1])[0]
            observation, reward, terminated, truncated, infos = envs.step(actions[t].numpy())
            rewards[t], over = torch.as_tensor(reward), terminated | truncated
            if "final_info" in infos:
                scores.extend(infos["final_info"]["score"][infos["final_info"]["_score"]])

        starts[STEPS] = torch.as_tensor(over)
        with torch.no_grad():
            _, value, _ = agent(torch.as_tensor(observation)[None], starts[STEPS:], state)
        advantages, advantage, following = torch.zeros_like(rewards), torch.zeros(ENVS), value[0]
        for t in reversed(range(STEPS)):
            goes_on = 1 - starts[t + 1]
            advantage = rewards[t] + GAMMA * following * goes_on - values[t] + GAMMA * LAMBDA * goes_on * advantage
            advantages[t], following = advantage, values[t]
        targets = advantages + values

        for _ in range(EPOCHS):
            for lanes in torch.randperm(ENVS).chunk(MINIBATCHES):
                policy, value, _ = agent(xs[:, lanes], starts[:STEPS, lanes], tuple(part[:, lanes] for part in first))
                ratio = (policy.log_prob(actions[:, lanes]) - log_probs[:, lanes]).exp()
                scaled = advantages[:, lanes]
                scaled = (scaled - scaled.mean()) / (scaled.std() + 1e-8)
                gain = torch.min(scaled * ratio, scaled * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
                error = (value - targets[:, lanes]).square().mean()
                loss = 0.5 * error - gain - ENTROPY * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        if iteration % 50 == 0 or iteration + 1 == iterations:
            print(f"iteration {iteration}: score {np.mean(scores[-10 * ENVS :]):.2f}; without memory 0, at best 0.17")


if __name__ == "__main__":
    main()
