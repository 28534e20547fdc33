"""`python -m experiments.scaling`."""

from experiments.bench import command_line
from experiments.scaling.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.scaling.run")
