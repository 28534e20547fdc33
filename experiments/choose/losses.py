"""What rows of trained models tell that a kernel loses beside exact attention."""

from __future__ import annotations

import math

from attnzoo import Kernel, catalogue
from experiments.bench import records
from experiments.show import naming, statistics
from experiments.train.sweep import analysis as sweep
from experiments.train.sweep import convergence

TRAINED = {"task", "metric", "learning_rate", "width"}  # what their rows have
SETTING = tuple(name for name in sweep.GROUP if name != "kernel")  # what their kernels share


def told(rows: list[dict], length: int) -> dict[str, list[str]]:
    """By names of classes, differences to exact attention, of each task one.

    All kernels are told of in one setting, if they have it: a decided one before others, then that of the most kernels,
    the nearest tested length, the most seeds, steps and width, and the last. Models whose layers mix kernels tell of
    none, nor do those whose training was to end before all is learned.
    """
    trained = [row for row in rows if row.keys() >= TRAINED and (row.get("until") or 1.0) >= convergence.CEILING]
    names = {row["kernel"]: _class(row) for row in trained}
    settings: dict[tuple, dict[str, dict]] = {}
    for place in dict.fromkeys(row["place"] for row in trained):
        for at, own in sweep.tested([row for row in trained if row["place"] == place]).items():
            for entry in sweep.summarise(own):
                name = names[entry["kernel"]]
                if entry["difference"] is None or name is None:
                    continue
                found = settings.setdefault((place, at, *records.cell(entry, SETTING)), {})
                if name not in found or naming.short(entry["kernel"]) == name:  # at its defaults, or the first form
                    found[name] = entry | {"tested": at, "place": place}
    chosen: dict[tuple[str, str], dict] = {}
    order = lambda each: (_trust(each[1], length), each[0])
    for _, found in sorted(enumerate(settings.values()), key=order, reverse=True):
        for name, entry in found.items():
            chosen.setdefault((name, naming.short(entry["task"])), entry)
    texts: dict[str, list[str]] = {}
    for (name, _), entry in chosen.items():
        texts.setdefault(name, []).append(_lost(entry))
    return texts


def _trust(found: dict[str, dict], length: int) -> tuple:
    """What is told first, of the entries of one setting."""
    entry, *_ = found.values()
    away = abs(math.log(entry["tested"] / length))
    seeds = min(entry["seeds"], statistics.CLAIM)
    return not entry["doubt"], len(found), -away, seeds, entry["steps"], entry["width"]


def class_of(kernel: Kernel) -> str:
    """Its name, after its module where it is not in the catalogue."""
    return catalogue.identity(kernel).partition("(")[0]


def _class(row: dict) -> str | None:
    """The class of the kernel of all layers, which are told without modules."""
    own = row["kernel"].partition("(")[0]
    names = {each.partition("(")[0] for each in row.get("built") or [own]}
    if names == {own.rpartition(".")[2]}:
        return own
    return names.pop() if len(names) == 1 else None


def _lost(entry: dict) -> str:
    at = entry["tested"]
    unit = "bits" if entry["metric"] == "bits" else "points"
    learned = "" if at == entry["length"] else f" (trained on {entry['length']:,})"
    seeds = f"{entry['seeds']} seed{'s' * (entry['seeds'] > 1)}"
    learns = "it still learns" * (entry["has_flattened"] is False)
    doubt = f" ({entry['doubt'] or learns})" if entry["doubt"] or learns else ""
    return (
        f"{sweep.mean_text(entry['metric'], entry['difference'], '+')} {unit} as {naming.short(entry['kernel'])}, "
        f"{naming.short(entry['task'])}, {at:,} tokens{learned}, {entry['steps']:,} steps, {seeds}{doubt}: "
        f"{entry['place']}"
    )
