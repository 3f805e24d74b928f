"""The commands of ``plastic-rnn``: a dataclass for each, whose fields are its arguments.

The commands import what they run when they are called: torch takes seconds, and ``plastic-rnn --help`` does not need
it.
"""

from plastic_agents.cli.commands.envs import Envs
from plastic_agents.cli.commands.evaluate import Evaluate
from plastic_agents.cli.commands.list_models import Models
from plastic_agents.cli.commands.play import Play
from plastic_agents.cli.commands.probe import Probe
from plastic_agents.cli.commands.reproduce import Reproduce
from plastic_agents.cli.commands.sweep import Sweep
from plastic_agents.cli.commands.train import Train
from plastic_agents.cli.commands.watch import Watch

COMMANDS = {
    "envs": Envs,
    "models": Models,
    "train": Train,
    "sweep": Sweep,
    "reproduce": Reproduce,
    "evaluate": Evaluate,
    "probe": Probe,
    "watch": Watch,
    "play": Play,
}
