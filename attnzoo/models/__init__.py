"""Models that the experiments train (Flax NNX)."""

from attnzoo.models.recurrent import RecurrentEncoderDecoder as RecurrentEncoderDecoder
from attnzoo.models.recurrent import RecurrentLanguageModel as RecurrentLanguageModel
from attnzoo.models.transformer import Transformer as Transformer
