"""Settings to rows: a step of each kernel after each context, and text models beside the size of their state."""

from __future__ import annotations

import dataclasses
import pathlib
import time

import jax
import jax.numpy as jnp

import attnzoo
from attnzoo import Dims, Kernel, catalogue
from attnzoo.decoding import DecodingState
from experiments.bench import locks, outcome, parsing, progress, provenance, records, timing, trust
from experiments.decoding import plot
from experiments.show import units
from experiments.train import language

TRAINING = {"task": "text", "heads": 2, "isolate": False}  # of the text models, beside what settings say
# What makes two rows the same cell.
KEY = (
    "kernel", "context", "tokens", "batch", "heads", "head_dim", "dtype", "repeats", "cell_budget", "seed",
    "platform", "device", "cores",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to time and what to train."""

    kernels: tuple[Kernel, ...]
    contexts: tuple[int, ...]
    tokens: int
    batch: int
    heads: int
    head_dim: int
    dtype: str
    repeats: int
    cell_budget: float
    seed: int
    trained: tuple[Kernel, ...]
    length: int
    steps: int
    quality: str
    out: str

    def __post_init__(self):
        parsing.at_least(1, tokens=self.tokens, batch=self.batch, heads=self.heads, head_dim=self.head_dim)
        parsing.at_least(1, length=self.length)
        parsing.at_least(2, steps=self.steps)
        parsing.at_least(5, repeats=self.repeats)
        parsing.at_least(1e-3, cell_budget=self.cell_budget)
        parsing.at_least(0, seed=self.seed)


def run(settings: Settings) -> int:
    """Time what is missing, train what is missing, then draw; 1 if a cell failed, or all were refused."""
    out = pathlib.Path(settings.out)
    with locks.writing(out):
        environment = provenance.environment()
        wanted = cells(settings, environment)
        done = records.latest(records.read(out), KEY)
        todo = {
            context: [row for row in wanted if row["context"] == context and not records.is_done(row, done, KEY)]
            for context in settings.contexts
        }
        kernels = {repr(kernel): kernel for kernel in settings.kernels}
        with progress.over(todo.values(), f"decoding: {sum(map(len, todo.values()))} cells to do") as each:
            for rows in each:
                for row in _measured(rows, kernels, settings.repeats):
                    records.append(out, row)
                    each.say(describe(row))
        done = records.latest(records.read(out), KEY)
    rows = [done[records.cell(row, KEY)] for row in wanted]
    failed = bool(outcome.code(rows))
    folder = pathlib.Path(settings.quality) if settings.quality else out / "quality"
    if not settings.quality:
        failed |= bool(_train(settings, folder))
    plot.draw(rows, trained(folder), out)
    print(f"rows and figures: {out}")
    return int(failed)


def cells(settings: Settings, environment: dict) -> list[dict]:
    """A row for each kernel and context, before it is measured."""
    names = ("tokens", "batch", "heads", "head_dim", "dtype", "repeats", "cell_budget", "seed")
    shared = environment | {name: getattr(settings, name) for name in names}
    return [
        shared | {"kernel": repr(kernel), "name": catalogue.name_of(kernel), "context": context}
        for context in settings.contexts
        for kernel in settings.kernels
    ]


def _measured(rows: list[dict], kernels: dict[str, Kernel], repeats: int):
    """Rows of one context, timed in turns; those that a kernel refuses or that fail come first."""
    ready = []
    for row in rows:
        kernel = kernels[row["kernel"]]
        if not kernel.supports.decode:
            yield row | {"status": "refused", "reason": f"it does not decode: {kernel.supports.why}"}
            continue
        try:
            if found := trust.breach(kernel, row["context"], is_causal=True):
                yield row | found
                continue
            found, call = _ready(row, kernel)
            ready.append((row | found, call))
        except Exception as error:  # one cell that fails must not take the others with it
            yield row | outcome.failure(error)
    for row in timing.take_turns(ready, repeats):
        yield row | ({"token_seconds": row["median"] / row["tokens"]} if row["status"] == "measured" else {})


def _ready(row: dict, kernel: Kernel):
    """Decoding a few tokens after a full context as a call, with what its state needs."""
    length = row["context"] + row["tokens"]
    sizes = {name: row[given] for name, given in (("batch", "batch"), ("num_heads", "heads"), ("head_dim", "head_dim"))}
    dims = Dims(row["batch"], length, length, row["heads"], row["heads"], row["head_dim"], row["head_dim"])
    init, fill, *tokens = jax.random.split(jax.random.key(row["seed"]), 5)
    params = kernel.init(init, dims)
    empty = attnzoo.start(**sizes, max_length=length, kernel=kernel, params=params, dtype=row["dtype"])
    state = after(empty, row["context"], fill)
    shape = (row["tokens"], row["batch"], 1, row["heads"], row["head_dim"])
    arrays = [jax.random.normal(key, shape, row["dtype"]) for key in tokens]

    def decode(state, arrays):
        return jax.lax.scan(lambda state, token: attnzoo.step(state, *token, params=params), state, arrays)

    begun = time.perf_counter()
    compiled = jax.jit(decode, donate_argnums=0).lower(state, arrays).compile()
    found = {"compile_seconds": time.perf_counter() - begun}
    found["state_bytes"] = sum(x.nbytes for x in jax.tree.leaves(state.cache))
    held = [state]

    def call():
        again = dataclasses.replace(held.pop(), positions=jnp.full_like(empty.positions, row["context"]))
        advanced, out = compiled(again, arrays)
        held.append(advanced)
        return out

    return found, call


def after(empty: DecodingState, context: int, rng: jax.Array) -> DecodingState:
    """A state as if `context` tokens had come, its cache full of positive numbers."""
    fill = lambda x: jax.random.uniform(rng, x.shape, minval=0.5, maxval=1.5).astype(x.dtype)
    is_number = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    cache = jax.tree.map(lambda x: fill(x) if is_number(x) else x, empty.cache)
    return dataclasses.replace(empty, positions=jnp.full_like(empty.positions, context), cache=cache)


def _train(settings: Settings, folder: pathlib.Path) -> int:
    """Train the text models by the experiment that is for it."""
    from experiments.train.sweep import flags, run

    given = {
        "kernels": ", ".join(map(catalogue.spelled, settings.trained)),
        "lengths": settings.length,
        "steps": settings.steps,
        "tokens": max(2048, settings.length),
    }
    return run.run(flags.parsed(**given, **TRAINING, out=folder))


def trained(folder: pathlib.Path) -> list[dict]:
    """Rows of a folder's causal models of text whose kernels decode."""
    from experiments.train.sweep.cells import KEY as CELL

    rows = records.latest(records.read(folder), CELL).values()
    return [row for row in rows if language.speaks(row) and row["state_bytes"] is not None]


def describe(row: dict) -> str:
    """A line on a row."""
    told = row.get("reason", "")
    if row["status"] == "measured":
        told = f"{units.seconds_text(row['token_seconds'])} a token, state {units.size_text(row['state_bytes'])}"
    return f"{row['kernel']} after {row['context']:,}: {told}"
