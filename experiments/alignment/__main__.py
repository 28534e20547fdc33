"""`python -m experiments.alignment`."""

from experiments.alignment.settings import Settings
from experiments.bench import command_line

if __name__ == "__main__":
    command_line.run(Settings, "experiments.alignment.run")
