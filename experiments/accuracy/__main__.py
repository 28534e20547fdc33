"""`python -m experiments.accuracy`."""

from experiments.bench import command_line
from experiments.train.sweep.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.accuracy.run")
