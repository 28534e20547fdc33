"""Kernels that are wrong in one way each, to show that the laws find it."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo import Kernel, Support
from attnzoo.engines import caching, dense
from attnzoo.kernels.based import Based
from attnzoo.kernels.linear import Linear
from attnzoo.kernels.nystrom import Nystrom
from attnzoo.kernels.sliding_window import SlidingWindow

PLAIN = Support(
    causal=True, key_mask=True, segments=True, mask=True, bias=True, scale=True, dropout=True, residual=True, cross=True
)


@dataclasses.dataclass(frozen=True)
class Plain(Kernel):
    """Softmax by its equation alone: right in every way."""

    supports = PLAIN

    def head(self, params, draws, q, k, v, visible, *, bias, scale, dropout):
        return dense.attend(dense.scores(q, k, scale), v, visible, bias, dropout)


@dataclasses.dataclass(frozen=True)
class FutureLeak(Plain):
    """Scores are shifted by their mean over all keys, visible or not."""

    def head(self, params, draws, q, k, v, visible, *, bias, scale, dropout):
        out, lse = super().head(params, draws, q, k, v, visible, bias=bias, scale=scale, dropout=dropout)
        leak = jnp.where(visible.any(axis=1, keepdims=True), 1e-3 * v.astype(jnp.float32).mean(axis=0), 0)
        return out + leak.astype(out.dtype), lse


@dataclasses.dataclass(frozen=True)
class FarFutureLeak(Kernel):
    """Values above 60, visible or not, move every output: no change of an ordinary size shows it."""

    supports = Support(causal=True)

    def head(self, params, draws, q, k, v, visible):
        out = dense.attend(dense.scores(q, k), v, visible)[0]
        return out + jnp.where(jnp.abs(v).max(initial=0) > 60, 1e-3, 0).astype(out.dtype)


@dataclasses.dataclass(frozen=True)
class CountsHiddenKeys(Kernel):
    """A mean that counts what is hidden between keys, though not what is hidden behind the last of them."""

    supports = Support(causal=True, key_mask=True, segments=True)

    def head(self, params, draws, q, k, v, visible):
        out = dense.attend(dense.scores(q, k), v, visible)[0]
        seen, places = visible.sum(axis=1), jnp.arange(visible.shape[1])
        counted = 1 + jnp.where(visible, places, -1).max(axis=1) - jnp.where(visible, places, len(v)).min(axis=1)
        return out * (seen / jnp.maximum(counted, 1))[:, None].astype(out.dtype)


@dataclasses.dataclass(frozen=True)
class Nothing(Kernel):
    """Gives 0, which no leak can touch."""

    supports = Support(causal=True, key_mask=True)

    def head(self, params, draws, q, k, v, visible):
        return 0 * (q @ k.T * visible) @ v


@dataclasses.dataclass(frozen=True)
class SeesEverything(Plain):
    """Reads `visible` nowhere."""

    def head(self, params, draws, q, k, v, visible, *, bias, scale, dropout):
        return dense.attend(dense.scores(q, k, scale), v, jnp.ones_like(visible), bias, dropout)


@dataclasses.dataclass(frozen=True)
class ReadsOtherDocuments(Plain):
    """In causal calls all that came before counts a little, whatever document it is of."""

    supports = dataclasses.replace(PLAIN, positions=True)

    def head(self, params, draws, q, k, v, visible, *, bias, scale, dropout, positions):
        out, lse = super().head(params, draws, q, k, v, visible, bias=bias, scale=scale, dropout=dropout)
        if not positions.is_causal:
            return out, lse
        queries, keys = jnp.arange(len(q))[:, None] + positions.query_offset, jnp.arange(len(k))[None]
        before = (keys <= queries).astype(jnp.float32) @ v.astype(jnp.float32)
        return out + jnp.where(visible.any(axis=1, keepdims=True), 1e-2 * before, 0).astype(out.dtype), lse


@dataclasses.dataclass(frozen=True)
class IgnoredKeyMask(Kernel):
    """Padding hides nothing: the door has made it zero, but it is counted."""

    supports = Support(key_mask=True, scale=True, residual=False)

    def head(self, params, draws, q, k, v, visible, *, scale):
        seen = visible.any(axis=1, keepdims=True)
        return dense.attend(dense.scores(q, k, scale), v, jnp.broadcast_to(seen, visible.shape))[0]


@dataclasses.dataclass(frozen=True)
class BatchMatesMixed(Plain):
    """A maximum over the whole batch, which float arithmetic feels."""

    def batched(self, params, draws, q, k, v, call):
        stabiliser = 1 + 1e-5 * jnp.tanh(jnp.abs(k).max() / 50)
        return super().batched(params, draws, q, k, (v * stabiliser).astype(v.dtype), call)


@dataclasses.dataclass(frozen=True)
class BlindNaN(Kernel):
    """Divides by an empty sum."""

    supports = Support(causal=True, key_mask=True, mask=True, cross=True)

    def head(self, params, draws, q, k, v, visible):
        scores = jnp.where(visible, dense.scores(q, k), -jnp.inf)
        return (jax.nn.softmax(scores, axis=-1) @ v.astype(scores.dtype)).astype(v.dtype)


@dataclasses.dataclass(frozen=True)
class FromALength(Plain):
    """Right in fewer than 400 tokens, and what a subclass does in more."""

    def batched(self, params, draws, q, k, v, call):
        out, lse = super().batched(params, draws, q, k, v, call)
        return (out if q.shape[1] < 400 else self.wrong(out, v)), lse


class LongLeak(FromALength):
    """The next token is seen."""

    wrong = staticmethod(lambda out, v: out + jnp.roll(v, -1, axis=1))


class LongNaN(FromALength):
    """The last example is no numbers."""

    wrong = staticmethod(lambda out, v: out.at[-1].set(jnp.nan))


class LongLaziness(FromALength):
    """Values are handed through."""

    wrong = staticmethod(lambda out, v: v)


@dataclasses.dataclass(frozen=True)
class LeakOfALength(Plain):
    """The next token is seen in sequences of 24 tokens, and in no others."""

    def batched(self, params, draws, q, k, v, call):
        out, lse = super().batched(params, draws, q, k, v, call)
        return (LongLeak.wrong(out, v) if q.shape[1] == 24 else out), lse


@dataclasses.dataclass(frozen=True)
class Peeks(Plain):
    """Some tokens see further keys, as a subclass says."""

    def head(self, params, draws, q, k, v, visible, *, bias, scale, dropout):
        i, j = jnp.arange(visible.shape[0])[:, None], jnp.arange(visible.shape[1])[None]
        visible |= self.sees(i, j, visible.shape[1]) & visible.any(axis=0)  # not what padding hides
        return super().head(params, draws, q, k, v, visible, bias=bias, scale=scale, dropout=dropout)


class PeeksMostly(Peeks):
    """The next token is seen, but at the half and at the end."""

    sees = staticmethod(lambda i, j, n: (j == i + 1) & (i != n // 2 - 2) & (i != n // 2 - 1) & (i != n - 2))


class FirstBlock(Peeks):
    """The first block sees itself both ways."""

    sees = staticmethod(lambda i, j, n: (i < 8) & (j < 8))


class PeeksInThePart(Peeks):
    """The next token is seen in one part of the sequence."""

    sees = staticmethod(lambda i, j, n: (j == i + 1) & (i >= n * 5 // 8) & (i < n * 6 // 8))


@dataclasses.dataclass(frozen=True)
class ThirdExample(Plain):
    """From the third example on, the next token is seen."""

    def batched(self, params, draws, q, k, v, call):
        out, lse = super().batched(params, draws, q, k, v, call)
        is_third = jnp.arange(len(v))[:, None, None, None] >= 2
        return jnp.where(is_third, LongLeak.wrong(out, v), out), lse


@dataclasses.dataclass(frozen=True)
class LeakOfTheLoud(Plain):
    """The next token is seen by queries of a size that no model begins with."""

    def batched(self, params, draws, q, k, v, call):
        out, lse = super().batched(params, draws, q, k, v, call)
        return jnp.where(jnp.abs(q).max(axis=-1, keepdims=True) > 40, LongLeak.wrong(out, v), out), lse


@dataclasses.dataclass(frozen=True)
class ProbedHeads(Plain):
    """Right for two heads at most, and else values are handed through."""

    def batched(self, params, draws, q, k, v, call):
        out, lse = super().batched(params, draws, q, k, v, call)
        return (out if q.shape[2] <= 2 else v), lse


@jax.custom_vjp
def _numb(x):
    return x


_numb.defvjp(lambda x: (x, None), lambda _, gradient: (jnp.zeros_like(gradient),))


@dataclasses.dataclass(frozen=True)
class NumbEquation(Plain):
    """No gradient by keys, in the equation itself."""

    def head(self, params, draws, q, k, v, visible, *, bias, scale, dropout):
        return super().head(params, draws, q, _numb(k), v, visible, bias=bias, scale=scale, dropout=dropout)


@dataclasses.dataclass(frozen=True)
class NumbFarOff(FromALength):
    """No gradient by values."""

    wrong = staticmethod(lambda out, v: jax.lax.stop_gradient(out))


@jax.custom_vjp
def _shown(x, seen):
    return x


_shown.defvjp(lambda x, seen: (x + jnp.roll(x, -1, axis=0), None), lambda _, gradient: (gradient, None))


@dataclasses.dataclass(frozen=True)
class LearnsAhead(Plain):
    """Each value is beside the next one, where it is differentiated."""

    def head(self, params, draws, q, k, v, visible, *, bias, scale, dropout):
        return super().head(params, draws, q, k, _shown(v, None), visible, bias=bias, scale=scale, dropout=dropout)


COUNT = itertools.count()


@dataclasses.dataclass(frozen=True)
class Chance(Plain):
    """No two calls give the same."""

    def batched(self, params, draws, q, k, v, call):
        out, lse = super().batched(params, draws, q, k, v, call)
        drawn = jax.pure_callback(lambda: np.float32(next(COUNT)), jax.ShapeDtypeStruct((), jnp.float32))
        return out + 1e-3 * drawn, lse


@dataclasses.dataclass(frozen=True)
class Retracing(Plain):
    """Equal to its copies, but with a hash that is its own."""

    def __hash__(self):
        return id(self)


@dataclasses.dataclass(frozen=True)
class WrongGradient(Plain):
    """The fast route forgets half the gradient of the keys."""

    def batched(self, params, draws, q, k, v, call):
        k = _half_gradient(k)
        return super().batched(params, draws, q, k, v, call)


@dataclasses.dataclass(frozen=True)
class HeadsOutOfOrder(Plain):
    """Query head n takes key head n % K, not n // (N / K)."""

    def batched(self, params, draws, q, k, v, call):
        groups = q.shape[2] // k.shape[2]
        k, v = (jnp.tile(x, (1, 1, groups, 1)) for x in (k, v))
        return super().batched(params, draws, q, k, v, call)


