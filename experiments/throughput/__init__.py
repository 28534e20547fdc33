"""What share of this device does each implementation of attention use?

    python -m experiments.throughput --platform=gpu --out=results/gpu/throughput

Ours (the route that None takes, and "xla"), jax.nn, cuDNN through jax.nn, PyTorch's scaled_dot_product_attention and
its compiled flex_attention, forward and forward with backward, at one number of tokens whatever the length. Beside
them the largest matrix product and copy that the device does here: shares are of those, not of a data sheet. Each
implementation runs in a process of its own; what does not fit, is not installed, deviates, or is not reached when the
minutes are over is a row that says so, and the next run goes on there. Needs jax, flax and absl; PyTorch and
matplotlib where present.
"""
