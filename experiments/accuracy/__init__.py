"""What does each kernel lose, as the sequence grows?

    python -m experiments.accuracy --task='text, masked_text' --kernels='softmax, sliding_window(left=31), linear' \\
        --lengths=64,256 --steps=200 --seeds=1 --out=runs/accuracy

A small Transformer is trained for each cell (task, kernel, positions, length, width, learning rate, seed) and tested
on examples that it has not seen: bits of each byte of text, or the share of answers that are right. Every cell is a
process of its own, within --minutes and --memory; one that fails is a row that says so, and the rest go on. A rerun
does what is missing and continues what was stopped. --dry_run lists the cells and predicted hours; --jobs=n trains n
cells beside each other, one a device; --shard=i/n takes a part. The command above takes about four minutes on two
cores.
"""
