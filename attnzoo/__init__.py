"""attnzoo: efficient-attention variants for JAX behind one interface.

    out = attnzoo.attend(query, key, value, kernel=attnzoo.SlidingWindow(left=255, right=0), is_causal=True)

The Flax layers live in `attnzoo.nnx` and `attnzoo.linen`, the laws that every kernel obeys in `attnzoo.testing`.
"""

import types as _types

# First, so that the file of a kernel may import its contract from here.
from attnzoo.contract.sizes import Dims as Dims
from attnzoo.contract.sizes import Positions as Positions
from attnzoo.contract.support import Support as Support
from attnzoo.contract.support import TokenInput as TokenInput
from attnzoo.kernel import Kernel as Kernel
from attnzoo.recurrent import Recurrent as Recurrent

# isort: split
from attnzoo.catalogue import POSITIONS as POSITIONS
from attnzoo.catalogue import parse as parse
from attnzoo.catalogue import parse_positions as parse_positions
from attnzoo.contract.mask import Mask as Mask
from attnzoo.costs import Cost as Cost
from attnzoo.costs import cost_of as cost_of
from attnzoo.door.attention import attend as attend
from attnzoo.door.attention import attention_weights as attention_weights
from attnzoo.door.decoding import DecodingState as DecodingState
from attnzoo.door.decoding import start as start
from attnzoo.door.decoding import step as step
from attnzoo.kernels import *  # noqa: F403
from attnzoo.layers.adapters import as_attention_fn as as_attention_fn
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
