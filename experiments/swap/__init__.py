"""What happens to a trained model when its attention is exchanged, and nothing is learned anew?

    python -m experiments.swap --checkpoint=runs/compare/accuracy --out=runs/swap

A text model that was trained with one kernel is tested with others in all its layers, on the same unseen files. The
change in bits of each byte is what an approximation loses where it must stand in for what was learned. Kernels that
learn parameters of their own cannot be put in, and are refused. It takes about a minute on two cores.
"""
