"""What the rule of a recurrence says of itself is true."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from attnzoo.contract.sizes import Dims
from attnzoo.recurrent import Recurrent
from attnzoo.testing.subject import Subject


def powers_are_those_of_features(subject: Subject) -> None:
    """Where a rule knows what q . k weighs, that is what features of queries and keys give."""
    operands, kernel = subject.operands(batch=1), subject.kernel
    if not isinstance(kernel, Recurrent):
        return
    width = operands.q.shape[3]
    constants = subject.params(operands), kernel.draw(jax.random.key(2), Dims.of(*operands))
    params, draws = jax.tree.map(lambda x: x[0], constants)
    for scale in (None, 0.7) if subject.supports.scale else (None,):
        rule = kernel.rule(params, draws, scale)
        if rule.powers is None:
            continue
        (q, k, v), at = (jnp.asarray(x[0, :, 0]) for x in operands), jnp.arange(operands.q.shape[1])
        channels = rule.write(k, v, at).channels
        made = sum(x @ y.key.T for x, y in zip(rule.read(q, at), channels, strict=True))
        expected = sum(factor * (q @ k.T) ** power for power, factor in enumerate(rule.powers(width)))
        subject.same(made, jnp.asarray(expected), "products of features, beside powers of q . k,", 1e-5)
