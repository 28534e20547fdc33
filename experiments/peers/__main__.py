"""`python -m experiments.peers`."""

from experiments.bench import command_line
from experiments.peers.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.peers.run")
