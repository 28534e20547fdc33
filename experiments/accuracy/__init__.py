"""What does each kernel lose, on real text, as the sequence grows?

    python -m experiments.accuracy --task=text --kernels='softmax, sliding_window(left=31), linear' \\
        --lengths=64,256 --objective=causal,masked --steps=200 --seeds=1 --out=runs/accuracy

A small byte-level Transformer is trained on the standard library's source, and tested on files that it has not seen.
Causal: the next byte. Masked: 15% of the bytes, from both sides. One row for each kernel, objective, length and seed,
in bits per byte: 8 is chance, about 4.5 is what the frequency of bytes alone gives. Longer contexts should help until
the kernel's reach ends. The command above takes about four minutes on two cores.
"""
