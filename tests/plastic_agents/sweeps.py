"""Settings of tiny trials and an engine that runs them, for tests of sweeps."""

import sys
from types import SimpleNamespace

from plastic_agents import seeding

TINY = {
    "training.steps": 4,
    "training.batch_size": 4,
    "training.evaluate_every": 2,
    "training.evaluation_episodes": 4,
    "training.checkpoint_every": 1,
    "network.hidden_size": 8,
    "task.n_cues": 2,
}


class Engine:
    """Runs trials one after the other in this process; records their names and the streams that they use."""

    def __init__(self, monkeypatch):
        self.names, self.streams, self.stop_at, self.fail_at = [], [], None, None
        monkeypatch.setitem(sys.modules, "plastic_agents.sweep.ray_tune", SimpleNamespace(run_trials=self.run))

        def record(stream, seed, key, sequence=seeding._sequence):
            self.streams.append(stream)
            return sequence(stream, seed, key)

        monkeypatch.setattr(seeding, "_sequence", record)

    def fails(self, name):
        return name == self.fail_at

    def run(self, train, names, *, on_failure, scratch, options):
        for name in names:
            if name == self.stop_at:
                raise KeyboardInterrupt
            self.names.append(name)
            if self.fails(name):
                on_failure(name, "OSError: the disk is full")
            else:
                train(name, lambda evaluation: None)
