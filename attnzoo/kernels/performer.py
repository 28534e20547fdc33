"""FAVOR+: random features whose expected product is the softmax kernel.

    y_i = sum_j w_ij v_j / sum_j w_ij,    w_ij = phi(q_i) . psi_i(k_j)
    phi(q)   = m^-1/2 [exp(W q' - |q'|^2 / 2 - max_W) + floor],          q' = sqrt(scale) q
    psi_i(k) = m^-1/2 [exp(W k' - |k'|^2 / 2 - M_i) + floor],            k' = sqrt(scale) k

over the keys j that query i may see; W has m = `features` rows, in orthogonal blocks with the norms of Gaussian
rows. Cost O((T + S) m H), state m (Hv + 1) for each head. Choromanski et al. 2021, arXiv:2009.14794, eq. 5-7 and
appendix B. The stabiliser M_i is the largest exponent among the keys that query i sees, not among all keys, as in
the authors' code: with that, a later key would move earlier outputs through the floor.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from attnzoo.contract import fields, randomness
from attnzoo.engines import dense, recurrence, state
from attnzoo.engines.state import Channels, Write
from attnzoo.recurrent import SUMMED, Recurrent

FLOOR = 1e-4


@dataclasses.dataclass(frozen=True)
class Performer(Recurrent):
    """FAVOR+: softmax approximated by `features` positive random features, drawn from `seed`.

    Attributes:
      features: m, drawn for each head.
      orthogonal: whether they come in orthogonal blocks of H, and not independently.
      seed: what `draw` starts from unless a call has draws of its own.

    Raises:
      ValueError: a field has the wrong type, or a number is too small.

    Example:
      >>> q = k = v = jnp.ones((1, 4, 2, 8))
      >>> kernel = Performer(features=8)
      >>> bool(jnp.allclose(attend(q, k, v, kernel=kernel), v))  # a mean of equal values, whatever was drawn
      True
      >>> kernel.state_bytes(Dims.of(q, k, v))  # 4 N ((features + 1) (Hv + 1) + 1)
      656.0
    """

    features: int = 256
    orthogonal: bool = True
    seed: int = 0

    supports = dataclasses.replace(SUMMED, scale=True)

    def __post_init__(self):
        fields.positive_integer(self, "features")
        fields.truth_value(self, "orthogonal")
        fields.natural_number(self, "seed")

    def draw(self, rng, dims):
        """The projection W of each head: [N, features, H]."""
        draw = _orthogonal if self.orthogonal else _normal
        rngs = jax.random.split(randomness.threefry(rng), dims.num_heads)
        return jax.vmap(lambda rng: draw(rng, (self.features, dims.head_dim)))(rngs)

    def head(self, params, draws, q, k, v, visible, *, scale):
        precise = jnp.promote_types(q.dtype, jnp.float32)
        q, k = q.astype(precise), k.astype(precise)
        (phi, floor), (psi, b) = self._query(draws, scale, q), self._key(draws, scale, k)
        top = jnp.max(jnp.where(visible, b, state.LOWEST), axis=1, keepdims=True, initial=state.LOWEST)
        weights = phi @ psi.T * jnp.exp(jnp.where(visible, b[None] - top, state.LOWEST)) + floor[:, None]
        weights = jnp.where(visible, weights, 0)
        total = weights.sum(axis=1, keepdims=True)
        return (weights @ v.astype(precise) / jnp.where(total == 0, 1, total)).astype(v.dtype)

    def rule(self, params, draws, scale):
        """Features in the channels of a state that knows their largest exponent, and one channel for the floor."""

        def read(q, at):
            phi, floor = self._query(draws, scale, q)
            return phi, floor[:, None]

        def write(k, v, at):
            psi, b = self._key(draws, scale, k)
            return Write(state.counted(v), (Channels(psi, log_gain=b), Channels(jnp.ones_like(psi[:, :1]))))

        return recurrence.Rule(read, write, state.normalised)

    def _query(self, projection, scale, q):
        """phi [t, m] and what the floor of a key weighs [t], of queries [t, H]; phi has m^-1/2 of both features."""
        scale = dense.scale_of(scale, q)
        a = _exponents(projection, q * jnp.where(scale < 0, -1, 1) * _root(jnp.abs(scale)))
        phi = (jnp.exp(a - a.max(axis=-1, keepdims=True)) + FLOOR) / self.features
        return phi, FLOOR * phi.sum(axis=-1)

    def _key(self, projection, scale, k):
        """psi [s, m] and b [s] of keys [s, H]: of psi, e^b is taken out, so that it lies within (0, 1]."""
        a = _exponents(projection, k * _root(jnp.abs(dense.scale_of(scale, k))))
        b = a.max(axis=-1)
        return jnp.exp(a - b[:, None]), b


def _exponents(projection, x):
    """W x - |x|^2 / 2: [t, m]."""
    return x @ projection.astype(x.dtype).T - jnp.sum(x**2, axis=-1, keepdims=True) / 2


def _root(x):
    """Its square root, whose slope at 0 is taken for 0 where it is infinite: features are even there but for chance."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def _normal(rng, shape):
    """Float32 whatever the default is, so that a seed stands for the same features everywhere."""
    return jax.random.normal(rng, shape, jnp.float32)


def _orthogonal(rng, shape):
    """Rows in orthogonal blocks, each with the norm of a Gaussian row of its own."""
    features, head_dim = shape
    direction_rng, norm_rng = jax.random.split(rng)
    blocks = -(-features // head_dim)
    q, r = jnp.linalg.qr(_normal(direction_rng, (blocks, head_dim, head_dim)))
    # The factorisation fixes signs by its own rule; with those of the diagonal, directions are uniform.
    q *= jnp.sign(jnp.diagonal(r, axis1=1, axis2=2))[:, None, :]
    directions = jnp.swapaxes(q, 1, 2).reshape(-1, head_dim)[:features]
    norms = jnp.linalg.norm(_normal(norm_rng, shape), axis=1, keepdims=True)
    return directions * norms
