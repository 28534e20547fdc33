"""What JAX runs: ours by each route, jax.nn by each of its, and the ceilings."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np

import attnzoo
from attnzoo import costs
from experiments.bench import asked, brought, memory, outcome, trust
from experiments.bench.memory import planned
from experiments.bench.program import Program, with_gradients
from experiments.throughput.work import dims_of

COMPILING = 8  # programs compiled at a time, before they are timed: XLA uses about one core for each
ENOUGH = 0.05  # seconds of calls between two looks at the clock


def function(implementation: str, kernel, is_causal: bool) -> Callable:
    """Attention of query, key and value, and ours of what tokens bring, where the kernel wants any."""
    if implementation.startswith("attnzoo"):
        how = {"kernel": kernel, "is_causal": is_causal, "implementation": _route(implementation)}
        return lambda query, key, value, tokens=None: attnzoo.attend(query, key, value, tokens=tokens, **how)
    window = None
    if isinstance(kernel, attnzoo.SlidingWindow):
        window = (kernel.left, kernel.right)
    route = {"jax.nn": "xla", "jax.nn cudnn": "cudnn"}[implementation]
    return functools.partial(
        jax.nn.dot_product_attention, is_causal=is_causal, local_window_size=window, implementation=route
    )


def _route(implementation: str) -> str | None:
    """That of `attend`, of an implementation that is ours."""
    return implementation.removeprefix("attnzoo").strip() or None


def outputs(implementation: str, kernel, is_causal: bool, inputs: list, dtype: str) -> np.ndarray:
    """The output for given inputs, as float32."""
    operands = jax.tree.map(lambda x: jnp.asarray(x, dtype), inputs)
    return np.asarray(jax.jit(function(implementation, kernel, is_causal))(*operands).astype(jnp.float32))


def measured(implementation: str, cells: list[dict], kernels: dict, repeats: int) -> Iterator[dict]:
    """Rows of cells, some at a time: they are compiled beside each other, then timed with nothing beside a call."""
    for start in range(0, len(cells), COMPILING):
        some = cells[start : start + COMPILING]
        with futures.ThreadPoolExecutor(COMPILING) as pool:
            programs = [pool.submit(_compiled, implementation, kernels[cell["kernel"]], cell) for cell in some]
        for cell, program in zip(some, programs, strict=True):
            try:
                ask = functools.partial(_broken, implementation, kernels[cell["kernel"]], cell)
                yield cell | _measured(cell, ask, *program.result(), repeats)
            except Exception as error:
                yield cell | outcome.of(error)


def _compiled(implementation: str, kernel, cell: dict):
    forward = function(implementation, kernel, cell["is_causal"])
    dims = dims_of(cell)
    shape = (dims.batch, dims.query_length, dims.num_heads, dims.head_dim)
    shapes: list = [jax.ShapeDtypeStruct(shape, cell["dtype"])] * (4 if cell["pass"] == "train" else 3)
    if tokens := costs.tokens(kernel, dims, cell["dtype"]):
        shapes.append(tokens)
    start = time.perf_counter()
    call = with_gradients(forward) if cell["pass"] == "train" else forward
    compiled = jax.jit(call).lower(*shapes).compile()
    leading = dims.batch, dims.key_length, dims.num_heads
    random = functools.partial(brought.normal, kernel, dims, leading, dtype=cell["dtype"])
    return compiled, shapes, random, time.perf_counter() - start


def _broken(implementation: str, kernel, cell: dict) -> dict | None:
    """What a row says of a kernel of one's own that breaks a law at the sizes of a cell, or None."""
    if trust.is_ours(kernel) or not implementation.startswith("attnzoo"):
        return None
    program = Program(
        kernel,
        dims_of(cell),
        cell["dtype"],
        cell["is_causal"],
        cell["pass"] == "train",
        implementation=_route(implementation),
    )
    return asked.breach(program, program.operands(cell["seed"]))


def _measured(cell: dict, ask: Callable, compiled, shapes, tokens: Callable, compile_seconds: float, repeats) -> dict:
    found = {"compile_seconds": compile_seconds} | planned(compiled)
    if skip := memory.does_not_fit(found) or ask():
        return found | skip
    keys = jax.random.split(jax.random.key(cell["seed"]), len(shapes))
    normal = lambda key, x: tokens(rng=key) if isinstance(x, dict) else jax.random.normal(key, x.shape, x.dtype)
    operands = list(map(normal, keys, shapes))
    return found | timed(lambda: compiled(*operands), jax.block_until_ready, repeats)


def timed(call: Callable, wait: Callable, repeats: int) -> dict:
    """Seconds of a call, each from enough of them in a row; the device works while the next is given to it."""
    wait(call())
    start = time.perf_counter()
    wait(call())
    together = max(1, min(100, int(ENOUGH / max(time.perf_counter() - start, 1e-9))))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(together):
            result = call()
        wait(result)
        seconds.append((time.perf_counter() - start) / together)
    low, middle, high = map(float, np.quantile(seconds, [0.25, 0.5, 0.75]))
    return {"status": "measured", "seconds": seconds, "median": middle, "quartiles": [low, high], "calls": together}


def ceilings(task: dict) -> Iterator[dict]:
    """The largest rates of this device here: of a matrix product in FLOP/s, and of a copy in bytes read and written."""
    size, dtype = task["matmul_size"], task["dtype"]
    a, b = (jax.random.normal(jax.random.key(i), (size, size), dtype) for i in range(2))
    product = jax.jit(jnp.matmul)
    found = timed(lambda: product(a, b), jax.block_until_ready, task["repeats"])
    yield {"ceiling": "matmul", "rate": 2 * size**3 / found["median"], **found}
    x = jax.random.normal(jax.random.key(2), (task["copy_bytes"] // jnp.dtype(dtype).itemsize,), dtype)
    negative = jax.jit(jnp.negative)
    found = timed(lambda: negative(x), jax.block_until_ready, task["repeats"])
    yield {"ceiling": "copy", "rate": 2 * x.nbytes / found["median"], **found}
