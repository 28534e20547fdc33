"""`python -m experiments.conformance`."""

from experiments.bench import command_line
from experiments.conformance.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.conformance.run")
