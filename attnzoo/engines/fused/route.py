"""The fused route of `streaming.part`: which calls it takes, and what surrounds the kernels of a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract import varying
from attnzoo.contract.bias import PositionBias
from attnzoo.contract.call import Call
from attnzoo.contract.mask import Mask
from attnzoo.engines.fused import choice
from attnzoo.engines.fused.device import Device
from attnzoo.engines.fused.operands import Cutting, Operands, Pulled, cut, join
from attnzoo.engines.fused.pairs import Lists
from attnzoo.engines.fused.terms import ProductScore, Terms
from attnzoo.engines.fused.way import Asked, Tiles
from attnzoo.engines.runs import Runs
from attnzoo.engines.schedule import Layout


def taken(asked: Asked, score: Callable, q: jax.Array, k: jax.Array, v: jax.Array, call: Call) -> ProductScore:
    """The score of a call of `streaming.part` that a kernel takes.

    Raises:
      NotImplementedError: none does; all reasons are listed.
    """
    asked.is_met = True
    reasons = _declined(q, call)
    if not isinstance(score, ProductScore):
        raise asked.declined([*reasons, "its scores are no products of queries and keys"])
    reasons += choice.reasons_everywhere(lambda device: device.declined(q, k, v))
    if reasons:
        raise asked.declined(reasons)
    return score


def _declined(q: jax.Array, call: Call) -> list[str]:
    """Why no device takes the call."""
    mask, bias = call.mask, None if call.bias is None else call.bias.given
    given = {
        "a dense mask": mask.dense is not None,
        "a score_mod": isinstance(bias, PositionBias) and bias.depends_on_score,
        "a bias of positions": isinstance(bias, PositionBias) and not bias.depends_on_score,
        "a bias by queries": bias is not None and not isinstance(bias, PositionBias) and bias.shape[2] > 1,
        "dropout": call.dropout is not None,
        "a mask_mod that closes over arrays": any(mod.closed_over for mod in mask.mods),
        "global tokens by name": any(
            band.global_tokens and band.global_tokens.which is not None for band in mask.bands
        ),
    }
    reasons = [f"{name} came, which it is not given here" for name, is_there in given.items() if is_there]
    if q.dtype == jnp.float64:
        reasons.append("float64: it sums in float32")
    return reasons


# The logarithm of the sum of a query that sees nothing, of which nobody asks but its gradient: no sum has it, since the
# largest term is 1.
BLIND = -1.0


class Averages(NamedTuple):
    """Those of runs of keys [B, S, K, H], [B, runs, K, H] in float32 at least.

    Attributes:
      runs: which these are.
      found: what finds them, where the kernel that reads keys cannot.
    """

    runs: Runs
    found: Callable[[jax.Array], jax.Array]


class Pass:
    """As `streaming.Pass`, which tells of arguments, by kernels of devices.

    With `averages` these are found, too: by the kernel that reads keys anyway, where it can.
    """

    def __init__(
        self, score: ProductScore, layout_of: Callable[..., Layout], asked: Asked, averages: Averages | None = None
    ):
        self.score, self.layout_of, self.asked, self.averages = score, layout_of, asked, averages

    def found(self, operands, learned, fixed):
        """out [B, T, N, Hv], and by row [B, N, T] the largest score and the logarithm of the sum; averages, too."""
        q, k, v = operands
        batch, length, num_heads, _ = q.shape
        of_row = jax.ShapeDtypeStruct((batch, num_heads, length), jnp.float32)
        into: tuple = jax.ShapeDtypeStruct((batch, length, num_heads, v.shape[3]), v.dtype), (of_row, of_row)
        if self.averages is not None:
            into = *into, jax.eval_shape(self.averages.found, k)
        return self._by_platform(self._found, 0, into, operands, learned, fixed)

    def gradients(self, operands, learned, fixed, out, rows, d_out, d_log_total, d_averages=None):
        """Those of operands and of what is learned."""
        given = learned, fixed, out, rows, d_out, d_log_total, d_averages
        return self._by_platform(self._gradients, 1, (operands, learned), operands, *given)

    def _by_platform(self, function: Callable, half: int, like: Any, operands, learned, fixed, *rest):
        mask, _, drawn = fixed

        def declined(device: Device) -> list[str]:
            reasons = device.declined(*operands)
            if reasons or device.crowded is None:
                return reasons
            return device.crowded(self._lists(device.tiles[half], mask, drawn))

        return choice.by_platform(self.asked, declined, function, like, operands, learned, fixed, *rest)

    def _lists(self, tiles: Tiles, mask: Mask, drawn: Any) -> Lists:
        """Shapes of lists, of which what is known beforehand is there."""
        known: list[Lists] = []

        def shapes(mask, drawn):
            known.append(Cutting.of(self.layout_of, mask, drawn, tiles).lists)
            return known[0]

        traced = jax.eval_shape(shapes, mask, drawn)
        return jax.tree.map(lambda x, shape: x if isinstance(x, np.ndarray) else shape, known[0], traced)

    def _found(self, device: Device, operands, learned, fixed):
        terms, cutting, given = self._given(device, 0, operands, learned, fixed)
        found = device.forward(given, cutting.lists)
        length = operands[0].shape[1]
        by_row = lambda x, fill: join(x, cutting.rows, length, fill, axis=2)
        top, log_total = by_row(found.top, -jnp.inf), by_row(found.log_total, 0)
        log_total = jnp.where(top == -jnp.inf, BLIND, log_total)
        top = top if terms.of_query is None else top + terms.of_query
        out = join(found.out, cutting.rows, length), (top, log_total)
        if self.averages is None:
            return out
        return *out, self.averages.found(operands[1]) if found.averages is None else found.averages

    def _gradients(self, device: Device, operands, learned, fixed, out, rows, d_out, d_log_total, d_averages):
        q, k, _ = operands
        terms, cutting, given = self._given(device, 1, operands, learned, fixed)
        pulled = _pulled(cutting, terms, out, rows, d_out, d_log_total, device.unit(*operands))
        is_own = given.averages is not None
        grads = device.backward(given, cutting.lists, pulled._replace(averages=d_averages if is_own else None))
        d_q = join(grads.q, cutting.rows, q.shape[1])
        d_k, d_v = (join(x, cutting.columns, k.shape[1]) for x in (grads.k, grads.v))
        if self.averages is not None and not is_own:
            d_k = _added(d_k, jax.vjp(self.averages.found, k)[1](d_averages)[0])
        d_terms = Terms(
            jnp.einsum("btnh,btnh->bn", q, d_q, preferred_element_type=jnp.float32) / terms.scale,
            None if grads.soft_cap is None else grads.soft_cap.sum(axis=2),
            None if terms.of_query is None else jnp.where(rows[1] == BLIND, 0, d_log_total),
            None if grads.of_key is None else join(grads.of_key, cutting.columns, k.shape[1], axis=2),
        )
        _, pull = jax.vjp(self._terms, learned, q, k)
        d_learned, from_q, from_k = pull(jax.tree.map(_summed, d_terms, terms))
        if terms.of_query is not None or terms.of_key is not None:
            d_q, d_k = _added(d_q, from_q), _added(d_k, from_k)
        return (d_q, d_k, d_v), d_learned

    def _given(self, device: Device, half: int, operands, learned, fixed) -> tuple[Terms, Cutting, Operands]:
        (q, k, v), (mask, _, drawn) = operands, fixed
        terms, cutting = self._terms(learned, q, k), Cutting.of(self.layout_of, mask, drawn, device.tiles[half])
        given = cutting.operands(q, k, v, terms, mask, device.unit(*operands))
        if self.averages is not None and device.averages is not None:
            runs = self.averages.runs
            given = given._replace(averages=runs if device.averages(given, cutting.lists, runs) else None)
        return terms, cutting, given

    def _terms(self, learned, q, k) -> Terms:
        """Those of the scores; a bias by keys is one of them."""
        params, bias = learned
        terms = varying.as_of(self.score.terms(params, q, k), q)
        if bias is None:
            return terms
        of_key = jnp.broadcast_to(bias.given[:, :, 0], (*bias.given.shape[:2], k.shape[1]))
        return terms._replace(of_key=of_key if terms.of_key is None else terms.of_key + of_key)


def _pulled(cutting: Cutting, terms: Terms, out, rows, d_out, d_log_total, unit: int) -> Pulled:
    """What is known of outputs and their gradients, in the order of tiles."""
    top, log_total = rows
    top = top if terms.of_query is None else top - terms.of_query
    shift = d_log_total - jnp.einsum("btnh,btnh->bnt", d_out, out, preferred_element_type=jnp.float32)
    wide = lambda x: cut(x, cutting.rows, unit=unit)
    row = lambda x: cut(x, cutting.rows, axis=2)
    return Pulled(wide(d_out), row(top), row(log_total), row(shift), wide(out), row(d_log_total))


def _summed(x: jax.Array, like: jax.Array) -> jax.Array:
    """The gradient of what is shared by all examples or heads."""
    shared = tuple(axis for axis in (0, 1) if like.shape[axis] == 1 < x.shape[axis])
    return x.sum(axis=shared, keepdims=True).astype(like.dtype)


def _added(x: jax.Array, more: jax.Array) -> jax.Array:
    return (x.astype(jnp.float32) + more.astype(jnp.float32)).astype(x.dtype)
