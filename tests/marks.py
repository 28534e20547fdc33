"""What a test asks of the versions that are installed."""

import jax
import pytest

from attnzoo.engines.fused.hopper import warpgroups

of_hopper = pytest.mark.skipif(
    jax.__version_info__ < warpgroups.OLDEST, reason="Mosaic GPU of an older jax is another one"
)

of_results_that_are_filled_up = pytest.mark.skipif(
    jax.__version_info__ >= (0, 11), reason="the interpreter of this jax fills up no result that was found before"
)
