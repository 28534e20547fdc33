"""`python -m experiments.generate`."""

from experiments.bench import command_line
from experiments.generate.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.generate.run")
