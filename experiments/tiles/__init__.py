"""Which tiles make exact attention fast on this device?

    python -m experiments.tiles --out=results/tiles

Times `compute.streaming` over square tiles of several sizes, and several numbers of pairs of queries and keys in a
step, for full, causal and windowed attention. The library's one rule is a tile of `streaming.TILE` (for windows: as
long as the window) and `schedule.PAIRS` pairs in a step; the figure marks it. Takes about four minutes on two cores.
"""
