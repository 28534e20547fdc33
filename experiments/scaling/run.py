"""Settings to rows: each cell is counted, predicted, and measured if it fits."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import attnzoo
from attnzoo import Dims, Kernel, catalogue, counting
from experiments import command_line, progress, records
from experiments.scaling import analysis, plot

# What makes two rows the same cell.
KEY = (
    "kernel", "pass", "length", "batch", "heads", "num_kv_heads", "head_dim", "dtype", "is_causal", "repeats", "seed",
)  # fmt: skip
MEMORY_SHARE = 0.8  # of the memory that is free, what a cell may take


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure; lengths in tokens, `cell_budget` in seconds."""

    kernels: tuple[Kernel, ...]
    lengths: tuple[int, ...]
    passes: tuple[str, ...]
    batch: int | None
    tokens: int | None
    heads: int
    num_kv_heads: int
    head_dim: int
    dtype: str
    is_causal: bool
    repeats: int
    cell_budget: float
    seed: int
    out: str

    def __post_init__(self):
        if self.batch is not None and self.tokens is not None:
            raise ValueError("--batch and --tokens exclude each other: give one of them")
        for length in self.lengths if self.tokens is not None else ():
            if self.tokens < length or self.tokens % length:
                raise ValueError(
                    f"--tokens={self.tokens} is no multiple of length {length}: batches would differ in size"
                )
        command_line.at_least(1, batch=1 if self.batch is None else self.batch)
        command_line.at_least(1, heads=self.heads, num_kv_heads=self.num_kv_heads)
        command_line.at_least(1, head_dim=self.head_dim)
        command_line.at_least(5, repeats=self.repeats)
        command_line.at_least(0, seed=self.seed, cell_budget=self.cell_budget)
        if self.heads % self.num_kv_heads:
            raise ValueError(f"--num_kv_heads={self.num_kv_heads} does not divide --heads={self.heads}")

    def batch_at(self, length: int) -> int:
        """Examples in a batch of this length."""
        return (self.batch or 1) if self.tokens is None else self.tokens // length

    def dims_at(self, length: int) -> Dims:
        """Sizes of a call at this length."""
        shape = (self.heads, self.num_kv_heads, self.head_dim, self.head_dim)
        return Dims(self.batch_at(length), length, length, *shape)


class Cell(NamedTuple):
    """One kernel, pass and length."""

    kernel: Kernel
    passed: str
    length: int


def cells(settings: Settings) -> Iterator[Cell]:
    """All cells, kernels beside each other, so that what slows the machine for a while slows them all."""
    for passed in settings.passes:
        for length in settings.lengths:
            for kernel in settings.kernels:
                yield Cell(kernel, passed, length)


def run(settings: Settings) -> int:
    """Measure what is missing, then draw; 1 if a cell failed."""
    out = pathlib.Path(settings.out)
    with records.writing(out):
        environment = records.environment()
        todo = missing(settings, records.read(out))
        with progress.over(todo, f"scaling: {len(todo)} of {len(list(cells(settings)))} cells to do") as each:
            for cell in each:
                row = measure(settings, cell, records.read(out)) | environment
                records.append(out, row)
                each.say(describe(row))
        rows = wanted(settings, records.read(out))
        summary = analysis.summarise(rows)
        plot.draw(rows, summary, out)
        progress.table("Scaling", *analysis.table(summary))
        print(f"rows and figures: {out}")
    return int(any(row["status"] == "failed" for row in rows))


def list_cells(settings: Settings) -> int:
    """Print every cell with its predicted cost; run none."""
    done = records.latest(records.read(pathlib.Path(settings.out)), KEY)
    lines = []
    for cell in cells(settings):
        row = base(settings, cell)
        refusal = refused(settings, cell)
        state = "done" if records.cell(row, KEY) in done else "to do"
        if refusal is not None:
            lines.append([repr(cell.kernel), cell.passed, f"{cell.length:,}", "", "", f"refused: {refusal}"])
        else:
            cost = cell.kernel.cost(settings.dims_at(cell.length), is_causal=settings.is_causal, dtype=settings.dtype)
            prediction = [f"{count(settings, cell):.3g}", f"{cost.bytes / 2**20:,.1f}"]
            lines.append([repr(cell.kernel), cell.passed, f"{cell.length:,}", *prediction, state])
    progress.table("Cells", ["kernel", "pass", "length", "FLOPs", "forward MiB moved", "state"], lines)
    return 0


def missing(settings: Settings, rows: list[dict]) -> list[Cell]:
    """Cells without a row, and those that failed or were skipped under another budget."""
    done = records.latest(rows, KEY)

    def is_done(cell):
        row = done.get(records.cell(base(settings, cell), KEY))
        if row is None or row["status"] == "failed":
            return False
        return row["status"] != "skipped" or row["cell_budget"] == settings.cell_budget

    return [cell for cell in cells(settings) if not is_done(cell)]


def wanted(settings: Settings, rows: list[dict]) -> list[dict]:
    """The last row of each cell of these settings."""
    done = records.latest(rows, KEY)
    keys = [records.cell(base(settings, cell), KEY) for cell in cells(settings)]
    return [done[key] for key in keys if key in done]


