"""Columns of what trained models lose: bits, and answers.

They are of the largest number of kernels beside each other, at the nearest length that their models were tested on: of
the setting with the most kernels, rates and seeds. Other kernels, trained otherwise, stand beside these, say so, and
are compared with none.
"""

from __future__ import annotations

import itertools

from experiments.bench import records
from experiments.report import picking, words
from experiments.report.columns import SCORES, Column, Found
from experiments.show import statistics
from experiments.train.sweep import analysis as sweep

LEARNS = "still learning"


def columns(rows: list[dict], length: int) -> list[Column]:
    """Of each kind of score, where tokens see the past and where they see all.

    Args:
      rows: of `accuracy`.
    """
    found = []
    for kind, is_causal in itertools.product(SCORES, (True, False)):
        own = [row for row in rows if row["metric"] == kind and row["is_causal"] is is_causal]
        alike = lambda row: (row["task"], row["positions"], row["width"], row["steps"])
        own = picking.most(own, alike, lambda rows: (len(rows), rows[0]["steps"]))
        own = picking.nearest(_widely_tested(own), length, "tested")
        learned = max((row["length"] for row in own), default=0)
        settings = _settings([row for row in own if row["length"] == learned])
        found += [_column(kind, is_causal, own[0]["tested"], settings)] if settings else []
    return found


def _column(kind: str, is_causal: bool, tested: int, settings: list[list[dict]]) -> Column:
    entries, *others = settings
    found = {entry["name"]: _scored(entry) for entry in reversed(entries)}
    for entry in itertools.chain(*others):
        apart = _scored(entry)
        found.setdefault(
            entry["name"], apart._replace(note=words.joined("trained otherwise", apart.note), is_apart=True)
        )
    few = statistics.doubt(max(entry["seeds"] for entry in entries))
    doubts = list(filter(None, (next((each["doubt"] for each in entries if each["doubt"]), ""), few)))
    task, learned = words.task(entries[0]["task"]), entries[0]["length"]
    label = "bits" if kind == "bits" else "recall" if "recall" in task else "answers"
    place = f"{tested:,}" if tested == learned else f"{tested:,} (trained on {learned:,})"
    head = f"{'' if label in task else f'{label}, '}{task}, {place}{f' ({words.joined(*doubts)})' if doubts else ''}"
    told = _told(entries, task, tested) + "".join(f"; {doubt}" for doubt in doubts)
    of = {"is_decided": not doubts, "is_causal": is_causal, "label": label, "told": told}
    return Column(kind, head, found, tested, **of)


def _told(entries: list[dict], task: str, tested: int) -> str:
    """What was asked, of which models."""
    first, seeds = entries[0], sorted({entry["seeds"] for entry in entries})
    models = f"models of width {first['width']:,} trained on {'up to ' * bool(first['curriculum'])}{first['length']:,}"
    count = " to ".join(f"{each}" for each in dict.fromkeys((seeds[0], seeds[-1])))
    asked = task.removeprefix("recall ")
    return f"{asked}, over {tested:,} tokens, by {models}, {count} seed{'s' * (seeds[-1] > 1)}"


def _settings(rows: list[dict]) -> list[list[dict]]:
    """What is told of each setting, that with the most kernels first, then with the most rates and seeds."""
    shared = [name for name in sweep.GROUP if name != "kernel"]
    groups: dict[tuple, list[dict]] = {}
    for entry in sweep.summarise(rows):
        if entry["score"]:
            groups.setdefault(records.cell(entry, shared), []).append(entry)
    most = lambda own: (len({entry["name"] for entry in own}), *(max(x[of] for x in own) for of in ("rates", "seeds")))
    return sorted(groups.values(), key=most, reverse=True)


def _widely_tested(rows: list[dict]) -> list[dict]:
    """Trained models at each length that as many kernels were tested on as on any."""
    found = sweep.tested(rows)
    kernels = {length: len({row["kernel"] for row in own}) for length, own in found.items()}
    return [row for length, own in found.items() if kernels[length] == max(kernels.values()) for row in own]


def _scored(entry: dict) -> Found:
    mean: statistics.Mean = entry["score"]
    low, high = (mean.value if end is None else end for end in mean[1:])
    text = sweep.mean_text(entry["metric"], mean)
    note = LEARNS if entry["has_flattened"] is False else ""
    return Found(text, mean.value, entry["kernel"], low, high, by_seed=entry["by_seed"], note=note)
