"""Settings to rows: each work beside each of its peers, in pairs."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pathlib
import time
from importlib import metadata

import numpy as np

from experiments.bench import locks, parsing, processor, progress, provenance, records
from experiments.peers import analysis, calls, plot
from experiments.peers.works import WORKS, Peer, Work
from experiments.show import naming, units

KEY = ("work", "peer", "seed", "platform", "device", "cores")
PAUSE = 0.02  # seconds between ours and theirs: waiting threads of one library would take the cores from the other


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to compare."""

    works: tuple[str, ...]
    pairs: int
    seed: int
    out: str

    def __post_init__(self):
        parsing.at_least(7, pairs=self.pairs)
        parsing.at_least(0, seed=self.seed)


def list_works(settings: Settings) -> int:
    """Print works and peers; run none."""
    header = ["work", "kernel", "length", "pass", "dtype", "projections", "peers (goal)"]
    lines = []
    for name in settings.works:
        work = WORKS[name]
        peers = ", ".join(peer.name + (f" ({peer.goal:g})" if peer.goal else "") for peer in work.peers)
        length, passed = f"{work.length:,}", "train" if work.is_train else "forward"
        lines.append([name, naming.short(repr(work.kernel)), length, passed, work.dtype, str(work.projections), peers])
    progress.table("Works", header, lines)
    return 0


def run(settings: Settings) -> int:
    """Time what is missing, then draw; 1 if a comparison failed."""
    out = pathlib.Path(settings.out)
    with locks.writing(out):
        environment = provenance.environment()
        todo = missing(settings, environment, records.read(out))
        with progress.over(todo, f"peers: {len(todo)} comparisons to do") as each:
            for name, peer in each:
                row = compare(base(settings, environment, name, peer), WORKS[name], peer, settings)
                records.append(out, row)
                each.say(describe(row))
        rows = list(records.latest(records.read(out), KEY).values())
    plot.draw(rows, out)
    progress.table("Peers: their time / ours", *analysis.table(rows))
    print(f"rows, figure and table: {out}")
    return int(any(row["status"] == "failed" for row in rows))


def missing(settings: Settings, environment: dict, rows: list[dict]) -> list[tuple[str, Peer]]:
    """Comparisons without a row, and those that failed or whose package was not there."""
    done = records.latest(rows, KEY)
    pairs = [(name, peer) for name in settings.works for peer in WORKS[name].peers]
    found = [done.get(records.cell(base(settings, environment, *pair), KEY)) for pair in pairs]
    return [pair for pair, row in zip(pairs, found, strict=True) if row is None or row["status"] != "measured"]


def base(settings: Settings, environment: dict, name: str, peer: Peer) -> dict:
    """What identifies a row, and where it was made."""
    work = WORKS[name]
    fields = ("length", "is_causal", "is_train", "dtype", "projections")
    try:
        version = metadata.version(peer.package)
    except metadata.PackageNotFoundError:
        version = None
    return environment | {
        "work": name,
        "kernel": repr(work.kernel),
        **{field: getattr(work, field) for field in fields},
        "peer": peer.name,
        "package": peer.package,
        "version": version,
        "goal": peer.goal,
        "tolerance": peer.tolerance,
        "note": peer.note,
        "seed": settings.seed,
        "pairs": settings.pairs,
    }


def compare(row: dict, work: Work, peer: Peer, settings: Settings) -> dict:
    """The row of one comparison: missing, failed (also where outputs differ), or measured."""
    try:
        theirs, ours = (_call(factory, work, settings.seed) for factory in (peer.factory, "jax_peers.ours"))
        return row | _measure(ours, theirs, peer.tolerance, settings.pairs)
    except ImportError as error:
        return row | {"status": "missing", "reason": f"{error}"}
    except Exception as error:
        return row | {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:300]}


def _call(factory: str, work: Work, seed: int) -> calls.Call:
    module, _, name = factory.partition(".")
    kind = {"jax_peers": calls.of_jax, "torch_peers": calls.of_torch}[module]
    _equal_threads()
    function = getattr(importlib.import_module(f"experiments.peers.{module}"), name)(work)
    inputs = work.inputs(seed)
    direction = np.random.default_rng(seed + 1).normal(size=inputs[0].shape)
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
    found = {"first_seconds": first, "their_first_seconds": their_first, "deviation": float(deviation)}
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


def describe(row: dict) -> str:
    """One line about a finished row."""
    head = f"{row['work']} beside {row['peer']}"
    if row["status"] != "measured":
        return f"{head}: {row['status']}: {row['reason']}"
    low, high = row["quartiles"]
    ours, theirs = (units.seconds_text(float(np.median(row[name]))) for name in ("seconds", "their_seconds"))
    return f"{head}: {row['ratio']:.2f} [{low:.2f}, {high:.2f}], ours {ours}, theirs {theirs}"
