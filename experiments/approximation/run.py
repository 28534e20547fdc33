"""Settings to rows: each dial's values on each set of operands, errors first and then all of them timed in turns."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import numpy as np

from attnzoo import Dims, Kernel
from experiments.approximation import dials, errors, model, operands, plot
from experiments.approximation.errors import Attention
from experiments.approximation.operands import Layer, Random, Trained
from experiments.bench import locks, memory, outcome, parsing, progress, provenance, records, timing
from experiments.show import units
from experiments.train import language

# What makes two rows the same cell.
KEY = (
    "kernel", "operands", "temperature", "model", "corpus", "batch", "length", "heads", "head_dim",
    "is_causal", "draws", "seed", "repeats", "cell_budget", "platform", "device", "cores",
)  # fmt: skip
MATRICES = 6  # of [B, N, T, S] that a cell holds at once, beside those of the reference


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure; `values` has those of each dial's flag."""

    operands: tuple[str, ...]
    temperatures: tuple[float, ...]
    values: dict[str, tuple[int, ...]]
    length: int
    heads: int
    head_dim: int
    is_causal: bool
    draws: int
    seed: int
    checkpoint: str
    texts: int
    steps: int
    repeats: int
    cell_budget: float
    out: str

    def __post_init__(self):
        parsing.at_least(1, length=self.length, heads=self.heads, head_dim=self.head_dim)
        parsing.at_least(1, draws=self.draws, texts=self.texts)
        parsing.at_least(2, steps=self.steps)
        parsing.at_least(5, repeats=self.repeats)
        parsing.at_least(1e-3, cell_budget=self.cell_budget)
        parsing.at_least(0, seed=self.seed)
        for temperature in self.temperatures:
            parsing.at_least(1e-6, temperatures=temperature)


def run(settings: Settings) -> int:
    """Measure what is missing, operands after operands, and draw; 1 if a cell failed."""
    out, failed = pathlib.Path(settings.out), False
    with locks.writing(out):
        environment = provenance.environment()
        for source in sources(settings, out):
            rows = _rows(settings, source, environment, out)
            plot.draw(rows, out)
            failed |= any(row["status"] == "failed" for row in rows)
    print(f"rows and figures: {out}")
    return int(failed)


def sources(settings: Settings, out: pathlib.Path) -> Iterator[Random | Trained]:
    """Random operands at each temperature, and then those of a model, which is trained when it is asked for."""
    if "random" in settings.operands:
        dims = Dims(1, *2 * (settings.length,), *2 * (settings.heads,), *2 * (settings.head_dim,))
        for temperature in settings.temperatures:
            yield Random(temperature, dims, settings.is_causal, settings.seed)
    if "trained" in settings.operands:
        if settings.checkpoint:
            folder = language.find_exact(pathlib.Path(settings.checkpoint))
        else:
            folder = model.train(out / "model", settings.length, settings.steps, settings.is_causal)
        yield operands.trained(folder, settings.texts, settings.length, settings.seed)


def cells(settings: Settings, source: Random | Trained, environment: dict) -> list[dict]:
    """A row for each kernel on these operands, before it is measured; softmax is the first."""
    names = ("draws", "repeats", "cell_budget")
    shared = environment | source.told() | {name: getattr(settings, name) for name in names}
    return [shared | setting.told() for setting in dials.settings(settings.values, source.is_causal)]


def _rows(settings: Settings, source: Random | Trained, environment: dict, out: pathlib.Path) -> list[dict]:
    """The rows of these operands. Where any is missing, softmax is measured with it: times are told as ratios to it."""
    chosen = dials.settings(settings.values, source.is_causal)
    wanted = cells(settings, source, environment)
    done = records.latest(records.read(out), KEY)
    missing = [not records.is_done(row, done, KEY) for row in wanted]
    missing[0] = any(missing)
    todo = [(row, setting.kernel) for row, setting, asked in zip(wanted, chosen, missing, strict=True) if asked]
    title = f"{source.name}: {len(todo)} cells to do"
    with progress.over(_measured(todo, source), title, len(todo)) as each:
        for row in each:
            records.append(out, row)
            each.say(describe(row))
    done = records.latest(records.read(out), KEY)
    return [done[records.cell(row, KEY)] for row in wanted]


