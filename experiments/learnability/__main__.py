"""`python -m experiments.learnability`."""

from experiments.bench import command_line
from experiments.learnability.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.learnability.run")
