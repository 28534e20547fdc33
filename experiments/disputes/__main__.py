"""`python -m experiments.disputes`."""

from experiments.bench import command_line
from experiments.disputes.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.disputes.run")
