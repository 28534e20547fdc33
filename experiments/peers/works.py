"""What is compared: pieces of work, who else can do them, and how far ahead we want to be."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from attnzoo import (
    Based,
    BigBird,
    CosFormer,
    Delta,
    Dims,
    Forgetting,
    GatedDelta,
    GatedLinear,
    Kernel,
    KimiDelta,
    Linear,
    Linformer,
    LogLinear,
    Nystrom,
    Performer,
    Retention,
    SlidingWindow,
    Softmax,
    StateSpace,
    TokenInput,
)
from experiments.peers import patterns

HEADS, HEAD_DIM = 8, 64


class Peer(NamedTuple):
    """Another implementation.

    Attributes:
      name: as figures call it.
      package: on the package index, whose version goes into rows.
      factory: function of `jax_peers`, or of a module of PyTorch's.
      goal: the ratio of their time to ours that we want, None where there is none.
      tolerance: of outputs and gradients, relative to the largest of them (or to 1).
      note: how their definition differs.
      is_compiled: whether `torch.compile` is given it first.
    """

    name: str
    package: str
    factory: str
    goal: float | None = None
    tolerance: float = 1e-4
    note: str = ""
    is_compiled: bool = False


@dataclasses.dataclass(frozen=True)
class Work:
    """Attention by `kernel` over one example, with the projections of a layer around it where `projections` says so.

    Attributes:
      projections: weights beside the attention: 0, 3 (query, key, value) or 4 (and out).
      spread: standard deviation of queries and keys.
      pattern: by name, a mask or a score as a function of two positions (`patterns.py`).
      key_dim: of queries and keys.
    """

    kernel: Kernel
    length: int
    peers: tuple[Peer, ...]
    is_causal: bool = False
    is_train: bool = False
    dtype: str = "float32"
    projections: int = 0
    spread: float = 1.0
    pattern: str = ""
    key_dim: int = HEAD_DIM

    def constants(self):
        """Parameters, and draws; drawn features are those of the first head, for all, as peers have them."""
        params, draws = self.kernel.init(jax.random.key(0), self.dims), self.kernel.draw(jax.random.key(0), self.dims)
        return params, draws[:1] if isinstance(self.kernel, Performer) else draws

    @property
    def dims(self) -> Dims:
        """Sizes of a call."""
        return Dims(1, self.length, self.length, HEADS, HEADS, self.key_dim, HEAD_DIM)

    def inputs(self, seed: int) -> list[np.ndarray]:
        """Query, key, value [1, T, N, H], what tokens bring; or x [1, T, D] and the weights [D, D] of projections."""
        rng = np.random.default_rng(seed)
        width = HEADS * HEAD_DIM
        if self.projections:
            x = rng.normal(size=(1, self.length, width))
            return [x, *(rng.normal(size=(width, width)) / width**0.5 for _ in range(self.projections))]
        sizes = (self.spread, self.key_dim), (self.spread, self.key_dim), (1, HEAD_DIM)
        operands = [spread * rng.normal(size=(1, self.length, HEADS, width)) for spread, width in sizes]
        return operands + [self._brought(one, rng) for one in self.kernel.token_inputs(self.dims).values()]

    def _brought(self, one: TokenInput, rng: np.random.Generator) -> np.ndarray:
        """As layers make it at first, of normal projections: normal numbers alone would forget in a few tokens."""
        bias = one.bias_init or jax.nn.initializers.zeros
        start = bias(jax.random.key(0), (HEADS, *one.shape))
        return np.asarray(one.activation(start + rng.normal(size=(1, self.length, HEADS, *one.shape))))


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
_FLEX = (Peer("torch flex, compiled", "torch", "torch_peers.flex", 1.0),)


def _fla(factory: str, note: str = "", tolerance: float = 1e-3):
    """One of fla's references, as it is."""
    return Peer("fla reference", "fla-core", f"state_peers.{factory}", None, tolerance, note)


def _chunked(name: str, package: str, factory: str, note: str = ""):
    """A chunked form in PyTorch, as it is, and compiled."""
    given = (package, f"state_peers.{factory}")
    return (
        Peer(name, *given, None, 1e-3, note),
        Peer(f"{name}, compiled", *given, 1.0, 1e-3, note, is_compiled=True),
    )


