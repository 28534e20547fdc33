"""`python -m experiments.decoding`."""

from experiments.bench import command_line
from experiments.decoding.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.decoding.run")
