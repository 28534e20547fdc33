"""`python -m experiments.tiles`."""

from experiments.bench import command_line
from experiments.tiles.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.tiles.run")
