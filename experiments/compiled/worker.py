"""One program for a device that is not here: compiled, and what it costs read off it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
from jax.sharding import SingleDeviceSharding

from attnzoo import Dims, parse
from attnzoo.costs import counting, launches, loops
from experiments.bench import outcome, workers
from experiments.bench.chips import CHIPS
from experiments.bench.memory import planned
from experiments.bench.program import Program, with_gradients
from experiments.compiled import absent, bounds
from experiments.compiled.settings import AUTOMATIC, PROJECTED


def rows(task: dict) -> Iterator[dict]:
    """`task` has the cell's row, and the kernel as text."""
    jax.config.update("jax_platforms", "cpu")  # no other device is looked for
    try:
        yield _compiled(task["row"], _program(task))
    except Exception as error:
        yield _failed(error)


def _program(task: dict) -> Program:
    row, (kernel,) = task["row"], parse(task["kernel"])
    widths = row["head_dim"], row.get("value_dim") or row["head_dim"]
    sizes = row["batch"], row["length"], row["length"], row["heads"], row["num_kv_heads"], *widths
    implementation = None if row["implementation"] == AUTOMATIC else row["implementation"]
    dims, is_train = Dims(*sizes), row["pass"] == "train"
    return Program(kernel, dims, row["dtype"], row["is_causal"], is_train, implementation=implementation)


def _compiled(row: dict, program: Program) -> dict:
    """What is found of a cell."""
    if (reason := program.refusal()) is not None:
        return {"status": "refused", "reason": reason}
    chip, device = CHIPS[row["target"]], absent.device(row["target"])
    sharding = SingleDeviceSharding(device)
    call, shapes = _projected(program) if row["operands"] == PROJECTED else (program.forward, program.shapes())
    if program.is_train:  # the output has the shape of queries but for its width, which is that of values
        call, shapes = with_gradients(call), [jax.eval_shape(call, *shapes), *shapes]
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    start = time.perf_counter()
    with absent.named(device):
        compiled = jax.jit(call).lower(*shapes).compile()
    found = {"status": "compiled", "compile_seconds": time.perf_counter() - start} | planned(compiled)
    found |= {"flops": _flops(program, call, shapes), "capacity_bytes": chip.capacity}
    least = bounds.least_bytes(program.kernel, program.dims, program.dtype, program.is_train)
    fused = bounds.roofline(chip, program.dtype, least, found["flops"], 1 + program.is_train)
    found |= {"least_bytes": least, "least_seconds": fused.seconds, "least_bound": fused.bound}
    return found | _made(chip, program.dtype, found["flops"], compiled)


def _projected(program: Program) -> tuple[Callable, list]:
    """The call with what each token has of all heads side by side, [B, L, N H], and the shapes of that."""
    *operands, params, tokens = program.shapes()
    side_by_side = lambda x: x.reshape(*x.shape[:2], -1) if x.ndim == 4 else x

    def call(*given):
        *given, params, brought = given
        by_head = jax.tree.map(lambda x, like: x.reshape(like.shape), (given, brought), (operands, tokens))
        return side_by_side(program.forward(*by_head[0], params, by_head[1]))

    *given, brought = jax.eval_shape(lambda *x: jax.tree.map(side_by_side, x), *operands, tokens)
    return call, [*given, params, brought]


def _made(chip, dtype: str, flops: float | None, compiled) -> dict:
    """Launches, steps and bytes, and the time that they take at least; None where a loop does not tell its length."""
    try:
        made = launches.made(compiled)
    except loops.Unknown as error:
        none = dict.fromkeys(("launches", "steps", "moved_bytes", "roofline_seconds", "bound"))
        return none | {"reason": str(error)}
    found = bounds.roofline(chip, dtype, made.bytes, flops, made.launches)
    told = {"launches": made.launches, "steps": made.steps, "moved_bytes": made.bytes}
    return told | {"roofline_seconds": found.seconds, "bound": found.bound}


def _flops(program: Program, call, shapes) -> float | None:
    """Operations of the program, or of XLA's for the same call where a kernel of ours loops as often as it finds."""
    xla = dataclasses.replace(program, implementation="xla")
    for counted, given in ((call, shapes), (xla, xla.shapes())):
        with contextlib.suppress(ValueError):  # a loop whose trip count is not known
            return counting.flops(counted, *given)
    return None


def _failed(error: Exception) -> dict:
    """What a row says of an error; what is too large for the device is no failure of the compiler."""
    if "RESOURCE_EXHAUSTED" in str(error):
        return {"status": "skipped", "limit": "memory", "reason": outcome.failure(error)["reason"]}
    return outcome.of(error)


if __name__ == "__main__":
    workers.work(rows)
