"""One kernel under the laws that the task names: a row for each, before it starts and when it is decided."""

from __future__ import annotations

import time
from collections.abc import Iterator

import jax

from attnzoo import parse
from attnzoo.testing import LawBroken, check_law
from experiments.bench import workers


def rows(task: dict) -> Iterator[dict]:
    """`task` has the kernel as text, and the names of laws."""
    jax.config.update("jax_default_matmul_precision", "highest")
    (kernel,) = parse(task["kernel"])
    for law in task["laws"]:
        yield {"law": law, "status": "started"}
        start = time.perf_counter()
        try:
            check_law(kernel, law)
            found = {"status": "obeyed"}
        except LawBroken as error:
            found = {"status": "broken", "reason": str(error)[:600]}
        yield {"law": law, "seconds": time.perf_counter() - start, **found}


if __name__ == "__main__":
    workers.work(rows)