def base(settings: Settings, cell: Cell) -> dict:
    """What identifies a row."""
    return {
        "kernel": repr(cell.kernel),
        "name": catalogue.name_of(cell.kernel),
        "pass": cell.passed,
        "length": cell.length,
        "batch": settings.batch_at(cell.length),
        "heads": settings.heads,
        "num_kv_heads": settings.num_kv_heads,
        "head_dim": settings.head_dim,
        "dtype": settings.dtype,
        "is_causal": settings.is_causal,
        "repeats": settings.repeats,
        "seed": settings.seed,
        "cell_budget": settings.cell_budget,
    }


def measure(settings: Settings, cell: Cell, rows: list[dict]) -> dict:
    """The row of a cell: refused, skipped, measured or failed."""
    row = base(settings, cell)
    refusal = refused(settings, cell)
    if refusal is not None:
        return row | {"status": "refused", "reason": refusal}
    row["flops"] = count(settings, cell)
    predicted = predict(row, rows)
    if predicted is not None and predicted * (settings.repeats + 1) > settings.cell_budget:
        reason = f"would take {predicted * (settings.repeats + 1):.0f} s, the budget is {settings.cell_budget:.0f} s"
        return row | {"status": "skipped", "reason": reason, "predicted_seconds": predicted}
    try:
        return row | _timed(settings, cell, predicted)
    except Exception as error:  # one cell that fails must not take the others with it
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {str(error).splitlines()[0][:300]}"}


def _timed(settings: Settings, cell: Cell, predicted: float | None) -> dict:
    function, operands = program(settings, cell)
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*operands).compile()
    compile_seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    found = {"compile_seconds": compile_seconds, "temporary_bytes": memory.temp_size_in_bytes, "needed_bytes": needed}
    if needed > MEMORY_SHARE * free_memory():
        reason = f"needs {needed / 2**30:.1f} GiB, {free_memory() / 2**30:.1f} GiB are free"
        return found | {"status": "skipped", "reason": reason, "predicted_seconds": predicted}
    arrays = draw(operands, settings.seed)
    seconds = times(lambda: compiled(*arrays), settings.repeats)
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return found | {"status": "measured", "seconds": seconds, "median": middle, "quartiles": [low, high]}


def times(function: Callable, repeats: int) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return seconds


def program(settings: Settings, cell: Cell) -> tuple[Callable, list]:
    """What is timed, and the shapes of its operands: queries, keys, values and parameters."""
    dims = settings.dims_at(cell.length)
    query = (dims.batch, dims.query_length, dims.num_heads, dims.head_dim)
    key = (dims.batch, dims.key_length, dims.num_key_value_heads, dims.head_dim)
    operands = [jax.ShapeDtypeStruct(shape, settings.dtype) for shape in (query, key, key)]
    operands.append(jax.eval_shape(lambda: cell.kernel.init(jax.random.key(0), dims)))

    def forward(query, key, value, params):
        return attnzoo.attend(query, key, value, kernel=cell.kernel, params=params, is_causal=settings.is_causal)

    def train(*operands):
        return jax.grad(lambda *operands: jnp.sum(forward(*operands).astype(jnp.float32) ** 2), (0, 1, 2, 3))(*operands)

    return (train if cell.passed == "train" else forward), operands


def draw(shapes, seed: int):
    """Arrays of these shapes, from the normal distribution."""
    leaves, treedef = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return treedef.unflatten([jax.random.normal(key, x.shape, x.dtype) for key, x in zip(keys, leaves, strict=True)])


def count(settings: Settings, cell: Cell) -> float:
    """Floating-point operations of a cell."""
    function, operands = program(settings, cell)
    return counting.flops(function, *operands)


def refused(settings: Settings, cell: Cell) -> str | None:
    """Why the kernel cannot serve the cell, or None."""
    function, operands = program(settings, cell)
    try:
        jax.eval_shape(function, *operands)
    except (NotImplementedError, ValueError) as error:
        return str(error)
    return None


def predict(row: dict, rows: list[dict]) -> float | None:
    """Seconds, from the longest shorter length of the same kernel, by the ratio of operations."""
    same = [name for name in KEY if name not in ("length", "batch", "repeats", "seed")]
    kin = [
        other
        for other in rows
        if all(other.get(name) == row[name] for name in same) and other["length"] < row["length"] and "flops" in other
    ]
    timed = [(other["length"], other.get("median") or other.get("predicted_seconds"), other["flops"]) for other in kin]
    timed = [known for known in timed if known[1] is not None]
    if not timed:
        return None
    _, seconds, flops = max(timed)
    return seconds * row["flops"] / flops


def free_memory() -> float:
    """Bytes that are free where the arrays live."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats["bytes_in_use"])
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return float(line.split()[1]) * 1024
    return float("inf")


def describe(row: dict) -> str:
    """One line about a finished row."""
    head = f"{row['kernel']} {row['pass']} {row['length']:,}"
    if row["status"] == "measured":
        return f"{head}: {row['median'] * 1e3:,.1f} ms, {row['temporary_bytes'] / 2**20:,.1f} MiB"
    return f"{head}: {row['status']}: {row['reason']}"
