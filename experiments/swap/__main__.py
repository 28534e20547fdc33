"""`python -m experiments.swap`."""

from experiments.bench import command_line
from experiments.swap.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.swap.run")
