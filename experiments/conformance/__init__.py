"""Does every kernel obey every law on this device, and each implementation what is asked of it in 16 bits?

    python -m experiments.conformance --platform=gpu --out=results/gpu/conformance

Implementations come first (`routes.py`), each of a few kernels, one of a pattern. Then each kernel is held to
`attnzoo.testing.LAWS`, with the highest precision of matrix products in float32. All have processes of their own, some
at a time; what is not done when the minutes are over is a row that says so, and the next run goes on there. Needs jax,
flax and absl alone, and matplotlib for the figures.
"""
