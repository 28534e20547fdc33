"""What a compiled program needs of memory, as its compiler has planned it."""

from __future__ import annotations

import jax


def planned(compiled: jax.stages.Compiled) -> dict[str, int]:
    """Bytes of temporary arrays, and of these with arguments and results."""
    plan = compiled.memory_analysis()
    needed = plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
    return {"temporary_bytes": plan.temp_size_in_bytes, "needed_bytes": needed}
