"""Define, check and register your own task: remember the first of several symbols."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import plastic_envs
from plastic_envs.testing import check_task, check_vector_env


class RepeatFirst(plastic_envs.Task):
    """Remember the first of several symbols."""

    def __init__(self, *, symbols: int = 4, distractors: int = 5) -> None:
        self.symbols, self.distractors = symbols, distractors
        self.episode_length = distractors + 2
        self.query_start = distractors + 1
        self.channels = (("symbol", symbols), ("query", 1))
        self.observation_space = spaces.Box(0, 1, (symbols + 1,), np.float32)
        self.action_space = spaces.Discrete(symbols)

    def sample_stimuli(self, rng, batch_size):
        """Draw the distractors, which twins share."""
        return {"distractors": rng.integers(self.symbols, size=(batch_size, self.distractors))}

    def sample_memoranda(self, rng, batch_size):
        """Draw the first symbol, which differs between twins."""
        return {"first": rng.integers(self.symbols, size=(batch_size, 1))}

    def compose(self, stimuli, memoranda):
        """Make episodes from the draws: observations, targets, and which steps are scored."""
        symbols = np.concatenate([memoranda["first"], stimuli["distractors"]], axis=1)
        observation = np.zeros((len(symbols), self.episode_length, self.symbols + 1), np.float32)
        observation[:, :-1, :-1] = np.eye(self.symbols)[symbols]
        observation[:, -1, -1] = 1
        scored = np.broadcast_to(np.arange(self.episode_length) == self.query_start, observation.shape[:2])
        return plastic_envs.EpisodeBatch(observation, np.where(scored, memoranda["first"], 0), scored)

    def oracle(self, episode):
        """Return the best actions with memory."""
        return np.where(episode.scored, episode.observation[:, :1, :-1].argmax(axis=-1), 0)

    def memoryless(self, episode):
        """Return the best actions without memory."""
        return np.zeros_like(episode.target)


plastic_envs.register("Mine/RepeatFirst-v0", RepeatFirst)

if __name__ == "__main__":
    check_task(RepeatFirst())
    check_vector_env(RepeatFirst())
    env = gym.make("Mine/RepeatFirst-v0", distractors=3, render_mode="ansi")
    env.reset(seed=0)
    for action in (0, 0, 0, 0, 2):
        *_, info = env.step(action)
    print(env.render())
    print(f"score {info['score']:.2f}, oracle {info['oracle_score']:.2f}, memoryless {info['memoryless_score']:.2f}")
