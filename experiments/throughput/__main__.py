"""`python -m experiments.throughput`."""

from experiments.bench import command_line
from experiments.throughput.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.throughput.run")
