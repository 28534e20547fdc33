"""What a test asks of the versions that are installed."""

import jax
import pytest

from attnzoo.engines.fused.hopper import warpgroups

of_hopper = pytest.mark.skipif(
    jax.__version_info__ < warpgroups.OLDEST, reason="Mosaic GPU of an older jax is another one"
)
