"""Settings to rows: steps are timed here, models are trained by `experiments.accuracy`; then the ledger is written."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
from collections import Counter

from attnzoo import Kernel
from experiments.bench import locks, optional, outcome, parsing, progress, provenance, records
from experiments.reproduce import ledger, page, stepping, trainings
from experiments.reproduce.ledger import STEPS, Entry, Rows
from experiments.reproduce.presets import Preset, kernel, preset
from experiments.reproduce.published import Published, results
from experiments.reproduce.stepping import Sizes
from experiments.show import naming, units
from experiments.train.sweep.cells import KEY as TRAINED


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure; `lengths` are published ones of speed and memory, all where empty."""

    only: tuple[str, ...]
    models: tuple[str, ...]
    lengths: tuple[int, ...]
    batch: int
    repeats: int
    out: str
    forms: tuple[str, ...] = Preset._fields
    sizes: Sizes = stepping.LRA

    def __post_init__(self):
        parsing.at_least(1, batch=self.batch)
        parsing.at_least(5, repeats=self.repeats)
        if not self.out.strip():
            raise ValueError("--out is empty: name a folder for rows and ledger")
        if not self.chosen():
            raise ValueError(
                f"--only={','.join(self.only)} --models={','.join(self.models)} "
                f"--lengths={','.join(map(str, self.lengths))}: no published result is all of these"
            )

    def chosen(self) -> list[Published]:
        """The published results that flags name."""
        return [result for result in results() if self._has(result)]

    def kernels(self, result: Published) -> list[str | None]:
        """Those of a result, as text, in the forms that flags name."""
        return [getattr(preset(result), form) for form in self.forms]

    def _has(self, result: Published) -> bool:
        group = result.table if result.is_ratio else trainings.group(result)
        is_long = not result.is_ratio or not self.lengths or result.length in self.lengths
        return group in self.only and result.model in self.models and is_long


def run(settings: Settings) -> int:
    """Measure what is missing, then write; 1 if something failed, or the code of a part that was stopped."""
    out = pathlib.Path(settings.out)
    with locks.writing(out):
        codes = [_time(settings, out)]
    for setting, texts in models(settings).items():
        codes.append(_train(setting, texts, settings.out))
        if codes[-1] not in (0, 1):
            return abs(codes[-1])  # a part that was killed has a negative code
    write(settings)
    return max(codes)


def list_results(settings: Settings) -> int:
    """Print what is known of the results that flags name, and what is to do; measure nothing."""
    rows = read(settings)
    entries = [ledger.entry(result, rows, settings.out) for result in settings.chosen()]
    header, lines = page.table(entries)
    progress.table("Results: nothing is measured", header[:-1], [line[:-1] for line in lines])
    todo = missing(settings, provenance.environment(), rows[STEPS])
    print(f"{len(todo)} steps to time" + "".join(f"\n{kernel!r} at {length:,}" for kernel, length in todo))
    for setting, texts in models(settings).items():
        print(f"{setting}: {trainings.command(setting, texts, settings.out)}")
    return 0


def steps(settings: Settings) -> list[tuple[Kernel, int]]:
    """Kernels and lengths that the chosen speeds and memories are of, those of the reference first."""
    chosen = [result for result in settings.chosen() if result.is_ratio]
    found = [(kernel(text), result.length) for result in chosen for text in settings.kernels(result)]
    references = [(stepping.REFERENCE, length) for _, length in found]
    return list(dict.fromkeys(pair for pair in [*references, *found] if pair[0] is not None))


def missing(settings: Settings, environment: dict, rows: list[dict]) -> list[tuple[Kernel, int]]:
    """Steps without a row, those that failed, and those that did not fit and might now."""
    done = records.latest(rows, stepping.KEY)
    key = lambda pair: records.cell(environment | stepping.cell(settings, *pair), stepping.KEY)
    found = ((pair, done.get(key(pair))) for pair in steps(settings))
    return [pair for pair, row in found if row is None or outcome.is_to_repeat(row)]


def models(settings: Settings) -> dict[str, list[str]]:
    """Kernels, as text, that each setting is to train."""
    found: dict[str, list[str]] = {}
    for result in settings.chosen():
        texts = [] if result.is_ratio else ledger.known(settings.kernels(result))
        if texts:
            found.setdefault(trainings.name(result), []).extend(texts)
    return {setting: list(dict.fromkeys(texts)) for setting, texts in found.items()}


def read(settings: Settings) -> Rows:
    """The last row of each step of this size, and of each trained model."""
    out = pathlib.Path(settings.out)
    same = {"batch": settings.batch, **dataclasses.asdict(settings.sizes)}
    timed = records.latest(records.read(out), stepping.KEY).values()
    timed = [row for row in timed if all(row[name] == value for name, value in same.items())]
    return {STEPS: timed} | {
        setting: list(records.latest(records.read(out / setting), TRAINED).values()) for setting in trainings.TRAININGS
    }


def write(settings: Settings) -> list[Entry]:
    """The whole ledger, whatever flags name: figure, tables and page."""
    out, rows = pathlib.Path(settings.out), read(settings)
    entries = [ledger.entry(result, rows, settings.out) for result in results()]
    optional.draw("experiments.reproduce.plot", entries, out)
    page.write(entries, rows, out)
    counts = Counter(entry.judgement.verdict.value for entry in entries)
    print(", ".join(f"{count} {name}" for name, count in counts.items()) + f"; rows, figure and ledger: {out}")
    return entries


def _time(settings: Settings, out: pathlib.Path) -> int:
    """1 if a step failed, or all were refused."""
    environment = provenance.environment()
    wanted = steps(settings)
    todo = missing(settings, environment, records.read(out))
    title = f"reproduce: {len(todo)} of {len(wanted)} steps to time"
    found = []
    with progress.over(stepping.rows(settings, todo, environment), title, len(todo)) as each:
        for row in each:
            records.append(out, row)
            found.append(row)
            each.say(describe(row))
    return outcome.code(found)


def _train(setting: str, texts: list[str], out: str) -> int:
    print(f"$ {trainings.command(setting, texts, out)}", flush=True)
    return subprocess.run([sys.executable, *trainings.arguments(setting, texts, out)]).returncode


def describe(row: dict) -> str:
    """One line about a finished step."""
    head = f"{naming.short(row['kernel'])} {row['length']:,}"
    if row["status"] != "measured":
        return f"{head}: {row['status']}: {row['reason']}"
    low, high = map(units.seconds_text, row["quartiles"])
    size, compiled = units.size_text(row["needed_bytes"]), units.seconds_text(row["compile_seconds"])
    return f"{head}: {units.seconds_text(row['median'])} [{low}, {high}], {size}, compiled in {compiled}"
