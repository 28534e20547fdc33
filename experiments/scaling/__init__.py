"""What does each kernel cost, in time and memory, as the sequence grows?

    python -m experiments.scaling --kernels='softmax, sliding_window(left=255), performer(features=128)' \\
        --lengths=256:8192 --passes=forward,train --out=runs/scaling

One row for each kernel, pass and length: measured, skipped because it would not fit (with what was predicted), or
refused with the reason. Then exponents, and the length from which each kernel is faster than exact attention. The
command above takes about four minutes on two cores; exponents near 2 for softmax and near 1 for the others are what
the papers claim.

With `--mesh='sequence={1,2,4,8}'` devices share each call, which virtual ones of a CPU do as well: what each needs and
sends is read from the compiled program, also of one that is too large to run here, and drawn against their number.
"""
