"""`python -m experiments.compare`: some experiments and a report, each by its own command line."""

from experiments.bench import command_line
from experiments.compare.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.compare.run")
