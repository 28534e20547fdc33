"""Settings to rows: each work beside each of its peers, in pairs."""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Iterator
from importlib import metadata

import numpy as np

from experiments.bench import processor, progress
from experiments.bench.experiment import Cell, Experiment, Run, one_by_one
from experiments.peers import analysis, calls
from experiments.peers.settings import Settings
from experiments.peers.works import WORKS, Peer, Work
from experiments.show import caveats, naming, units

PAUSE = 0.02  # seconds between ours and theirs: waiting threads of one library would take the cores from the other
CHOSEN = ("length", "is_causal", "is_train", "dtype", "projections", "pattern", "key_dim")  # fields of a work in a row


class Peers(Experiment):
    """Comparisons, drawn with what earlier runs have left in the folder."""

    name = "peers"
    key = ("work", "peer", "seed", "platform", "device", "cores")
    columns = ("peer", "pairs")
    caveats = (caveats.MACHINE, "Definitions differ as the notes say.")
    noun = "comparisons"
    leaves = "rows, figure and table"
    listing = "list"
    is_cumulative = True

    def cells(self, settings: Settings) -> Iterator[list[Cell]]:
        pairs = [(name, peer) for name in settings.works for peer in WORKS[name].peers]
        yield [Cell(_row(settings, name, peer), (WORKS[name], peer)) for name, peer in pairs]

    def measure(self, settings: Settings, todo: list[Cell], run: Run) -> Iterator[dict]:
        """Missing, failed (also where outputs differ), or measured."""
        return one_by_one(todo, functools.partial(_compared, settings))

    def describe(self, row: dict) -> str:
        head = f"{row['work']} beside {row['peer']}"
        if row["status"] != "measured":
            return f"{head}: {row['status']}: {row['reason']}"
        low, high = row["quartiles"]
        ours, theirs = (units.seconds_text(float(np.median(row[name]))) for name in ("seconds", "their_seconds"))
        return f"{head}: {row['ratio']:.2f} [{low:.2f}, {high:.2f}], ours {ours}, theirs {theirs}"

    def show(self, settings: Settings, rows: list[dict]) -> None:
        progress.table("Peers: their time / ours", *analysis.table(rows))
        super().show(settings, rows)

    def list_cells(self, settings: Settings) -> int:
        header = ["work", "kernel", "length", "pass", "dtype", "projections", "peers (goal)"]
        progress.table("Works", header, list(map(_listed, settings.works)))
        return 0


def _listed(name: str) -> list[str]:
    work = WORKS[name]
    peers = ", ".join(peer.name + (f" ({peer.goal:g})" if peer.goal else "") for peer in work.peers)
    length, passed = f"{work.length:,}", "train" if work.is_train else "forward"
    return [name, naming.short(repr(work.kernel)), length, passed, work.dtype, str(work.projections), peers]


def _row(settings: Settings, name: str, peer: Peer) -> dict:
    """What identifies a row, beside where it is made."""
    work = WORKS[name]
    try:
        version = metadata.version(peer.package)
    except metadata.PackageNotFoundError:
        version = None
    return {
        "work": name,
        "kernel": repr(work.kernel),
        **{field: getattr(work, field) for field in CHOSEN},
        "peer": peer.name,
        "package": peer.package,
        "version": version,
        "goal": peer.goal,
        "tolerance": peer.tolerance,
        "note": peer.note,
        "seed": settings.seed,
        "pairs": settings.pairs,
    }


def _compared(settings: Settings, cell: Cell) -> dict:
    """What a row says of one comparison."""
    work, peer = cell.subject
    try:
        theirs = _call(peer.factory, work, settings.seed, peer.is_compiled)
        ours = _call("jax_peers.ours", work, settings.seed)
        return _measure(ours, theirs, peer.tolerance, settings.pairs)
    except ImportError as error:
        return {"status": "missing", "reason": f"{error}"}


def _call(factory: str, work: Work, seed: int, is_compiled: bool = False) -> calls.Call:
    module, _, name = factory.partition(".")
    kind = calls.of_jax if module == "jax_peers" else calls.of_torch
    _equal_threads()
    function = getattr(importlib.import_module(f"experiments.peers.{module}"), name)(work)
    if is_compiled:
        import torch

        function = function._replace(call=torch.compile(function.call))
    inputs = work.inputs(seed)
    like = inputs[0 if work.projections else 2]  # x, or values
    direction = np.random.default_rng(seed + 1).normal(size=like.shape)
    return kind(function, inputs, direction, work.dtype, work.is_train)


@functools.cache
def _equal_threads() -> None:
    """XLA takes a thread for each core; so shall PyTorch."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(processor.cores())


def _measure(ours: calls.Call, theirs: calls.Call, tolerance: float, pairs: int) -> dict:
    (first, got), (their_first, expected) = _first(ours), _first(theirs)
    deviation = max(np.abs(a - b).max() / max(1, np.abs(b).max()) for a, b in zip(got, expected, strict=True))
    found = {"first_seconds": first, "their_first_seconds": their_first}
    found |= {"deviation": float(deviation)} if np.isfinite(deviation) else {}
    if not deviation <= tolerance:
        return found | {"status": "failed", "reason": f"outputs deviate by {deviation:.2g}, allowed {tolerance:g}"}
    seconds, their_seconds = [], []
    for pair in range(pairs):
        turns = [(ours, seconds), (theirs, their_seconds)]
        for call, times in turns if pair % 2 == 0 else reversed(turns):
            time.sleep(PAUSE)
            start = time.perf_counter()
            call.run()
            times.append(time.perf_counter() - start)
    ratios = np.divide(their_seconds, seconds)
    low, middle, high = map(float, np.quantile(ratios, [0.25, 0.5, 0.75]))
    return found | {
        "status": "measured",
        "seconds": seconds,
        "their_seconds": their_seconds,
        "ratio": middle,
        "quartiles": [low, high],
    }


def _first(call: calls.Call) -> tuple[float, list[np.ndarray]]:
    """Seconds of a first run, compilation included, and its results."""
    start = time.perf_counter()
    result = call.run()
    seconds = time.perf_counter() - start
    results = call.read(result)
    call.run()
    return seconds, results


EXPERIMENT = Peers()
run = EXPERIMENT.run
