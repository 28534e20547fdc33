"""The sweep, asked as a question."""

from experiments.train.sweep.run import EXPERIMENT as EXPERIMENT
from experiments.train.sweep.run import run as run
