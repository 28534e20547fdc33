"""`python -m experiments.suites`."""

from experiments.bench import command_line
from experiments.suites.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.suites.run")
