"""What would each kernel launch and move on an accelerator that is not here?

    python -m experiments.compiled --targets=h100,v5e --kernels='softmax, sliding_window(left=255, right=0)' \\
        --lengths=1024:8192 --is_causal --out=runs/compiled

The compilers of GPUs and TPUs need no device. One row for each target, kernel, pass and length: what the device is
given to do one after another (launches), how many steps of loops wait for each other, bytes that are read from its
memory and written to it, temporary memory, operations, and the time below which none of these lets a call fall. Nothing
is run and nothing is timed: which of two programs moves less is known before a machine is rented, and how fast either
is, is not.

Beside what is moved stands what a fused kernel needs to move. Forward: operands, what is learned and drawn, and the
output, once each. With gradients a second kernel starts anew: operands are read twice, the output is written and read,
and so is one float32 that is kept of each query of each head (the logarithm of a sum, or the sum); the gradient of the
output is read, and those of operands and of what is learned are written. Weights and states are not among it: such a
kernel makes them where it needs them, and again backward. Nor is what the weights do not depend on.

Operands come as arrays of heads, [B, L, N, H], of which a TPU fills narrow heads up in its memory and copies them, or
as a layer's projections leave them, [B, L, N H] (`--operands=projected`).

Needs the compilers, `pip install -e '.[aot]'`, which `make compiled` puts into an environment of its own. A cell is a
process, and takes from five seconds to a minute.
"""
