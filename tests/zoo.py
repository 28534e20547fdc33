"""Every kernel of the catalogue, at sizes where its pattern shows in a short sequence."""

from attnzoo import KERNELS, BigBird, Linformer, Nystrom, Performer, SlidingWindow

SMALL = {
    "sliding_window": [SlidingWindow(left=5, right=3), SlidingWindow(left=2, right=2, dilation=3, global_tokens=2)],
    "bigbird": [BigBird(block_size=4, num_random=2)],
    "performer": [Performer(features=16)],
    "linformer": [Linformer(rank=5)],
    "nystrom": [Nystrom(landmarks=5)],
}
ZOO = [variant for name, kernel in KERNELS.items() for variant in SMALL.get(name, [kernel()])]
CAUSAL = [kernel for kernel in ZOO if kernel.supports.causal]
DECODING = [kernel for kernel in ZOO if kernel.supports.decode]
