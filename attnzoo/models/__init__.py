"""Models that the experiments train (Flax NNX)."""

from attnzoo.models.transformer import Transformer as Transformer
