"""Settings to rows: a step of each kernel after each context, and text models beside the size of their state."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp

import attnzoo
from attnzoo import Dims, catalogue
from attnzoo.door.decoding import DecodingState
from experiments.bench import brought, records, timing, trust
from experiments.bench.experiment import Cell, Experiment, Run
from experiments.bench.settings import parsed
from experiments.decoding import asked
from experiments.decoding.settings import Settings
from experiments.show import caveats, units
from experiments.train import language
from experiments.train.sweep import run as sweep
from experiments.train.sweep.cells import KEY as TRAINED
from experiments.train.sweep.settings import Settings as Training

TRAINING = {
    "task": "text",
    "heads": 2,
    "learning_rates": "3e-3",
    "isolate": False,
}  # of the text models, beside what settings say
CHOSEN = ("tokens", "batch", "heads", "head_dim", "dtype", "repeats", "cell_budget", "seed")  # settings in a row


class Decoding(Experiment):
    """Kernels of one context take turns."""

    name = "decoding"
    key = ("kernel", "context", *CHOSEN, "platform", "device", "cores")
    columns = ("context", "tokens", "cell_budget")
    caveats = (caveats.MACHINE, "States are full of random numbers.")

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        shared = {name: getattr(settings, name) for name in CHOSEN}
        told = lambda kernel: {"kernel": catalogue.identity(kernel), "name": catalogue.name_of(kernel)}
        yield [
            Cell(shared | told(kernel) | {"context": context}, kernel)
            for context in settings.contexts
            for kernel in settings.kernels
        ]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        for _, group in itertools.groupby(todo, key=lambda cell: cell.row["context"]):
            for row in timing.in_turns(group, prepare, settings.repeats):
                is_timed = row["status"] == "measured"
                yield row | ({"token_seconds": row["median"] / row["tokens"]} if is_timed else {})

    def describe(self, row: dict) -> str:
        told = row.get("reason", "")
        if row["status"] == "measured":
            told = f"{units.seconds_text(row['token_seconds'])} a token, state {units.size_text(row['state_bytes'])}"
        return f"{row['kernel']} after {row['context']:,}: {told}"

    def more(self, settings: Settings) -> int:
        """Train the text models by the sweep that is for it, unless others are to be shown, or none."""
        if settings.quality or not settings.trained:
            return 0
        given = {
            "kernels": ", ".join(map(catalogue.spelled, settings.trained)),
            "lengths": settings.length,
            "steps": settings.steps,
            "tokens": max(2048, settings.length),
        }
        return sweep.run(parsed(Training, **given, **TRAINING, out=_quality(settings)))

    def draw(self, settings: Settings, rows: list[dict], out: pathlib.Path) -> None:
        from experiments.decoding import plot

        plot.draw(rows, trained(_quality(settings)), out)


def _quality(settings: Settings) -> pathlib.Path:
    """Where the text models are."""
    return pathlib.Path(settings.quality) if settings.quality else pathlib.Path(settings.out) / "quality"


def prepare(cell: Cell) -> timing.Call | None:
    """Decoding a few tokens after a full context; the row takes what its state needs, or why it is refused."""
    kernel, row = cell.subject, cell.row
    if not kernel.supports.decode:
        return row.update(status="refused", reason=f"it does not decode: {kernel.supports.why}")
    if found := trust.breach(kernel, row["context"], is_trained=False, is_causal=True):
        return row.update(found)
    length = row["context"] + row["tokens"]
    sizes = {name: row[given] for name, given in (("batch", "batch"), ("num_heads", "heads"), ("head_dim", "head_dim"))}
    dims = Dims(row["batch"], length, length, row["heads"], row["heads"], row["head_dim"], row["head_dim"])
    init, fill, *tokens = jax.random.split(jax.random.key(row["seed"]), 5)
    params = kernel.init(init, dims)
    try:
        empty = attnzoo.start(**sizes, max_length=length, kernel=kernel, params=params, dtype=row["dtype"])
    except ValueError as error:  # the kernel ends before
        return row.update(status="refused", reason=str(error))
    state = after(empty, row["context"], fill)
    shape = (row["tokens"], row["batch"], 1, row["heads"], row["head_dim"])
    arrays = [jax.random.normal(key, shape, row["dtype"]) for key in tokens]
    gates = brought.normal(kernel, dims, shape[:-1], jax.random.fold_in(fill, 1), row["dtype"])

    def decode(state, given):
        def one(state, token):
            (query, key, value), gates = token
            return attnzoo.step(state, query, key, value, params=params, tokens=gates)

        return jax.lax.scan(one, state, given)

    begun = time.perf_counter()
    given = arrays, gates
    compiled = jax.jit(decode, donate_argnums=0).lower(state, given).compile()
    row["compile_seconds"] = time.perf_counter() - begun
    row["state_bytes"] = sum(x.nbytes for x in jax.tree.leaves(state.cache))
    if found := asked.breach(compiled, empty, params, row):
        return row.update(found)
    held = [state]

    def call():
        again = dataclasses.replace(held.pop(), positions=jnp.full_like(empty.positions, row["context"]))
        advanced, out = compiled(again, given)
        held.append(advanced)
        return out

    return call


def after(empty: DecodingState, context: int, rng: jax.Array) -> DecodingState:
    """A state as if `context` tokens had come, its cache full of positive numbers."""
    fill = lambda x: jax.random.uniform(rng, x.shape, minval=0.5, maxval=1.5).astype(x.dtype)
    is_number = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
    cache = jax.tree.map(lambda x: fill(x) if is_number(x) else x, empty.cache)
    return dataclasses.replace(empty, positions=jnp.full_like(empty.positions, context), cache=cache)


def trained(folder: pathlib.Path) -> list[dict]:
    """Rows of a folder's causal models of text whose kernels decode."""
    rows = records.latest(records.read(folder), TRAINED).values()
    return [row for row in rows if language.speaks(row) and row["state_bytes"] is not None]


EXPERIMENT = Decoding()
run = EXPERIMENT.run
