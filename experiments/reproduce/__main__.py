"""`python -m experiments.reproduce`."""

from experiments.bench import command_line
from experiments.reproduce.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.reproduce.run")
