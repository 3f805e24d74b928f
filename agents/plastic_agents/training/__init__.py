"""Training of agents, by supervision and by reinforcement learning, in resumable runs."""
