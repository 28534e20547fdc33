"""Does a decoder learn where to look?

    python -m experiments.alignment --scores=additive --out=results/alignment

A recurrent encoder-decoder learns to write dates as people write them in ISO 8601, and the picture of its attention
shows which characters it looks at for each digit (Bahdanau, Cho and Bengio 2015). Tested on days that it never saw, in
any words, by exact match of all ten characters. Takes about two minutes a score on two cores.
"""
