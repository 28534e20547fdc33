"""What is compared: pieces of work, who else can do them, and how far ahead we want to be."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from attnzoo import BigBird, Dims, Kernel, Linear, Linformer, Nystrom, Performer, SlidingWindow, Softmax

HEADS, HEAD_DIM = 8, 64


class Peer(NamedTuple):
    """Another implementation.

    Attributes:
      name: as figures call it.
      package: on the package index, whose version goes into rows.
      factory: function of `jax_peers` or `torch_peers`.
      goal: the ratio of their time to ours that we want, None where there is none.
      tolerance: of outputs and gradients, relative to the largest of them (or to 1).
      note: how their definition differs.
    """

    name: str
    package: str
    factory: str
    goal: float | None = None
    tolerance: float = 1e-4
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Work:
    """Attention by `kernel` over one example, with the projections of a layer around it where `projections` says so.

    Attributes:
      projections: weights beside the attention: 0, 3 (query, key, value) or 4 (and out).
      spread: standard deviation of queries and keys.
    """

    kernel: Kernel
    length: int
    peers: tuple[Peer, ...]
    is_causal: bool = False
    is_train: bool = False
    dtype: str = "float32"
    projections: int = 0
    spread: float = 1.0

    def constants(self):
        """Parameters, and draws; drawn features are those of the first head, for all, as peers have them."""
        params, draws = self.kernel.init(jax.random.key(0), self.dims), self.kernel.draw(jax.random.key(0), self.dims)
        return params, draws[:1] if isinstance(self.kernel, Performer) else draws

    @property
    def dims(self) -> Dims:
        """Sizes of a call."""
        return Dims(1, self.length, self.length, HEADS, HEADS, HEAD_DIM, HEAD_DIM)

    def inputs(self, seed: int) -> list[np.ndarray]:
        """Query, key and value [1, T, N, H], or x [1, T, D] and the weights [D, D] of the projections."""
        rng = np.random.default_rng(seed)
        width = HEADS * HEAD_DIM
        if self.projections:
            x = rng.normal(size=(1, self.length, width))
            return [x, *(rng.normal(size=(width, width)) / width**0.5 for _ in range(self.projections))]
        return [spread * rng.normal(size=(1, self.length, HEADS, HEAD_DIM)) for spread in (self.spread, self.spread, 1)]


def _softmax_peers(jax_nn: float | None, chunked: float | None, sdpa: float | None, tolerance: float = 1e-4):
    return (
        Peer("jax.nn", "jax", "jax_peers.jax_nn", jax_nn, tolerance),
        Peer("tokamax xla_chunked", "tokamax", "jax_peers.tokamax_chunked", chunked, tolerance),
        Peer("torch SDPA", "torch", "torch_peers.sdpa", sdpa, tolerance),
    )


_MORE_SOFTMAX = (
    Peer("tokamax xla", "tokamax", "jax_peers.tokamax_xla"),
    Peer("attnax", "attnax", "jax_peers.attnax"),
    Peer("flash-attention-jax", "flash-attention-jax", "jax_peers.flash_attention_jax"),
    Peer("torch flex, compiled", "torch", "torch_peers.flex"),
)
_FLEX_WINDOW = Peer("torch flex, compiled", "torch", "torch_peers.flex", 1.0)
_LOCAL = Peer("local-attention", "local-attention", "torch_peers.local_attention")
_PERFORMER_FLOOR = "their floor and stabiliser differ, so that outputs are near, not equal"


def _linear_peers(package_note: str, tolerance: float):
    return (
        Peer("performer-pytorch", "performer-pytorch", "torch_peers.performer_pytorch", 2.0, tolerance, package_note),
        Peer("torch, chunked", "torch", "torch_peers.chunked", 2.0, tolerance, package_note),
    )


_LINEAR = _linear_peers("", 1e-3)
_PERFORMER = _linear_peers(_PERFORMER_FLOOR, 0.5)
_NYSTROM_START = "their pseudo-inverse starts from a maximum over all heads"

WORKS = {
    "softmax": Work(Softmax(), 4096, (*_softmax_peers(5.0, 2.2, 0.9), *_MORE_SOFTMAX)),
    "softmax_causal": Work(Softmax(), 4096, _softmax_peers(None, None, 0.9), is_causal=True),
    "softmax_train": Work(Softmax(), 4096, _softmax_peers(5.0, None, 0.8), is_train=True),
    "softmax_bfloat16": Work(Softmax(), 4096, _softmax_peers(None, None, 0.5, 3e-2)[::2], dtype="bfloat16"),
    "window_16k": Work(SlidingWindow(left=256, right=0), 16384, (_FLEX_WINDOW, _LOCAL), is_causal=True),
    "window_64k": Work(SlidingWindow(left=256, right=0), 65536, (_FLEX_WINDOW,), is_causal=True),
    "longformer": Work(
        SlidingWindow(left=256, right=256),
        4096,
        (Peer("transformers Longformer", "transformers", "torch_peers.longformer", 4.0),),
        projections=3,
    ),
    "bigbird": Work(
        BigBird(),
        4096,
        (
            Peer(
                "transformers BigBird",
                "transformers",
                "torch_peers.big_bird",
                8.0,
                note="with our random blocks in place of theirs",
            ),
        ),
        projections=3,
    ),
    "linear_causal": Work(Linear(), 16384, _LINEAR, is_causal=True),
    "linear_causal_train": Work(Linear(), 16384, _LINEAR, is_causal=True, is_train=True),
    "performer_causal": Work(Performer(), 16384, _PERFORMER, is_causal=True, spread=0.5),
    "performer_causal_train": Work(Performer(), 16384, _PERFORMER, is_causal=True, is_train=True, spread=0.5),
    "nystrom": Work(
        Nystrom(landmarks=64),
        4096,
        (Peer("nystrom-attention", "nystrom-attention", "torch_peers.nystrom", 1.5, 0.1, _NYSTROM_START),),
        projections=4,
    ),
    "nystromformer": Work(
        Nystrom(landmarks=64),
        4096,
        (
            Peer(
                "transformers Nystromformer",
                "transformers",
                "torch_peers.nystromformer",
                1.5,
                1e-3,
                "without its convolution",
            ),
        ),
        projections=3,
    ),
    "linformer": Work(
        Linformer(rank=256, share="heads"),
        4096,
        (Peer("linformer", "linformer", "torch_peers.linformer", 1.5),),
        projections=4,
    ),
}
