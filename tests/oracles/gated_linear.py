"""A state whose channels decay, token after token: Yang et al. 2023, arXiv:2312.06635, eq. 3."""

import numpy as np

from tests.oracles import summed


def oracle(kernel, one):
    return summed(one, lambda token: np.exp(one.tokens["log_decay"][token])[:, None], lambda token: 1.0)
