"""`python -m experiments.claims`."""

from experiments.bench import command_line
from experiments.claims.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.claims.run")