def _measured(todo: list[tuple[dict, Kernel]], source: Random | Trained) -> Iterator[dict]:
    """Rows; those that a kernel refuses or that fail come first."""
    if not todo:
        return
    layers = source.layers()
    _refuse_length(source.dims, len(layers))
    expected = [errors.exact(layer, source.is_causal) for layer in layers]
    shared = {"mean_of_values": _mean_of_values(layers, expected, source.is_causal)}
    ready = []
    for row, kernel in todo:
        try:
            found, call = _ready(row, kernel, layers, expected)
            ready.append((row | shared | found, call))
        except NotImplementedError as error:
            yield row | {"status": "refused", "reason": str(error)}
        except Exception as error:  # one cell that fails must not take the others with it
            yield row | outcome.failure(error)
    yield from _with_ratios(list(timing.take_turns(ready, todo[0][0]["repeats"])))


def _ready(row: dict, kernel: Kernel, layers: list[Layer], expected: list[Attention]):
    """A kernel's errors, and its attention on the first layer as a call."""
    programs = errors.programs(kernel, layers[0], row["is_causal"])
    found = errors.of(programs, kernel, layers, expected, row["draws"], row["seed"])
    call = functools.partial(programs.attend, *layers[0], *errors.trees(kernel, layers[0], row["seed"], 0))
    means = found.mean(axis=(1, 3)).T.tolist()
    told = dict(zip(errors.Errors._fields, means, strict=True))  # for each draw, over layers and heads
    told |= {"output_by_head": found[:, :, 0].mean(axis=0).tolist()}  # for each layer and head, over draws
    return told | {"compile_seconds": programs.compile_seconds}, call


def _mean_of_values(layers: list[Layer], expected: list[Attention], is_causal: bool) -> dict[str, float]:
    """Errors of attention that ignores the query, over layers and heads."""
    pairs = zip(layers, expected, strict=True)
    found = [errors.between(errors.indifferent(layer, is_causal), exact) for layer, exact in pairs]
    return dict(zip(errors.Errors._fields, np.mean(found, axis=(0, 2), dtype=np.float64).tolist(), strict=True))


def _with_ratios(rows: list[dict]) -> Iterator[dict]:
    """Timed rows with the ratio of times to softmax: median and quartiles over turns, in which both were timed."""
    exact = next((row for row in rows if row["kernel"] == repr(dials.EXACT) and row["status"] == "measured"), None)
    for row in rows:
        if exact is not None and row["status"] == "measured":
            ratios = np.divide(row["seconds"], exact["seconds"])
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
            row |= {"ratio": middle, "ratio_quartiles": [low, high]}
        yield row


def _refuse_length(dims: Dims, layers: int) -> None:
    """Refuse operands whose matrices do not fit into memory."""
    needed = 4 * dims.batch * dims.num_heads * dims.query_length**2 * (layers + MATRICES)
    if not memory.fits(needed):
        raise ValueError(
            f"--length={dims.query_length}: matrices of attention would take {units.size_text(needed)}, of which "
            f"{units.size_text(memory.free_memory())} are free; choose fewer tokens or heads"
        )


def describe(row: dict) -> str:
    """A line on a row."""
    if "output" not in row:
        return f"{row['kernel']} on {row['operands']}: {row['status']}, {row['reason']}"
    heads = np.ravel(row["output_by_head"])
    told = f"error {np.mean(row['output']):.3g}, of a head {heads.min():.3g} to {heads.max():.3g}"
    time = f", {units.seconds_text(row['median'])}" if row["status"] == "measured" else f", {row['reason']}"
    return f"{row['kernel']} on {row['operands']}: {told}{time}"
