"""Published models as what their blocks are, one after another: kernels, and fields of `BlockConfig`.

A preset says what makes a model that model. Sizes, heads and key heads, positions and embeddings are the caller's, as
are fields that it does not name; where the caller has chosen another value for one that it names, that is refused.

Linear layers have biases here, of the published models those of Longformer and gpt-oss. What else differs is told of
each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from attnzoo import catalogue
from attnzoo.catalogue.parsing import Catalogue
from attnzoo.contract import fields
from attnzoo.kernel import Kernel
from attnzoo.kernels import KERNELS, Delta, GatedDelta, GatedLinear, SlidingWindow, Softmax, StateSpace
from attnzoo.models.blocks import BlockConfig

LLAMA: Mapping[str, Any] = MappingProxyType({"norm_kind": "rms", "activation": "swiglu"})
SHORT: Mapping[str, Any] = MappingProxyType({"conv_width": 4, "qkv_activation": "silu"})
GATED: Mapping[str, Any] = MappingProxyType({"normalize_out": True, "gate": "silu"})


class Slot(NamedTuple):
    """A block: its kernel, and fields of its config."""

    kernel: Kernel
    fields: Mapping[str, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class Preset:
    """A model whose blocks take turns. A preset of one's own says `turns`.

    Example:
      >>> from flax import nnx
      >>> from attnzoo.models import BlockConfig, LanguageModel
      >>> from attnzoo.models.presets import Hybrid
      >>> preset, config = Hybrid(ratio=1), BlockConfig(width=16, num_heads=2)
      >>> given = {"config": preset.configs(config, 2), "attention": preset.attention(2)}
      >>> model = LanguageModel(50, **given, num_layers=2, max_length=16, rngs=nnx.Rngs(0))
      >>> [type(block.attention.attention_kernel).__name__ for block in model.stack.blocks]
      ['GatedDelta', 'Softmax']
    """

    def turns(self) -> Sequence[Slot]:
        """The first blocks, until they come again."""
        raise NotImplementedError(f"{type(self).__name__} does not say its turns")

    def slots(self, num_layers: int) -> list[Slot]:
        """All blocks.

        Raises:
          ValueError: there are too few for all turns to come.
        """
        turns = self.turns()
        if num_layers < len(turns):
            raise ValueError(
                f"{self!r} in {num_layers} blocks: expected at least {len(turns)}, in which all turns come"
            )
        return [turns[place % len(turns)] for place in range(num_layers)]

    def attention(self, num_layers: int) -> list[Kernel]:
        """The kernels of all blocks."""
        return [slot.kernel for slot in self.slots(num_layers)]

    def configs(self, config: BlockConfig, num_layers: int) -> list[BlockConfig]:
        """Those of all blocks, which are `config` but for what the preset says.

        Raises:
          ValueError: `config` has a value of its own where the preset has another.
        """
        return [self._applied(config, slot.fields) for slot in self.slots(num_layers)]

    def _applied(self, config: BlockConfig, own: Mapping[str, Any]) -> BlockConfig:
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        for name, value in own.items():
            given = getattr(config, name)
            if given not in (value, defaults[name]):
                raise ValueError(f"{name}={given!r} beside {self!r}, in which it is {value!r}: leave it out")
        return dataclasses.replace(config, **own)


@dataclasses.dataclass(frozen=True)
class Turns(Preset):
    """Kernels that take turns, as text, in blocks that are alike.

    Attributes:
      kernels: such as "sliding_window(left=127, right=0), softmax".
    """

    kernels: str = "sliding_window(left=127, right=0), softmax"

    def __post_init__(self):
        fields.text(self, "kernels")
        catalogue.parse(self.kernels)

    def turns(self):
        return [Slot(kernel) for kernel in catalogue.parse(self.kernels)]


@dataclasses.dataclass(frozen=True)
class GLA(Preset):
    """Gated linear attention: normalised and gated outputs, RMSNorm, SwiGLU, and no convolution (Yang et al. 2023,
    arXiv:2312.06635).

    There keys have half the width of values, and decays are projected through 16 numbers; here both have the width of
    values, and decays a whole projection.
    """

    def turns(self):
        return [Slot(GatedLinear(), {**LLAMA, **GATED})]


@dataclasses.dataclass(frozen=True)
class Mamba2(Preset):
    """State spaces behind short convolutions and SiLU, with normalised and gated outputs (Dao and Gu 2024,
    arXiv:2405.21060).

    There the gate comes before the norm, which is of all heads at once, values go past the state, too, by a factor of
    each head, all heads share keys and queries, whose width is apart from that of values, no block has a feed-forward
    network, and each is twice as wide inside; here it stands in the place of attention.
    """

    def turns(self):
        return [Slot(StateSpace(), {"norm_kind": "rms", **SHORT, **GATED})]


@dataclasses.dataclass(frozen=True)
class DeltaNet(Preset):
    """The delta rule behind short convolutions and SiLU, with normalised outputs, RMSNorm and SwiGLU (Yang et al. 2024,
    arXiv:2406.06484).

    Attributes:
      max_beta: 1, or 2 for negative eigenvalues (Grazzi et al. 2024, arXiv:2411.12537).
    """

    max_beta: int = 1

    def __post_init__(self):
        Delta(self.max_beta)

    def turns(self):
        return [Slot(Delta(self.max_beta), {**LLAMA, **SHORT, "normalize_out": True})]


def _gated_delta() -> Slot:
    return Slot(GatedDelta(), {**LLAMA, **SHORT, **GATED})


@dataclasses.dataclass(frozen=True)
class GatedDeltaNet(Preset):
    """The gated delta rule behind short convolutions and SiLU, with normalised and gated outputs, RMSNorm and SwiGLU
    (Yang, Kautz and Hatamizadeh 2024, arXiv:2412.06464). There values are twice as wide as keys.
    """

    def turns(self):
        return [_gated_delta()]


@dataclasses.dataclass(frozen=True)
class Hybrid(Preset):
    """`ratio` blocks of the gated delta rule, then one of exact attention, whose queries and keys are normalised and
    whose outputs are gated, as in Qwen3-Next (Qwen team 2025).

    There rotary positions are of exact attention alone, and turn a quarter of each head; the gated delta rule has two
    heads of values for each one of keys; feed-forward networks are mixtures of experts, beside one that all tokens
    take; and norms of blocks multiply by 1 + weight.

    Attributes:
      ratio: 3 in published models.
    """

    ratio: int = 3

    def __post_init__(self):
        fields.positive_integer(self, "ratio")

    def turns(self):
        return [_gated_delta()] * self.ratio + [Slot(Softmax(), {**LLAMA, "normalize_qk": "rms", "gate": "sigmoid"})]


@dataclasses.dataclass(frozen=True)
class Longformer(Preset):
    """A window and a global first token, in blocks with norms after parts (Beltagy, Peters and Cohan 2020,
    arXiv:2004.05150), which start from RoBERTa.

    There global tokens have projections of their own, and other tokens than the first may be such, by task. The windows
    of its models of characters, dilated and of several sizes, are not this one's.

    Attributes:
      window: tokens that a query sees beside itself, half of them on each side.
    """

    window: int = 512

    def __post_init__(self):
        fields.positive_integer(self, "window")
        if self.window % 2:
            raise ValueError(f"Longformer(window={self.window}): window must be even, half on each side")

    def turns(self):
        return [Slot(SlidingWindow(self.window // 2, self.window // 2, global_tokens=1), {"norm": "after"})]


@dataclasses.dataclass(frozen=True)
class _InTurns(Preset):
    """Windows and full attention in turns, a window first.

    Attributes:
      window: keys that a query sees there, its own included.
    """

    window: int

    def __post_init__(self):
        fields.positive_integer(self, "window")

    def in_turns(self, own: Mapping[str, Any]) -> list[Slot]:
        """Both, in blocks that are alike."""
        return [Slot(SlidingWindow(left=self.window - 1, right=0), own), Slot(Softmax(), own)]


@dataclasses.dataclass(frozen=True)
class Gemma2(_InTurns):
    """Windows and full attention in turns, scores capped at 50 and logits at 30, RMSNorm before and after parts, GeGLU
    (Gemma team 2024, arXiv:2408.00118, section 2).

    There embeddings are tied, and multiplied by the root of the width; norms multiply by 1 + weight; and heads are
    wider or narrower than their part of the block.
    """

    window: int = 4096

    def turns(self):
        capped = {"soft_cap": 50.0, "logits_soft_cap": 30.0}
        return self.in_turns({"norm": "both", "norm_kind": "rms", "activation": "geglu", **capped})


@dataclasses.dataclass(frozen=True)
class GptOss(_InTurns):
    """Windows and full attention in turns, each head with a learned sink, RMSNorm and SwiGLU (OpenAI 2025,
    arXiv:2508.10925).

    There feed-forward networks are mixtures of experts, whose SwiGLU is clamped, has a sigmoid of 1.702 times its
    argument and multiplies by 1 more; rotations are stretched for long texts (YaRN, arXiv:2309.00071); and heads are
    wider than their part of the block.
    """

    window: int = 128

    def turns(self):
        return self.in_turns({**LLAMA, "sinks": True})


PRESETS: dict[str, type[Preset]] = {
    "gla": GLA,
    "mamba2": Mamba2,
    "deltanet": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
    "hybrid": Hybrid,
    "longformer": Longformer,
    "gemma2": Gemma2,
    "gpt_oss": GptOss,
    "turns": Turns,
}

_CATALOGUE = Catalogue("kernel or preset", KERNELS | PRESETS, (Kernel, Preset), "softmax, hybrid(ratio=3)")


def parse(text: str, imports: bool = True) -> list[Kernel | Preset]:
    """Kernels and presets from text such as "softmax, hybrid(ratio=3)", as `attnzoo.parse` reads kernels; "all" is all
    kernels.

    Example:
      >>> from attnzoo.models import presets
      >>> presets.parse("linear, gemma2(window=64)")
      [Linear(feature_map='elu+1', epsilon=1e-06), Gemma2(window=64)]
    """
    return [*catalogue.parse(text)] if text.strip() == "all" else _CATALOGUE.parse(text, imports)


def name_of(value: Kernel | Preset) -> str:
    """The name of its class, or the class's own where it has none."""
    return _CATALOGUE.name_of(value)


def identity(value: Kernel | Preset) -> str:
    """The repr, after its module where the class has no name here."""
    return _CATALOGUE.identity(value)


def spelled(value: Kernel | Preset) -> str:
    """Text that `parse` reads as this value, in any process that can import its class."""
    return _CATALOGUE.spelled(value)
