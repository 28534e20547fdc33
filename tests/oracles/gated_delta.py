"""A decay for each token before the delta rule: Yang, Kautz and Hatamizadeh 2024, arXiv:2412.06464, eq. 10."""

import numpy as np

from tests.oracles.delta import corrected


def oracle(kernel, one):
    return corrected(one, lambda token: np.exp(one.tokens["log_decay"][token]))
