"""Kernels that are an equation alone, whose tokens bring gates: what the contract must carry for plug-ins."""

import dataclasses

import jax

from attnzoo import Kernel, Support
from attnzoo.contract import gates
from attnzoo.engines import dense, replay


@dataclasses.dataclass(frozen=True)
class Replayed(Kernel):
    """The gated delta rule, of keys that are short already: each query replays what it sees, under any mask."""

    supports = Support(
        causal=True, bidirectional=False, key_mask=True, segments=True, mask=True, cross=True, decode=True,
        why="its state is written in the order of time, by keys and values as they are",
    )  # fmt: skip

    def token_inputs(self, dims):
        return {"log_decay": gates.log_decay(), "beta": gates.beta(1)}

    def head(self, params, draws, q, k, v, visible, *, log_decay, beta):
        return replay.read(q, k * jax.lax.rsqrt(1 + (k**2).sum(axis=-1, keepdims=True)), v, visible, log_decay, beta)


@dataclasses.dataclass(frozen=True)
class GatedSoftmax(Kernel):
    """Softmax over values that tokens let through: no recurrence, and so for any place in a model."""

    supports = Support(causal=True, key_mask=True, cross=True, decode=True)

    def token_inputs(self, dims):
        return {"gate": gates.beta(1)}

    def head(self, params, draws, q, k, v, visible, *, gate):
        return dense.attend(dense.scores(q, k), gate[:, None].astype(v.dtype) * v, visible)[0]
