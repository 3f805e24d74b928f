"""PPO with an LSTM in one file, in the style of CleanRL, on the native vector environment.

The script stores the recurrent state only at the start of a rollout. Minibatches consist of whole environments, so the
steps of each sequence stay in order. To adapt a CleanRL script of your own, call `make_vec` with
`autoreset_mode="SameStep"` and read the scores of episodes from `infos["final_info"]`.
"""

import argparse

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Categorical

import plastic_envs  # noqa: F401 - registers the environments

ENVS, STEPS, EPOCHS, MINIBATCHES, HIDDEN = 32, 24, 5, 4, 64
GAMMA, LAMBDA, CLIP = 0.9, 0.95, 0.2
# At the start; both fall to zero. Without a bonus for entropy, the policy stops exploring before it can remember.
LEARNING_RATE, ENTROPY = 2e-3, 0.05


class Agent(nn.Module):
    """An LSTM with an actor and a critic on top."""

    def __init__(self, inputs, actions, hidden=HIDDEN):
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden)
        self.actor, self.critic = nn.Linear(hidden, actions), nn.Linear(hidden, 1)

    def forward(self, xs, starts, state):
        """Return the action distribution, values [T, B] and the next state, for xs [T, B, I] and starts [T, B]."""
        outputs = []
        for x, start in zip(xs, starts, strict=True):
            y, state = self.lstm(x[None], tuple((1 - start)[None, :, None] * tensor for tensor in state))
            outputs.append(y)
        hidden = torch.cat(outputs)
        return Categorical(logits=self.actor(hidden)), self.critic(hidden).squeeze(-1), state


def main():
    """Train and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--timesteps", type=int, default=200 * ENVS * STEPS, help="steps of all environments together")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    iterations = arguments.timesteps // (ENVS * STEPS)
    torch.manual_seed(arguments.seed)
    envs = gym.make_vec("PlasticRNN/CueChoice-v0", num_envs=ENVS, autoreset_mode="SameStep")
    size = envs.single_observation_space.shape[0]
    agent = Agent(size, envs.single_action_space.n)
    optimizer = torch.optim.Adam(agent.parameters(), lr=LEARNING_RATE, eps=1e-5)
    xs, starts = torch.zeros(STEPS, ENVS, size), torch.zeros(STEPS + 1, ENVS)
    actions = torch.zeros(STEPS, ENVS, dtype=torch.long)
    log_probs, values, rewards = (torch.zeros(STEPS, ENVS) for _ in range(3))
    state = (torch.zeros(1, ENVS, HIDDEN), torch.zeros(1, ENVS, HIDDEN))
    observation, _ = envs.reset(seed=arguments.seed)
    done, scores = np.ones(ENVS), []

    for iteration in range(iterations):
        remaining = 1 - iteration / iterations
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * remaining
        initial_state = state
        for t in range(STEPS):
            xs[t], starts[t] = torch.as_tensor(observation), torch.as_tensor(done)
            with torch.no_grad():
                policy, value, state = agent(xs[t : t + 1], starts[t : t + 1], state)
                actions[t], values[t] = policy.sample()[0], value[0]
                log_probs[t] = policy.log_prob(actions[t : t + 1])[0]
            observation, reward, terminated, truncated, infos = envs.step(actions[t].numpy())
            rewards[t], done = torch.as_tensor(reward), terminated | truncated
            if "final_info" in infos:
                scores.extend(infos["final_info"]["score"][infos["final_info"]["_score"]])

        starts[STEPS] = torch.as_tensor(done)
        with torch.no_grad():
            _, value, _ = agent(torch.as_tensor(observation)[None], starts[STEPS:], state)
        advantages, advantage, next_value = torch.zeros_like(rewards), torch.zeros(ENVS), value[0]
        for t in reversed(range(STEPS)):
            nonterminal = 1 - starts[t + 1]
            delta = rewards[t] + GAMMA * next_value * nonterminal - values[t]
            advantage = delta + GAMMA * LAMBDA * nonterminal * advantage
            advantages[t], next_value = advantage, values[t]
        targets = advantages + values

        for _ in range(EPOCHS):
            for indices in torch.randperm(ENVS).chunk(MINIBATCHES):
                state_before = tuple(tensor[:, indices] for tensor in initial_state)
                policy, value, _ = agent(xs[:, indices], starts[:STEPS, indices], state_before)
                ratio = (policy.log_prob(actions[:, indices]) - log_probs[:, indices]).exp()
                scaled = advantages[:, indices]
                scaled = (scaled - scaled.mean()) / (scaled.std() + 1e-8)
                gain = torch.min(scaled * ratio, scaled * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
                error = (value - targets[:, indices]).square().mean()
                loss = 0.5 * error - gain - ENTROPY * remaining * policy.entropy().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        if iteration % 50 == 0 or iteration + 1 == iterations:
            score = np.mean(scores[-10 * ENVS :])
            print(f"iteration {iteration}: score {score:.2f}; without memory 0, best possible 0.17")


if __name__ == "__main__":
    main()
