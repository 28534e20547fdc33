"""`python -m experiments.approximation`."""

from experiments.approximation.settings import Settings
from experiments.bench import command_line

if __name__ == "__main__":
    command_line.run(Settings, "experiments.approximation.run")
