"""A ranking in words: a line for each kernel, what stands in it, and what to take."""

from __future__ import annotations

from attnzoo import Softmax, catalogue
from experiments.bench import progress
from experiments.choose import losses
from experiments.choose.losses import Losses, Lost
from experiments.choose.ranking import BOUND, Choice, Ranking
from experiments.show import naming

UNKNOWN = "not trained in these rows"
FRONT = " ★"
ORDER = (
    "of equal times what loses less comes first, then what needs less memory; what was not trained comes after what was"
)
STARRED = "★ nothing here is at least as fast and loses less"
BOUNDED = "≥ so much at least, by formulas or a compiled program, and ranked as if it took no more"
WORSE = {"points": "fewer points are worse", "bits": "more bits are worse"}


def show(title: str, found: Ranking, lost: Losses, is_verbose: bool) -> None:
    """Print the table of what serves, and what its columns are about."""
    sources = [each.source if is_verbose else each.brief for each in found.serving]
    is_same, front = len(set(sources)) == 1, found.front()
    lines = []
    for place, (each, source) in enumerate(zip(found.serving, sources, strict=True), 1):
        loss = _all_losses(each, lost) if is_verbose else _loss(each, found, lost)
        known_from = [] if is_same else [source]
        lines.append([f"{place}{FRONT * (each in front)}", _name(each), *each.told, *known_from, loss])
    known_from = [] if is_same else ["known from"]
    progress.table(title, ["", "kernel", "time", "memory", *known_from, "beside softmax"], lines)
    if is_same:
        print(f"known from: {sources[0]}")
    if lost.deciding:
        setting = losses.setting(lost.deciding)
        print(f"beside softmax: {WORSE[setting.unit]}, in {setting.where}: {setting.place}")
    elif lost.told:
        print("beside softmax: no models that were trained decide")
    is_bound = any(BOUND in told for each in found.serving for told in each.told)
    print(ORDER, *[STARRED] * bool(front), *[BOUNDED] * is_bound, sep="\n")


def _name(choice: Choice) -> str:
    return ", ".join(filter(None, (naming.short(catalogue.identity(choice.kernel)), choice.implementation)))


def _all_losses(choice: Choice, lost: Losses) -> str:
    told = lost.told.get(losses.class_of(choice.kernel), [])
    return "; ".join(each.text for each in told) or UNKNOWN * (type(choice.kernel) is not Softmax)


def _loss(choice: Choice, found: Ranking, lost: Losses) -> str:
    """What is lost in the setting that decides, and of which form, if of another; where none decides, what is told."""
    if type(choice.kernel) is Softmax:
        return ""
    told = lost.told.get(losses.class_of(choice.kernel))
    if not told:
        return UNKNOWN
    own = found.lost(choice)
    if own is None:
        return "in other tasks alone" if found.deciding else f"{told[0].number} {told[0].unit}: nothing is decided"
    return f"{own.number}{_form(choice, own)}{' (it still learns)' * own.still_learns}"


def _form(choice: Choice, lost: Lost) -> str:
    """Of which form a loss is, if of another."""
    form = naming.short(lost.kernel)
    own = naming.short(catalogue.identity(choice.kernel)), losses.class_of(choice.kernel)
    return f" as {form}" * (form not in own)


def refusals(found: Ranking) -> dict[str, list[str]]:
    """Names of what does not serve, by the reason."""
    reasons: dict[str, list[str]] = {}
    for each in found.refused:
        reasons.setdefault(each.refusal, []).append(_name(each))
    return reasons


def picks(found: Ranking) -> list[tuple[str, Choice]]:
    """The first, with what it loses; and where that is something, the first that loses nothing."""
    if not found.serving:
        return []
    first, keeping = found.serving[0], next(filter(found.keeps, found.serving), None)
    told = [(f"the first, {_name(first)}, {_verdict(first, found)}", first)]
    if keeping is not None and keeping is not first:
        told.append((f"the first that is not known to lose any, {_name(keeping)}, {keeping.told[0]}", keeping))
    return told


def _verdict(choice: Choice, found: Ranking) -> str:
    """What a kernel loses, in words."""
    lost = found.lost(choice)
    if type(choice.kernel) is Softmax:
        return "is exact"
    if lost is None:
        return "may lose anything, as nothing is decided of it"
    of = f"{lost.unit}{_form(choice, lost)}, {naming.short(lost.task)}"
    number = lost.number.partition(" ")[0].lstrip("+-")
    return f"LOSES {number} {of}" if lost.is_known else f"is not known to lose any: {lost.number} {of}"