_QWEN = _chunked("transformers Qwen3-Next", "transformers", "gated_delta")
_DELTA_RULE = _chunked("torch, chunked", "torch", "delta_rule_in_chunks")
_BY_BLOCK = _chunked("torch, chunked", "torch", "delta_rule_in_chunks", "it divides by what blocks of 16 forget")
_PLAIN_QWEN = _chunked("transformers Qwen3-Next", "transformers", "delta_of_gated", "with decays of 0")
_DECAYS = "their decays are of each token, too, here"
# Each with its length, and the peers forward; with gradients those without a loop over tokens and without all pairs.
_STATES: dict[str, tuple[Kernel, int, tuple[Peer, ...], tuple[Peer, ...]]] = {
    "retention": (
        Retention(),
        4096,
        (),
        _chunked("transformers Mamba-2", "transformers", "retention_of_mamba", "as a state space whose steps are 1")
        + _chunked("fla, chunked", "fla-core", "retention_of_gla", "as gates that are no token's")[:1],
    ),
    "gated_linear": (
        GatedLinear(),
        4096,
        (_fla("gated_linear"),),
        _chunked("torch, chunked", "torch", "gated_linear_in_chunks", "it divides by what was forgotten"),
    ),
    "state_space": (
        StateSpace(),
        4096,
        (),
        _chunked("transformers Mamba-2", "transformers", "state_space", _DECAYS)
        + _chunked("fla, chunked", "fla-core", "simple_gla")[:1],
    ),
    # Compiled, loops over chunks take minutes before they run: those with gradients are of 1,024 tokens.
    "delta": (
        Delta(),
        4096,
        (_fla("delta"), _fla("delta_in_chunks")._replace(name="fla, chunked"), _PLAIN_QWEN[1], _DELTA_RULE[1]),
        _PLAIN_QWEN[:1] + _DELTA_RULE[:1],
    ),
    "gated_delta": (
        GatedDelta(),
        4096,
        (_fla("gated_delta_by_token"), _DELTA_RULE[1]),
        _QWEN[:1] + _DELTA_RULE[:1],
    ),
    "delta_1k": (Delta(), 1024, (), _DELTA_RULE),
    "gated_delta_1k": (GatedDelta(), 1024, (), _QWEN + _DELTA_RULE),
    "kimi_delta_1k": (KimiDelta(), 1024, (), _BY_BLOCK),
    "kimi_delta": (
        KimiDelta(),
        2048,
        (_fla("kimi_by_token"), _BY_BLOCK[1]),
        _chunked("transformers Kimi Linear", "transformers", "kimi")[:1] + _BY_BLOCK[:1],
    ),
    "log_linear": (LogLinear(levels=12), 2048, (), (_fla("log_linear"),)),
    "forgetting": (
        Forgetting(),
        4096,
        (Peer("torch flex, compiled", "torch", "state_peers.forgetting_of_flex", 1.0, 1e-3),),
        (_fla("forgetting"),),
    ),
    "based": (
        Based(),
        4096,
        (_fla("based_of_pairs"),),
        _chunked("fla, chunked", "fla-core", "based_in_chunks", "theirs adds 1e-6 to the sum of weights"),
    ),
    "cosformer": (CosFormer(max_length=4096), 4096, (), _chunked("torch, chunked", "torch", "cosformer")),
}
_KEY_DIMS = {"based": 16}  # as in their paper


def _state_works() -> dict[str, Work]:
    works = {}
    for name, (kernel, length, forward, chunked) in _STATES.items():
        asked = {"is_causal": True, "key_dim": _KEY_DIMS.get(name, HEAD_DIM)}
        works[name] = Work(kernel, length, forward + chunked, **asked)
        works[f"{name}_train"] = Work(kernel, length, chunked, is_train=True, **asked)
    return works


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
WORKS |= {
    f"{pattern}_{length // 1024}k": Work(Softmax(), length, _FLEX, pattern=pattern)
    for pattern in patterns.PATTERNS
    for length in (2048, 8192)
}
WORKS |= _state_works()
