"""Positions: vectors added to embeddings, rotations of queries and keys, biases of scores."""

from attnzoo.contract.bias import Bias as Bias
from attnzoo.contract.bias import PositionBias as PositionBias
from attnzoo.contract.bias import QueryBias as QueryBias
from attnzoo.positions.absolute import LearnedPositions as LearnedPositions
from attnzoo.positions.absolute import SinusoidalPositions as SinusoidalPositions
from attnzoo.positions.absolute import sinusoidal as sinusoidal
from attnzoo.positions.alibi import ALiBi as ALiBi
from attnzoo.positions.alibi import LinearBias as LinearBias
from attnzoo.positions.encoding import AbsoluteEncoding as AbsoluteEncoding
from attnzoo.positions.encoding import NoPositions as NoPositions
from attnzoo.positions.encoding import PositionEncoding as PositionEncoding
from attnzoo.positions.encoding import RelativeEncoding as RelativeEncoding
from attnzoo.positions.rotary import Rotary as Rotary
from attnzoo.positions.rotary import rotate as rotate
from attnzoo.positions.shaw import Shaw as Shaw
from attnzoo.positions.shaw import ShawBias as ShawBias
from attnzoo.positions.t5 import T5Bias as T5Bias
from attnzoo.positions.t5 import T5Buckets as T5Buckets
