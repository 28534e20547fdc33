"""One table of what is known at one length: of each kernel its time, memory and state, and what it loses.

A column is of one length for all kernels, the measured one that is nearest to what was asked for, which its head tells.
What is lost comes first, then what decoding keeps, and times of the setting with the most kernels: where tokens see the
past, as they do in most models that are scored, and where they see all, each in columns of its own. Of what was
trained, bits and answers are of the largest number of kernels beside each other, at the nearest length that their
models were tested on: of the setting with the most kernels, rates and seeds; of other kernels, trained otherwise, they
stand beside these, say so, and are compared with none.
The best number of a column is starred, beside those that cannot be told from it: where seeds are the same, the interval
of differences holds 0; else both intervals meet. Nothing is starred where seeds are too few for a claim, or the
baseline is not where it ends. A kernel that was refused anywhere because it breaks a law has no number in any column.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from attnzoo import KERNELS, Dims
from experiments.accuracy import run as accuracy
from experiments.bench import records
from experiments.report.columns import Column, Found
from experiments.report.front import front
from experiments.scaling import analysis as scaling
from experiments.scaling import run as scaled
from experiments.show import calls, naming, statistics, units
from experiments.show.tables import Table
from experiments.show.units import Shown
from experiments.train.sweep import analysis as sweep

BEST = "★ "


class Opening(NamedTuple):
    """The table of one length, and what it comes to: which to use by what is lost, and heads of columns with the
    kernels that are best there."""

    table: Table
    fronts: list[Table]
    best: list[tuple[str, str]]


def opening(rows: Iterable[dict], length: int | None = None) -> Opening | None:
    """What is known at `length`, or at the longest that was timed; None where nothing is measured.

    Args:
      rows: of any experiments, of which those of `scaling` and `accuracy` are looked at.
    """
    every = list(rows)
    broken = _broken(every)
    rows = [row for row in every if row.get("kernel") not in broken]
    timed = _most([row for row in rows if scaled.EXPERIMENT.wrote(row) and not row.get("mesh")], _two_sided)
    trained = [row for row in rows if accuracy.EXPERIMENT.wrote(row)]
    asked = length or max((row["length"] for row in timed or trained), default=None)
    if asked is None:
        return None
    scores, kept, (times, memories) = _trained(trained, asked), _kept(timed, asked), _timed(timed, asked)
    columns = [*scores, *kept, *times]
    columns, memories = ([column for column in each if column.found] for each in (columns, memories))
    if not columns:
        return None
    known = [*timed, *trained, *broken.values()]
    kernels = _kernels(known)
    refused = _refused(timed, asked) | {row["name"]: f"breaks `{row['law']}`" for row in broken.values()}
    is_known = lambda name: name in refused or any(name in column.found for column in (*columns, *memories))
    heads = [[column.head for column in each] for each in (columns, memories)]
    header = ["kernel", *heads[0], "code", *heads[1], "not measured"]
    lines = []
    for name in filter(is_known, kernels):
        cells, held = ([_cell(column, name, kernels[name]) for column in each] for each in (columns, memories))
        code = _code(kernels[name], known, {own.found[name].kernel for own in scores if name in own.found})
        lines.append([naming.short(kernels[name]), *cells, code, *held, refused.get(name, "")])
    told = f"; times of {scaling.setting_text(timed[0] | {'is_causal': False})}" if timed else ""
    found = Table(f"At {asked:,} tokens, or the nearest length that was measured{told}", header, lines)
    return Opening(found, _fronts(scores, times, kept), _starred(found))


def _fronts(scores: list[Column], times: list[Column], kept: list[Column]) -> list[Table]:
    """By each score and each time of calls in which tokens see alike."""
    state = kept[0] if kept else None
    alike = [(own, each) for own, each in itertools.product(scores, times) if own.is_like(each)]
    return [found for found in (front(own, each, state) for own, each in alike) if found]


def _starred(found: Table) -> list[tuple[str, str]]:
    """The heads of columns that have a best number, each with its kernels, and among how many that is."""
    told = []
    for place, head in enumerate(found.header):
        starred = [line[0] for line in found.lines if line[place].startswith(BEST)]
        if starred:
            count = sum(bool(line[place]) for line in found.lines)
            told.append((head, f"{', '.join(starred)}, of {count}"))
    return told


def _broken(rows: list[dict]) -> dict[str, dict]:
    """Of each kernel that is refused because of a law, a row that says so and is the last of its cell."""
    found = {}
    for experiment in (accuracy.EXPERIMENT, scaled.EXPERIMENT):
        for row in experiment.last(filter(experiment.wrote, rows)).values():
            if row["status"] == "refused" and "law" in row:
                found[row["kernel"]] = row
    return found


def _code(kernel: str, rows: list[dict], scored: set[str]) -> str:
    """The line that runs a kernel as its rows did, causally where it was, which says what other forms scores are of."""
    own = [row for row in rows if row["kernel"] == kernel]
    measured = [row for row in own if row["status"] == "measured"] or own
    heads, length = measured[0].get("heads") or 1, max(row["length"] for row in measured)
    width = measured[0].get("head_dim") or max(1, (measured[0].get("width") or 0) // heads)
    dims = Dims(1, length, length, heads, measured[0].get("num_kv_heads") or heads, width, width)
    is_causal = any(row.get("is_causal") for row in measured)
    line = calls.attending(kernel, dims, measured[0].get("dtype") or "float32", is_causal=is_causal)
    others = " and ".join(map(naming.short, sorted(scored - {kernel})))
    return f"{line}  # scores are of {others}" if others else line


def _most(
    rows: list[dict], group: Callable[[dict], Any], then: Callable[[list[dict]], Any] = lambda own: 0
) -> list[dict]:
    """Rows of the group in which the most kernels are; of several, in which `then` is most."""
    groups: dict[Any, list[dict]] = {}
    for row in rows:
        groups.setdefault(group(row), []).append(row)
    return max(groups.values(), key=lambda own: (len({row["kernel"] for row in own}), then(own)), default=[])


def _two_sided(row: dict) -> tuple:
    """What must be equal for rows to stand in one table, whether causal or not."""
    return scaling.setting(row | {"is_causal": False})


def _nearest(rows: list[dict], length: int, along: str = "length") -> list[dict]:
    """Rows of the length that is nearest by its logarithm."""
    near = min({row[along] for row in rows}, key=lambda each: abs(math.log(each / length)), default=None)
    return [row for row in rows if row[along] == near]


def _kernels(rows: list[dict]) -> dict[str, str]:
    """The first form of each kernel by its name, those of the catalogue first and in its order: a table has one line of
    each, whose cells name another form."""
    found: dict[str, str] = {}
    for row in rows:
        found.setdefault(row["name"], row["kernel"])
    return {name: found[name] for name in dict.fromkeys((*KERNELS, *found)) if name in found}


def _kept(rows: list[dict], length: int) -> list[Column]:
    """What decoding keeps, which is of one size whether or not all tokens see the past alone."""
    kept = [row for row in _nearest(rows, length) if row.get("state_bytes") is not None]
    state = lambda row: _found(units.size_text, row["state_bytes"], row["kernel"])
    return [Column(f"state, {kept[0]['length']:,}", _by_name(kept, state))] if kept else []


def _timed(rows: list[dict], length: int) -> tuple[list[Column], list[Column]]:
    """Times and memory, first where all rows are causal."""
    ways = [_in_one_way([row for row in rows if row["is_causal"] is way], length) for way in (True, False)]
    times, memories = (list(itertools.chain(*own)) for own in zip(*ways, strict=True))
    return times, memories


def _in_one_way(rows: list[dict], length: int) -> tuple[list[Column], list[Column]]:
    """Times and memory where all rows are causal, or none is."""
    measured = [row for row in _nearest(rows, length) if row["status"] == "measured"]
    time = lambda row: _found(units.seconds_text, row["median"], row["kernel"], *row["quartiles"])
    memory = lambda row: _found(units.size_text, row["temporary_bytes"], row["kernel"])
    times, memories = [], []
    for passed in dict.fromkeys(row["pass"] for row in measured):
        own = [row for row in measured if row["pass"] == passed]
        how = f"{passed}{', causal' * own[0]['is_causal']}, {own[0]['length']:,}"
        times.append(Column(f"time {how}", _by_name(own, time), is_causal=own[0]["is_causal"]))
        memories.append(Column(f"memory {how}", _by_name(own, memory)))
    return times, memories


def _trained(rows: list[dict], length: int) -> list[Column]:
    columns = []
    for (metric, head), is_causal in itertools.product((("accuracy", "recall"), ("bits", "bits")), (True, False)):
        own = [row for row in rows if row["metric"] == metric and row["is_causal"] is is_causal]
        alike = lambda row: (row["task"], row["positions"], row["width"], row["steps"])
        own = _most(own, alike, lambda rows: (len(rows), rows[0]["steps"]))
        own = _nearest(_widely_tested(own), length, "tested")
        learned = max((row["length"] for row in own), default=0)
        own = [row for row in own if row["length"] == learned]
        settings = _settings([entry for entry in sweep.summarise(own) if entry["score"]])
        if not settings:
            continue
        entries, *others = settings
        found = _by_name(reversed(entries), lambda entry, metric=metric: _scored(entry, metric))
        for entry in itertools.chain(*others):
            apart = _scored(entry, metric)
            found.setdefault(entry["name"], apart._replace(text=f"{apart.text}, trained otherwise", is_apart=True))
        few = statistics.doubt(max(entry["seeds"] for entry in entries))
        doubts = list(filter(None, (next((x["doubt"] for x in entries if x["doubt"]), ""), few)))
        at = own[0]["tested"]
        place = f"{at:,}" if at == learned else f"{at:,} (trained on {learned:,})"
        but = f" ({'; '.join(doubts)})" if doubts else ""
        told = f"{head}, {naming.short(entries[0]['task'])}, {place}{but}"
        columns.append(Column(told, found, metric, not doubts, is_causal))
    return columns


def _settings(entries: list[dict]) -> list[list[dict]]:
    """Entries of each setting, that with the most kernels first, then with the most rates and seeds."""
    shared = [name for name in sweep.GROUP if name != "kernel"]
    groups: dict[tuple, list[dict]] = {}
    for entry in entries:
        groups.setdefault(records.cell(entry, shared), []).append(entry)
    most = lambda own: (len({entry["name"] for entry in own}), *(max(x[of] for x in own) for of in ("rates", "seeds")))
    return sorted(groups.values(), key=most, reverse=True)


def _widely_tested(rows: list[dict]) -> list[dict]:
    """Trained models at each length that as many kernels were tested on as on any."""
    found = sweep.tested(rows)
    kernels = {length: len({row["kernel"] for row in own}) for length, own in found.items()}
    return [row for length, own in found.items() if kernels[length] == max(kernels.values()) for row in own]


def _by_name(rows: Iterable[dict], found: Callable[[dict], Found]) -> dict[str, Found]:
    return {row["name"]: found(row) for row in rows}


def _found(text: Callable, value: float, kernel: str, low: float | None = None, high: float | None = None) -> Found:
    """A number with its quartiles, where it has some."""
    told = text(value) if low is None else units.between_text(text, value, low, high)
    return Found(told, value, kernel, value if low is None else low, value if high is None else high)


def _scored(entry: dict, metric: str) -> Found:
    mean: statistics.Mean = entry["score"]
    low, high = (mean.value if end is None else end for end in mean[1:])
    return Found(sweep.mean_text(metric, mean), mean.value, entry["kernel"], low, high, by_seed=entry["by_seed"])


def _cell(column: Column, name: str, kernel: str) -> str:
    """What a column says of a kernel; starred where nothing is better beyond its interval."""
    if name not in column.found:
        return ""
    own = column.found[name]
    star = BEST if _is_best(own, column) else ""
    _, opened, arguments = naming.short(own.kernel).partition("(")
    form = f" {opened}{arguments}" if own.kernel != kernel else ""
    return Shown(f"{star}{own.text}{form}", own.value)


def _is_best(own: Found, column: Column) -> bool:
    rivals = [each for each in column.found.values() if not each.is_apart]
    if own.is_apart or len(rivals) < 2 or not column.is_decided:
        return False
    best = (max if column.is_more_better else min)(rivals, key=lambda each: each.value)
    apart = statistics.paired(own.by_seed, best.by_seed, statistics.interval(column.metric))
    if apart is None or apart.low is None:
        return own.low <= best.high and best.low <= own.high
    return apart.low <= 0 <= apart.high


def _refused(rows: list[dict], length: int) -> dict[str, str]:
    """Why kernels were not timed there: each reason once, after the passes that it is of."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in _nearest(rows, length):
        if row["status"] != "measured":
            why = f"{row['status']}: {row['reason'].split('. ')[0]}"
            passes = found.setdefault(row["name"], {}).setdefault(why, [])
            passes.append(row["pass"] + ", causal" * row["is_causal"])
    told = lambda reasons: "; ".join(f"{', '.join(passes)}: {why}" for why, passes in reasons.items())
    return {name: told(reasons) for name, reasons in found.items()}


def of_folder(places: Iterable, length: int | None) -> Opening | None:
    """That of all rows of some folders."""
    return opening((row for place in places for row in records.whole(place)[0]), length)
