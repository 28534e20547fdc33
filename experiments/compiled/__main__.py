"""`python -m experiments.compiled`."""

from experiments.bench import command_line
from experiments.compiled.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.compiled.run")