@dataclasses.dataclass(frozen=True)
class DenseInDisguise(Kernel):
    """A window that visits every tile of keys and hides most of them."""

    supports = Support(key_mask=True, cross=True, work=1.0, memory=1.0)

    def head(self, params, draws, q, k, v, visible):
        return self._window(q, k, v, visible.any(axis=0), jnp.arange(len(q)), visible.any(axis=1))

    def batched(self, params, draws, q, k, v, call):
        from attnzoo.engines import heads

        def one_head(q, k, v, mask):
            tiles = -(-len(q) // 256)
            rows = jnp.arange(tiles * 256).reshape(tiles, 256)
            padded = jnp.pad(q, ((0, tiles * 256 - len(q)), (0, 0))).reshape(tiles, 256, -1)
            keys = jnp.ones(len(k), bool) if mask.keys is None else mask.keys
            step = jax.checkpoint(lambda x: self._window(x[0], k, v, keys, x[1], jnp.ones(256, bool)))
            return jax.lax.map(step, (padded, rows)).reshape(tiles * 256, -1)[: len(q)]

        return heads.over_heads(one_head, q, k, v, (call.mask,))

    def _window(self, q, k, v, keys, rows, seen):
        near = jnp.abs(rows[:, None] - jnp.arange(len(k))[None, :]) <= 8
        return dense.attend(dense.scores(q, k), v, near & keys[None, :] & seen[:, None])[0]


@dataclasses.dataclass(frozen=True)
class ClaimsTooMuch(Plain):
    """Declares biases and does not read them."""

    def head(self, params, draws, q, k, v, visible, *, bias, scale, dropout):
        return super().head(params, draws, q, k, v, visible, bias=None, scale=scale, dropout=dropout)


@dataclasses.dataclass(frozen=True)
class CapsBias(Plain):
    """Caps scores behind their bias, which a cap then bounds, too."""

    supports = dataclasses.replace(PLAIN, soft_cap=True)

    def head(self, params, draws, q, k, v, visible, *, bias, scale, soft_cap, dropout):
        scores = dense.scores(q, k, scale)
        scores = scores if bias is None else jnp.maximum(scores + bias, jnp.finfo(scores.dtype).min)
        return dense.attend(dense.capped(scores, soft_cap), v, visible, None, dropout)


@dataclasses.dataclass(frozen=True)
class RefusesTooMuch(Plain):
    """Declares segments and refuses them."""

    def batched(self, params, draws, q, k, v, call):
        if call.mask.key_segments is not None:
            raise NotImplementedError("RefusesTooMuch cannot honour `query_segment_ids`")
        return super().batched(params, draws, q, k, v, call)


@dataclasses.dataclass(frozen=True)
class PaddingShiftsLandmarks(Nystrom):
    """Segments are cut by the length of the array, not by the tokens in it."""

    def _landmarks(self, x, shown, shards):
        segment = np.arange(len(x)) * self.landmarks // max(len(x), 1)
        member = (segment[None, :] == np.arange(self.landmarks)[:, None]) & shown[None, :]
        tokens = member.sum(axis=1)
        total = jnp.tensordot(member.astype(x.dtype), x, 1)
        return total / jnp.expand_dims(jnp.maximum(tokens, 1), range(1, x.ndim)), tokens > 0


@dataclasses.dataclass(frozen=True)
class DropoutOnOutput(Plain):
    """Drops columns of the output, not weights."""

    def head(self, params, draws, q, k, v, visible, *, bias, scale, dropout):
        out, lse = super().head(params, draws, q, k, v, visible, bias=bias, scale=scale, dropout=None)
        if dropout is not None:
            out = (out * jnp.resize(dropout[:, :1], out.shape)).astype(out.dtype)
        return out, lse


@dataclasses.dataclass(frozen=True)
class OtherDropoutBackward(Plain):
    """The gradients of queries and keys are those without dropout."""

    def batched(self, params, draws, q, k, v, call):
        fast = functools.partial(super().batched, params, draws)
        fixed = jax.lax.stop_gradient
        out, lse = fast(fixed(q), fixed(k), v, call)
        undropped = fast(q, k, fixed(v), dataclasses.replace(call, dropout=None))[0]
        return out + undropped - fixed(undropped), lse


@dataclasses.dataclass(frozen=True)
class WrongCausalGradient(Plain):
    """Forgets half the gradient of the keys, but only where causality alone hides."""

    def batched(self, params, draws, q, k, v, call):
        if call.mask.is_causal and call.mask.keys is None:
            k = _half_gradient(k)
        return super().batched(params, draws, q, k, v, call)


@dataclasses.dataclass(frozen=True)
class RoundsFloat16(Plain):
    """Keeps three bits of a float16 query."""

    def batched(self, params, draws, q, k, v, call):
        if q.dtype == jnp.float16:
            q = q.astype(jnp.float8_e4m3fn).astype(jnp.float16)
        return super().batched(params, draws, q, k, v, call)


@dataclasses.dataclass(frozen=True)
class NarrowValuesFail(Plain):
    """Takes values to be as wide as keys, or wider."""

    def batched(self, params, draws, q, k, v, call):
        _ = v[..., : k.shape[-1]].reshape(k.shape)
        return super().batched(params, draws, q, k, v, call)


@dataclasses.dataclass(frozen=True)
class ForgetsOffset(Plain):
    """Counts every query from the first key on, where the offset is positive."""

    def batched(self, params, draws, q, k, v, call):
        call = call.under(dataclasses.replace(call.mask, query_offset=min(call.mask.query_offset, 0)))
        return super().batched(params, draws, q, k, v, call)


@dataclasses.dataclass(frozen=True)
class ForgetsLaterTiles(Plain):
    """Right as long as the keys fit one tile of 1,024."""

    def batched(self, params, draws, q, k, v, call):
        shown = jnp.arange(k.shape[1])[None, None, :] < 1024
        if k.shape[1] > 1024:
            keys = shown if call.mask.keys is None else call.mask.keys & shown
            call = call.under(dataclasses.replace(call.mask, keys=keys))
        return super().batched(params, draws, q, k, v, call)


@dataclasses.dataclass(frozen=True)
class Stepping(Plain):
    """Softmax by its equation, which also decodes: right in every way."""

    supports = dataclasses.replace(PLAIN, decode=True)


@dataclasses.dataclass(frozen=True)
class Forgetful(Stepping):
    """Its state is a number, and a step hands values through."""

    def start(self, params, draws, dims, max_length, dtype):
        return {"nothing": jnp.zeros((dims.batch, 1), dtype)}

    def step(self, params, draws, cache, q, k, v, positions, call):
        return cache, (v, jnp.zeros(q.shape[:3]))


@dataclasses.dataclass(frozen=True)
class PaddingIsSummed(Linear):
    """Takes every token of a step to be real, in an example that has fewer than its mates, too."""

    def step(self, params, draws, cache, q, k, v, positions, call):
        return super().step(params, draws, cache, q, k, v, jnp.zeros_like(positions), call)


@dataclasses.dataclass(frozen=True)
class NeverAdvances(Stepping):
    """Counts the tokens of each step from 0."""

    def step(self, params, draws, cache, q, k, v, positions, call):
        positions = jnp.where(positions < 0, -1, positions - positions[:, :1])
        return super().step(params, draws, cache, q, k, v, positions, call)


@dataclasses.dataclass(frozen=True)
class RingTooSmall(SlidingWindow):
    """Its ring has one slot fewer than the window reaches back."""

    def start(self, params, draws, dims, max_length, dtype):
        return caching.empty(dims, min(self.left - 1, max_length), dtype)


@dataclasses.dataclass(frozen=True)
class ForgetsTheStep(Linear):
    """A recurrence that returns the sums it was given."""

    def step(self, params, draws, cache, q, k, v, positions, call):
        return cache, super().step(params, draws, cache, q, k, v, positions, call)[1]


@dataclasses.dataclass(frozen=True)
class WrongPowers(Based):
    """Takes the square of a score to weigh as much as it does."""

    def rule(self, params, draws, scale):
        rule = super().rule(params, draws, scale)
        scale_of = lambda width: width**-0.5 if scale is None else scale
        return rule._replace(powers=lambda width: (1.0, scale_of(width), scale_of(width) ** 2))


@dataclasses.dataclass(frozen=True)
class ClaimsToStep(Kernel):
    """Declares decoding, but takes query i to stand at key i."""

    supports = Support(causal=True, decode=True)

    def head(self, params, draws, q, k, v, visible):
        return dense.attend(dense.scores(q, k), v, jnp.tri(len(q), len(k), dtype=bool) & visible)[0]


def _half_gradient(x):
    return 0.5 * x + jax.lax.stop_gradient(0.5 * x)
