"""`python -m experiments.inspect`."""

from experiments.bench import command_line
from experiments.inspect.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.inspect.run")
