"""Where does a trained model look?

    python -m experiments.inspect --checkpoint=runs/compare/accuracy --text='def main(self):' --out=runs/inspect

Draws the attention maps of every layer and head, for any kernel: the [T, S] matrix that it applies to values, found
from `attnzoo.attention_weights`. Entropy and mean distance of each head stand beside it. Writes a PNG for each layer
and one HTML page; it takes seconds.
"""
