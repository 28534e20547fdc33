"""attnzoo: efficient-attention variants for JAX behind one interface.

    out = attnzoo.attend(query, key, value, kernel=attnzoo.SlidingWindow(left=255, right=0), is_causal=True)

The Flax layers live in `attnzoo.nnx` and `attnzoo.linen`, the laws that every kernel obeys in `attnzoo.testing`.
"""

import types as _types

# First, so that the file of a kernel may import its contract from here.
from attnzoo.interface import Dims as Dims
from attnzoo.interface import Kernel as Kernel
from attnzoo.interface import Positions as Positions
from attnzoo.interface import Support as Support
from attnzoo.interface import TokenInput as TokenInput

# isort: split
from attnzoo.adapters import as_attention_fn as as_attention_fn
from attnzoo.catalogue import POSITIONS as POSITIONS
from attnzoo.catalogue import parse as parse
from attnzoo.catalogue import parse_positions as parse_positions
from attnzoo.costs import Cost as Cost
from attnzoo.costs import cost_of as cost_of
from attnzoo.decoding import DecodingState as DecodingState
from attnzoo.decoding import start as start
from attnzoo.decoding import step as step
from attnzoo.door import attend as attend
from attnzoo.door import attention_weights as attention_weights
from attnzoo.kernels import *  # noqa: F403
from attnzoo.masking import Mask as Mask
from attnzoo.positions import ALiBi as ALiBi
from attnzoo.positions import LearnedPositions as LearnedPositions
from attnzoo.positions import LinearBias as LinearBias
from attnzoo.positions import NoPositions as NoPositions
from attnzoo.positions import PositionBias as PositionBias
from attnzoo.positions import PositionEncoding as PositionEncoding
from attnzoo.positions import QueryBias as QueryBias
from attnzoo.positions import Rotary as Rotary
from attnzoo.positions import Shaw as Shaw
from attnzoo.positions import ShawBias as ShawBias
from attnzoo.positions import SinusoidalPositions as SinusoidalPositions
from attnzoo.positions import T5Bias as T5Bias
from attnzoo.positions import T5Buckets as T5Buckets
from attnzoo.positions import rotate as rotate
from attnzoo.positions import sinusoidal as sinusoidal

__version__ = "0.1.0"

# Modules are left out: `from attnzoo import *` must not bring an `nnx` or a `linen` over Flax's own.
__all__ = [name for name, x in globals().items() if name[0] != "_" and not isinstance(x, _types.ModuleType)]
