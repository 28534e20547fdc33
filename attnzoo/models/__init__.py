"""Models to train and to generate with (Flax NNX)."""

from attnzoo.models.blocks import BlockConfig as BlockConfig
from attnzoo.models.generation import generate as generate
from attnzoo.models.partitioning import partition as partition
from attnzoo.models.presets import Preset as Preset
from attnzoo.models.recurrent import RecurrentEncoderDecoder as RecurrentEncoderDecoder
from attnzoo.models.recurrent import RecurrentLanguageModel as RecurrentLanguageModel
from attnzoo.models.transformer import Classifier as Classifier
from attnzoo.models.transformer import EncoderDecoder as EncoderDecoder
from attnzoo.models.transformer import LanguageModel as LanguageModel
