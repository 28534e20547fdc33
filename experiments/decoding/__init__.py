"""What does a token cost while decoding, what must be kept for it, and what does keeping less lose?

    python -m experiments.decoding --out=runs/decoding

For each causal kernel: time of a step and size of the state, against the length of the context; and the quality of
small text models (bits per byte) against the size of their state. The models are trained by `experiments.accuracy`,
into the folder `quality`; --quality names another folder of such runs. About fifteen minutes on two cores, most of it
training.
"""
