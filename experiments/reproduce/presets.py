"""Which kernel stands for a published model: as the public code ran it, and as its paper means it.

The two differ where the public code does. They run beside one another, so that what the code did to a result can be
seen. What was read in google-research/long-range-arena:

- local: tokens are reshaped to (50, blocks) and attend along the first axis, so that a "block" is 50 tokens that stand
  T / 50 apart;
- linformer: no training script hands on the rank of the configuration, 32; the layer's default is 16, and one
  projection serves keys, values and heads;
- reformer: there are as many chunks as buckets, 10, so that a query meets T / 5 keys, T^2 work, hashed once; queries
  are keys, which no layer here ties;
- sinkhorn: blocks of 50, mixed by a plain softmax, and summed so that every block is brought the same; one
  normalisation here costs as much, and is another function;
- synthesizer: see `public.py`;
- performer: ReLU features without random projections, which is linear attention, but for ListOps: FAVOR+ with 2
  features;
- sparse_transformer: the fixed pattern, both of its sets in one softmax, as a mask on T^2 scores. It never looks ahead,
  but for the token at which the answer is read, and the first token of a block is a summary beside its last 10: see
  `public.py`. What the paper means stands here in both directions, since this is an encoder;
- longformer: a window of 512 tokens as a mask on T^2 scores, the same function as a sparse one, and no global token;
- bigbird: as in its paper, but that random blocks are among the first 1,024 tokens.

And in mlpen/Nystromformer, whose models have two layers: Nystrom's layer adds a depthwise convolution of the values,
Performer has ReLU features of 256 random projections, and neither is in the catalogue; nor is a Linformer of which one
projection for each head serves keys, values and all layers; Reformer hashes twice, and ties queries to keys.
"""

from __future__ import annotations

from typing import NamedTuple

import attnzoo
from attnzoo import Kernel
from experiments.reproduce.published import MQAR, SMALL, Published


class Preset(NamedTuple):
    """Kernels as text; None where the catalogue has nothing that the model could be."""

    faithful: str | None
    corrected: str | None


def _same(kernel: str) -> Preset:
    return Preset(kernel, kernel)


SOFTMAX = _same("softmax")
LRA = {
    "softmax": Preset("experiments.reproduce.public.MaterialisedSoftmax", "softmax"),
    "local": Preset('local(block_size=50, layout="strided")', 'local(block_size=50, layout="contiguous")'),
    "sparse_transformer": Preset(
        "experiments.reproduce.public.CausalSparseTransformer", "sparse_transformer(block_size=50, summary=10)"
    ),
    "longformer": _same("sliding_window(left=255, right=256)"),
    "linformer": Preset('linformer(rank=16, share="kv")', 'linformer(rank=32, share="kv")'),
    "reformer": Preset("reformer(chunk_size={tenth}, buckets=10)", "reformer(chunk_size=64, rounds=4)"),
    "sinkhorn": Preset("sinkhorn(block_size=50, iterations=1)", "sinkhorn(block_size=50)"),
    "synthesizer": Preset("experiments.reproduce.public.MixedSynthesizer", 'synthesizer(form="random", rank=32)'),
    "bigbird": _same("bigbird(block_size=64, num_random=3)"),
    "linear": _same("linear"),
    "performer": Preset('linear(feature_map="relu")', "performer(features=256)"),
}
TWO_LAYERS = {
    "softmax": SOFTMAX,
    "nystrom": Preset(None, "nystrom(landmarks=128)"),
    "linformer": Preset(None, "linformer(rank=256)"),
    "performer": Preset(None, "performer(features=256)"),
    "reformer": Preset(None, "reformer(chunk_size=64, rounds=2)"),
}
# What LRA's accuracies are of where that is not what its times are of: keeping scores changes no accuracy, and a
# function that only costs the same is another.
LEARNED = {
    "softmax": SOFTMAX,
    "reformer": Preset(None, LRA["reformer"].corrected),
    "sinkhorn": Preset(None, LRA["sinkhorn"].corrected),
}
# Pictures are cut into blocks of 64: their training script, unlike that of text, hands on what configurations say.
BLOCKS = {
    "local": Preset('local(block_size=64, layout="strided")', 'local(block_size=64, layout="contiguous")'),
    "sinkhorn": Preset(None, "sinkhorn(block_size=64)"),
}
# Pathfinder's has no token for the class.
PATHFINDER = {
    "sparse_transformer": Preset(
        f"{LRA['sparse_transformer'].faithful}(has_class=False)", LRA["sparse_transformer"].corrected
    )
}
PICTURES = {"image": BLOCKS, "pathfinder": BLOCKS | PATHFINDER}


def preset(result: Published) -> Preset:
    """The kernels of a published result."""
    if result.table == MQAR:
        return SOFTMAX
    if result.table == SMALL:
        return TWO_LAYERS[result.model]
    if (result.task, result.model) == ("listops", "performer"):
        return Preset("performer(features=2)", "performer(features=256)")
    known = LRA if result.is_ratio else LRA | LEARNED | PICTURES.get(result.task, {})
    return Preset(*(text and text.format(tenth=result.length // 10) for text in known[result.model]))


def kernel(text: str | None) -> Kernel | None:
    """The kernel of a preset's text, None where the catalogue does not have it."""
    try:
        [found] = attnzoo.parse(text or "")
    except ValueError:
        return None
    return found
