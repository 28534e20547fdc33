"""Kernels as lines of code that run as they are printed, `out` being what comes out.

They are given query, key and value, [B, T, N, H], or x, [B, T, N * H], where a layer makes these of it: it also learns
what a kernel learns of its own, and projects what it wants of each token beside key and value.
"""

from __future__ import annotations

import jax

import attnzoo
from attnzoo import Dims, Kernel, catalogue
from attnzoo.models.presets import PRESETS
from experiments.show import naming


def attending(
    kernel: Kernel | str, dims: Dims, dtype: str, *, is_causal: bool, implementation: str | None = None
) -> str:
    """The line that attends with a kernel; where text names a published model's, the one that makes it.

    Args:
      kernel: one, or what a row calls it. Modules that a row names are not imported, and so a kernel that is not in the
        catalogue stands in a layer, whatever it wants.
      implementation: that of `attend`, which a layer takes by itself.
    """
    text, kernel = (kernel, known(kernel)) if isinstance(kernel, str) else (catalogue.identity(kernel), kernel)
    imports, made = naming.code(naming.short(text))
    if text.partition("(")[0] in {each.__name__ for each in PRESETS.values()}:
        return f"import attnzoo.models; out = {made.replace('attnzoo.', 'attnzoo.models.presets.', 1)}"
    causal = ", is_causal=True" * is_causal
    named = f', implementation="{implementation}"' if implementation else ""
    if not _wants_layer(kernel, dims):
        return f"import attnzoo; {imports}out = attnzoo.attend(query, key, value, kernel={made}{causal}{named})"
    beside = f"  # attend(...{named}) was timed, which a layer does not name" if named else ""
    layer = _layer(kernel, made, dims, dtype, is_decoding=False)
    return f"import attnzoo.nnx, flax.nnx; {imports}out = {layer}(x{causal}){beside}"


def decoding(kernel: Kernel, dims: Dims, dtype: str) -> str:
    """The line that takes the next tokens, with room for `dims.key_length` of them."""
    imports, made = naming.code(naming.short(catalogue.identity(kernel)))
    if _wants_layer(kernel, dims):
        shape = dims.batch, dims.key_length, dims.num_heads * dims.head_dim
        layer = f"layer = {_layer(kernel, made, dims, dtype, is_decoding=True)}"
        return f'import attnzoo.nnx, flax.nnx; {imports}{layer}; layer.init_cache({shape}, "{dtype}"); out = layer(x)'
    sizes = {"batch": dims.batch, "num_heads": dims.num_heads, "head_dim": dims.head_dim}
    sizes |= {"max_length": dims.key_length}
    if dims.num_key_value_heads != dims.num_heads:
        sizes["num_key_value_heads"] = dims.num_key_value_heads
    started = f'state = attnzoo.start({_told(sizes)}, dtype="{dtype}", kernel={made})'
    return f"import attnzoo; {imports}{started}; state, out = attnzoo.step(state, query, key, value)"


def known(text: str) -> Kernel | None:
    """The kernel of the catalogue that text names, if one."""
    name, opened, fields = text.partition("(")
    names = {each.__name__: name for name, each in attnzoo.KERNELS.items()}
    try:
        return catalogue.parse(f"{names[name]}{opened}{fields}", imports=False)[0]
    except (KeyError, ValueError):  # not in it, or of before a field was renamed
        return None


def _wants_layer(kernel: Kernel | None, dims: Dims) -> bool:
    return kernel is None or bool(kernel.token_inputs(dims)) or bool(_learned(kernel, dims))


def _learned(kernel: Kernel, dims: Dims) -> list[tuple[int, ...]]:
    """The shapes of what a kernel learns of its own."""
    return [x.shape for x in jax.tree.leaves(jax.eval_shape(lambda: kernel.init(jax.random.key(0), dims)))]


def _layer(kernel: Kernel | None, made: str, dims: Dims, dtype: str, *, is_decoding: bool) -> str:
    given = {"num_heads": dims.num_heads, "in_features": dims.num_heads * dims.head_dim}
    if dims.num_key_value_heads != dims.num_heads:
        given["num_kv_heads"] = dims.num_key_value_heads
    given["attention"] = made
    if kernel is None or _learned(kernel, dims) != _learned(kernel, dims._replace(key_length=dims.key_length + 1)):
        given["max_length"] = dims.key_length
    if dtype != "float32":
        given["dtype"] = f'"{dtype}"'
    return f"attnzoo.nnx.MultiHeadAttention({_told(given | {'decode': is_decoding, 'rngs': 'flax.nnx.Rngs(0)'})})"


def _told(given: dict) -> str:
    return ", ".join(f"{name}={value}" for name, value in given.items())
