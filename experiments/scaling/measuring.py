"""One cell as a program: whether the kernel takes it, what it should cost, what it needs, and how long it takes."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

import attnzoo
from attnzoo import Dims, Kernel, costs
from attnzoo.costs import counting
from experiments.memory import planned

Call = Callable[[], object]

MEMORY_SHARE = 0.8  # of the memory that is free, what a cell may take
ALONE = 10.0  # seconds of repetitions, from which a program is timed alone: it averages the noise itself
PROBE_FLOPS = 1e9  # what any machine does in about a second
SHORTEST = 16  # length of the shortest probe


@dataclasses.dataclass(frozen=True)
class Program:
    """What is timed: attention by `kernel`, with the gradients of operands and parameters in a train pass."""

    kernel: Kernel
    dims: Dims
    dtype: str
    is_causal: bool
    is_train: bool

    def __call__(self, query, key, value, params, tokens):
        operands = (query, key, value, params, tokens)
        return jax.value_and_grad(self._loss, (0, 1, 2, 3, 4))(*operands) if self.is_train else self._forward(*operands)

    def _forward(self, query, key, value, params, tokens):
        given = {"kernel": self.kernel, "params": params, "tokens": tokens}
        return attnzoo.attend(query, key, value, **given, is_causal=self.is_causal)

    def _loss(self, *operands):
        return jnp.sum(jnp.square(self._forward(*operands).astype(jnp.float32)))

    def shapes(self) -> list:
        """Shapes of query, key, value, parameters, and what tokens bring."""
        params = jax.eval_shape(lambda: self.kernel.init(jax.random.key(0), self.dims))
        return [*costs.operands(self.dims, self.dtype), params, costs.tokens(self.kernel, self.dims, self.dtype)]

    def operands(self, seed: int) -> list:
        """Normal queries, keys and values, the same for every kernel, new parameters, and what normal tokens bring."""
        *keys, last = jax.random.split(jax.random.key(seed), 4)
        *shapes, _, brought = self.shapes()
        arrays = [jax.random.normal(key, x.shape, x.dtype) for key, x in zip(keys, shapes, strict=True)]
        made = self.kernel.token_inputs(self.dims)
        normal = lambda x: jax.random.normal(jax.random.fold_in(last, 1), x.shape, x.dtype)
        tokens = {name: made[name].activation(normal(x)) for name, x in brought.items()}
        return [*arrays, self.kernel.init(last, self.dims), tokens]

    def refusal(self) -> str | None:
        """Why the kernel cannot serve, or None."""
        try:
            jax.eval_shape(self, *self.shapes())
        except (NotImplementedError, ValueError) as error:
            return str(error)
        return None

    def counts(self) -> dict:
        """Operations of the program, None where they cannot be counted; bytes that a call moves and decoding keeps."""
        try:
            flops = counting.flops(self, *self.shapes())
        except ValueError:  # a loop whose trip count is not known
            flops = None
        moved = costs.bytes_moved(self.kernel, self.dims, self.dtype)
        return {"flops": flops, "cost_bytes": moved, "state_bytes": self.kernel.state_bytes(self.dims, self.dtype)}

    def largest_array(self) -> int:
        """Bytes of the largest array that the program names, a lower bound of its memory that needs no compiler."""
        return counting.largest_intermediate(self, *self.shapes()) * jnp.dtype(self.dtype).itemsize

    @functools.cached_property
    def compiled(self) -> tuple[Callable, dict]:
        """The compiled program, and what it took and will need; kept, since jax would not compile it again."""
        start = time.perf_counter()
        compiled = jax.jit(self).lower(*self.shapes()).compile()
        seconds = time.perf_counter() - start
        return compiled, {"compile_seconds": seconds} | planned(compiled)


def program(settings, cell) -> Program:
    """The program of a cell."""
    dims = settings.dims_at(cell.length)
    return Program(cell.kernel, dims, settings.dtype, settings.is_causal, cell.passed == "train")


def take_turns(ready: list[tuple[dict, Call]], repeats: int) -> Iterator[dict]:
    """Rows with the times of each call, after a warm-up: in turns, but for those that take long."""
    waiting = []
    for row, call in ready:
        warm_up = _timed(row, call)
        skip = warm_up is not None and over_budget(row, warm_up)
        if warm_up is None or skip:
            yield row | (skip or {})
        elif warm_up * repeats > ALONE:
            yield _finished(row, [_timed(row, call) for _ in range(repeats)])
        else:
            waiting.append((row, call, []))
    for _ in range(repeats):
        for row, call, seconds in waiting:
            seconds.append(_timed(row, call))
    for row, _, seconds in waiting:
        yield _finished(row, seconds)


def _timed(row: dict, call: Call) -> float | None:
    """Seconds of one repetition; None where it failed, which the row then says."""
    try:
        return _seconds(call)
    except Exception as error:
        row |= failure(error)
        return None


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def _finished(row: dict, seconds: list[float | None]) -> dict:
    if None in seconds:
        return row
    low, middle, high = map(float, np.quantile(seconds, [0.25, 0.5, 0.75]))
    return row | {"status": "measured", "seconds": seconds, "median": middle, "quartiles": [low, high]}


def failure(error: Exception) -> dict:
    """What a row says of an error: its first line."""
    lines = str(error).splitlines() or [""]
    return {"status": "failed", "reason": f"{type(error).__name__}: {lines[0][:300]}"}


def predict(row: dict, rows: list[dict], work: float) -> float | None:
    """Seconds, from the longest shorter length of the same kernel, by the ratio of operations.

    Args:
      work: the exponent of length that the kernel claims, for programs whose operations cannot be counted.
    """
    same = ("kernel", "pass", "heads", "num_kv_heads", "head_dim", "dtype", "is_causal", "platform", "device")
    kin = [
        other
        for other in rows
        if other.get("length", row["length"]) < row["length"]
        and all(other.get(name) == row[name] for name in same)
        and (other.get("median") or other.get("predicted_seconds"))
    ]
    if not kin:
        return None
    longest = max(kin, key=lambda other: (other["length"], other["status"] == "measured"))
    return (longest.get("median") or longest["predicted_seconds"]) * _growth(longest, row, work)


def _growth(small: dict, large: dict, work: float) -> float:
    if small["flops"] and large["flops"]:
        return large["flops"] / small["flops"]
    return (large["length"] / small["length"]) ** work * large["batch"] / small["batch"]


def probe(program: Program, flops: float, seed: int) -> float | None:
    """Seconds of a program that nothing is known about, from one call at a length at which it cannot take long."""
    small = program
    while small.dims.query_length > SHORTEST and small.counts()["flops"] > PROBE_FLOPS:
        half = small.dims.query_length // 2
        small = dataclasses.replace(small, dims=small.dims._replace(batch=1, query_length=half, key_length=half))
    if small.refusal() is not None:
        return None
    call = functools.partial(small.compiled[0], *small.operands(seed))
    _seconds(call)  # a warm-up
    return _seconds(call) * flops / small.counts()["flops"]


def may_be_slow(row: dict) -> bool:
    """Whether a cell that nothing is known about might exceed its budget."""
    return row["flops"] is not None and row["flops"] / PROBE_FLOPS * (row["repeats"] + 1) > row["cell_budget"]


def over_budget(row: dict, seconds: float | None) -> dict | None:
    """What a row says where repetitions of `seconds` each exceed its budget."""
    if seconds is None or seconds * (row["repeats"] + 1) <= row["cell_budget"]:
        return None
    total = seconds * (row["repeats"] + 1)
    reason = f"would take {total:.3g} s, the budget is {row['cell_budget']:g} s"
    return {"status": "skipped", "limit": "budget", "reason": reason, "predicted_seconds": seconds}


def does_not_fit(row: dict) -> dict | None:
    """What a row says where the program needs more memory than there is."""
    if fits(row["needed_bytes"]):
        return None
    reason = f"needs {row['needed_bytes'] / 2**30:.3g} GiB, {free_memory() / 2**30:.3g} GiB are free"
    return {"status": "skipped", "limit": "memory", "reason": reason}


def is_to_repeat(row: dict) -> bool:
    """Whether a rerun tries again: what failed or broke a law, and what did not fit and might now."""
    is_large = row["status"] == "skipped" and row["limit"] == "memory"
    return row["status"] == "failed" or "law" in row or (is_large and fits(row["needed_bytes"]))


def fits(needed: float) -> bool:
    """Whether a program that needs so many bytes may run."""
    return needed <= MEMORY_SHARE * free_memory()


def free_memory() -> float:
    """Bytes that are free where the arrays live."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats["bytes_in_use"])
    return min(_free_on_host(), _free_in_container())


def _free_on_host() -> float:
    try:
        fields = dict(line.split(":") for line in pathlib.Path("/proc/meminfo").read_text().splitlines())
        return float(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return float("inf")


def _free_in_container() -> float:
    """What a memory limit on this container leaves; files in its cache can be dropped."""
    group = pathlib.Path("/sys/fs/cgroup")
    try:
        limit = float((group / "memory.max").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return limit - float((group / "memory.current").read_text()) + float(stat["file"])
    except (OSError, KeyError, ValueError):
        return float("inf")
