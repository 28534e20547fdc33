"""`python -m experiments.choose`."""

from experiments.bench import command_line
from experiments.choose.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.choose.run")
