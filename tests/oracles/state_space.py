"""A scalar transition and a step for each token: Dao and Gu 2024, arXiv:2405.21060."""

import numpy as np

from tests.oracles import summed


def oracle(kernel, one):
    return summed(one, lambda token: np.exp(one.tokens["log_decay"][token]), lambda token: one.tokens["beta"][token])
