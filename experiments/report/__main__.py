"""`python -m experiments.report FOLDER --out=FILE`."""

from experiments.bench import command_line
from experiments.report.settings import Settings

if __name__ == "__main__":
    command_line.run(Settings, "experiments.report.run", positional="FOLDER")
