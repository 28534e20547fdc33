"""Settings to rows: each dial's values on each set of operands, errors first and then all of them timed in turns."""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from attnzoo import Dims, Kernel
from experiments.approximation import dials, errors, model, operands
from experiments.approximation.errors import Attention
from experiments.approximation.operands import Layer, Random, Trained
from experiments.approximation.settings import Settings
from experiments.bench import memory, timing
from experiments.bench.experiment import Cell, Experiment, Run
from experiments.show import caveats, units
from experiments.train import language

CHOSEN = ("draws", "repeats", "cell_budget")  # settings in a row, beside those that operands tell
MATRICES = 6  # of [B, N, T, S] that a cell holds at once, beside those of the reference


class Approximated(NamedTuple):
    """A kernel on some operands."""

    source: Random | Trained
    kernel: Kernel


class Approximation(Experiment):
    """Operands after operands; those of a model that is to be trained are asked for when all others are measured."""

    name = "approximation"
    key = (
        "kernel", "operands", "temperature", "model", "corpus", "batch", "length", "heads", "head_dim",
        "is_causal", "draws", "seed", "repeats", "cell_budget", "platform", "device", "cores",
    )  # fmt: skip
    columns = ("dial", "operands", "draws")
    caveats = (caveats.MACHINE, "Linformer's projections are those of init: a trained model's would err less.")

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        """Each kernel on each set of operands; softmax is the first."""
        shared = {name: getattr(settings, name) for name in CHOSEN}
        for source in sources(settings, pathlib.Path(settings.out)):
            chosen = dials.settings(settings.values, source.is_causal)
            told = shared | source.told()
            yield [Cell(told | each.told(), Approximated(source, each.kernel)) for each in chosen]

    def title(self, cells: list[Cell]) -> str:
        return cells[0].subject.source.name

    def missing(self, settings: Settings, cells: list[Cell], rows: list[dict]) -> list[Cell]:
        """Where any is missing, softmax is measured with it: times are told as ratios to it."""
        found = super().missing(settings, cells, rows)
        return found if not found or found[0] is cells[0] else [cells[0], *found]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        """Errors and times on one set of operands; those that a kernel refuses or that fail come first."""
        if not todo:
            return
        source = todo[0].subject.source
        layers = source.layers()
        _refuse_length(source.dims, len(layers))
        expected = [errors.exact(layer, source.is_causal) for layer in layers]
        shared = {"mean_of_values": _mean_of_values(layers, expected, source.is_causal)}
        prepare, timed = functools.partial(_prepare, shared, layers, expected), []
        for row in timing.in_turns(todo, prepare, settings.repeats):
            if row["status"] == "measured":
                timed.append(row)
            else:
                yield row
        yield from _with_ratios(timed)

    def describe(self, row: dict) -> str:
        if "output" not in row:
            return f"{row['kernel']} on {row['operands']}: {row['status']}, {row['reason']}"
        heads = np.ravel(row["output_by_head"])
        told = f"error {np.mean(row['output']):.3g}, of a head {heads.min():.3g} to {heads.max():.3g}"
        time = f", {units.seconds_text(row['median'])}" if row["status"] == "measured" else f", {row['reason']}"
        return f"{row['kernel']} on {row['operands']}: {told}{time}"

    def draw(self, settings: Settings, rows: list[dict], out: pathlib.Path) -> None:
        from experiments.approximation import plot

        for _, own in itertools.groupby(rows, key=lambda row: row["operands"]):
            plot.draw(list(own), out)


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


def _prepare(shared: dict, layers: list[Layer], expected: list[Attention], cell: Cell) -> timing.Call:
    """A kernel's attention on the first layer; the row takes its errors."""
    kernel, row = cell.subject.kernel, cell.row
    programs = errors.programs(kernel, layers[0], row["is_causal"])
    found = errors.of(programs, kernel, layers, expected, row["draws"], row["seed"])
    means = found.mean(axis=(1, 3)).T.tolist()
    row.update(shared, **dict(zip(errors.Errors._fields, means, strict=True)))  # for each draw, over layers and heads
    row["output_by_head"] = found[:, :, 0].mean(axis=0).tolist()  # for each layer and head, over draws
    row["compile_seconds"] = programs.compile_seconds
    return functools.partial(programs.attend, *layers[0], *errors.trees(kernel, layers[0], row["seed"], 0))


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


EXPERIMENT = Approximation()
run = EXPERIMENT.run
