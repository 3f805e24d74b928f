"""Settings of tiny trials, for tests of sweeps."""

TINY = {
    "training.steps": 4,
    "training.batch_size": 4,
    "training.evaluate_every": 2,
    "training.evaluation_episodes": 4,
    "training.checkpoint_every": 1,
    "network.hidden_size": 8,
    "task.n_cues": 2,
}
