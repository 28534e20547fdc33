"""Does every kernel obey every law on this device?

    python -m experiments.conformance --platform=gpu --out=results/gpu/conformance

Each kernel is held to `attnzoo.testing.LAWS` in a process of its own, several at a time, with the highest precision of
matrix products in float32, and on a GPU with sums in a fixed order; what is not done when the minutes are over is a row
that says so, and the next run goes on there. Needs jax, flax and absl alone, and matplotlib for the figure.
"""
