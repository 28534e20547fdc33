"""One implementation: its outputs beside the equation's, then its cells; or the ceilings of the device."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

import attnzoo
from attnzoo import Dims
from experiments.bench import brought, outcome, trust, workers

LENGTH = 1024  # at which outputs are compared
TOLERANCE = {"float32": 1e-2, "bfloat16": 3e-2, "float16": 1e-2}  # float32 products may be rounded to TF32


def rows(task: dict) -> Iterator[dict]:
    """`task` has the implementation and its cells."""
    if task["implementation"] == "ceilings":
        from experiments.throughput import jax_calls

        yield from jax_calls.ceilings(task)
        return
    module = "torch_calls" if task["implementation"].startswith("torch") else "jax_calls"
    try:
        calls = importlib.import_module(f"experiments.throughput.{module}")
    except ImportError as error:
        yield from (cell | {"status": "missing", "reason": str(error)} for cell in task["cells"])
        return
    kernels = {cell["kernel"]: attnzoo.parse(task["kernels"][cell["kernel"]])[0] for cell in task["cells"]}
    compared = {name: _compared(calls, task, kernel) for name, kernel in kernels.items()}
    cells = [cell | compared[cell["kernel"]] for cell in task["cells"]]
    yield from (cell for cell in cells if "status" in cell)
    trusted = [cell for cell in cells if "status" not in cell]
    yield from calls.measured(task["implementation"], trusted, kernels, task["repeats"])


def _compared(calls, task: dict, kernel) -> dict:
    """How far outputs are from the equation's, and what a row says where that is too far, or there are none."""
    is_causal, dtype = task["is_causal"], task["dtype"]
    rng = np.random.default_rng(task["seed"])
    inputs: list = [rng.normal(size=(1, LENGTH, 2, 64)).astype(np.float32) for _ in range(3)]
    # On the host, where programs are soon compiled: laws on a device are an experiment of their own.
    with jax.default_device(jax.devices("cpu")[0]):
        is_ours = task["implementation"].startswith("attnzoo")
        if is_ours and (found := trust.breach(kernel, LENGTH, is_causal=is_causal)):
            return found
        arguments = {"kernel": kernel, "is_causal": is_causal, "implementation": "reference"}
        given = brought.normal(kernel, Dims.of(*inputs), (1, LENGTH, 2), jax.random.key(task["seed"]), jnp.float32)
        expected = np.asarray(attnzoo.attend(*inputs, tokens=given or None, **arguments))
        inputs += [jax.device_get(given)] if given else []
    try:
        got = calls.outputs(task["implementation"], kernel, is_causal, inputs, dtype)
    except Exception as error:
        return outcome.failure(error) | {"status": "refused"}
    deviation = float(np.abs(got - expected).max() / np.abs(expected).max())
    if deviation <= TOLERANCE[dtype]:
        return {"deviation": deviation}
    reason = f"outputs deviate from the equation by {deviation:.2g} of the largest, allowed {TOLERANCE[dtype]:g}"
    return {"deviation": deviation, "status": "failed", "reason": reason}


if __name__ == "__main__":
    workers.work(rows)
