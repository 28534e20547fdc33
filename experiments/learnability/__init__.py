"""At which learning rates does each kernel learn a task at all?

    python -m experiments.learnability --task='mqar(pairs=8, vocabulary=64)' --kernels='softmax, linear' --lengths=64 \\
        --conv_width=4 --embedding_stddev=1 --widths=32 --heads=1 --out=runs/learnability

A comparison at one learning rate tells as much of that rate as of kernels: recurrences learn recall in a narrow band
of rates, and not by every seed (Okpekpe and Orvieto 2025, arXiv:2508.19029). So each model is trained at rates over
several decades, by several seeds, and has solved the task where validation reaches --solved. One figure has the share
of seeds that solve it at each rate, and the operations that they take; one table the width of the band in decades, and
beside it steps and operations to solve, parameters, and the state that decoding keeps: within the steps that all were
given, and within operations that are equal for all. All flags of `experiments.accuracy` hold.
"""
