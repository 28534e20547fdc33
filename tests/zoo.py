"""Every kernel of the catalogue, at sizes where its pattern shows in a short sequence."""

from attnzoo import (
    KERNELS,
    BigBird,
    Linformer,
    Local,
    Nystrom,
    Performer,
    Reformer,
    Sinkhorn,
    SlidingWindow,
    Synthesizer,
)

SMALL = {
    "sliding_window": [SlidingWindow(left=5, right=3), SlidingWindow(left=2, right=2, dilation=3, global_tokens=2)],
    "bigbird": [BigBird(block_size=4, num_random=2)],
    "performer": [Performer(features=16)],
    "linformer": [Linformer(rank=5)],
    "nystrom": [Nystrom(landmarks=5)],
    "local": [Local(block_size=4)],
    "reformer": [Reformer(chunk_size=4, buckets=4, rounds=2)],
    "sinkhorn": [Sinkhorn(block_size=4, iterations=3)],
}
ZOO = [variant for name, kernel in KERNELS.items() for variant in SMALL.get(name, [kernel()])]
# Other forms of kernels in ZOO, which share most of their code: held to the laws where they differ, and to all if slow.
FURTHER = [Local(block_size=5, layout="strided"), Synthesizer("random", rank=3)]
CAUSAL = [kernel for kernel in ZOO if kernel.supports.causal]
DECODING = [kernel for kernel in ZOO if kernel.supports.decode]
