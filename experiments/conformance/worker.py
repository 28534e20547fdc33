"""One kernel, or an implementation of it, under laws: a row for each, before it starts and when it is decided."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

import jax

from attnzoo import parse
from attnzoo.testing import LawBroken, check_law
from experiments.bench import workers
from experiments.conformance import routes


def rows(task: dict) -> Iterator[dict]:
    """`task` has the kernel as text, the implementation or None, and the names of laws."""
    (kernel,) = parse(task["kernel"])
    if task["route"] is None:
        jax.config.update("jax_default_matmul_precision", "highest")
        check = functools.partial(check_law, kernel)
    else:
        check = functools.partial(routes.check, kernel, task["route"])
    for law in task["laws"]:
        yield {"law": law, "status": "started"}
        start = time.perf_counter()
        try:
            check(law)
            found = {"status": "obeyed"}
        except LawBroken as error:
            found = {"status": "broken", "reason": str(error)[:600]}
        except NotImplementedError as error:
            found = {"status": "refused", "reason": str(error)[:600]}
        yield {"law": law, "seconds": time.perf_counter() - start, **found}


if __name__ == "__main__":
    workers.work(rows)
