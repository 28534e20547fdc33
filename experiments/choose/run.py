"""The catalogue, ranked for one call: what serves it by its time, and what does not with the reason."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import NamedTuple

from attnzoo import Dims, Kernel, Softmax, catalogue
from experiments.bench import asked, progress, trust
from experiments.bench.experiment import Cell
from experiments.bench.program import Program
from experiments.choose import knowledge, losses
from experiments.choose.settings import Settings
from experiments.decoding import run as decoding
from experiments.show import naming, units

ASKED = 1024  # tokens, at most, of a call of a kernel of one's own that is held to laws: some seconds
STEPS, BUDGET = 16, 10.0  # tokens that are then decoded, and seconds for those before them
UNKNOWN = "not trained in these rows"
ORDER = "Of equal times what was trained comes first, then less memory. Fewer points are worse, and more bits."


class Choice(NamedTuple):
    """A kernel for the call: seconds and bytes, from where these are known, and why it cannot serve, if it cannot."""

    kernel: Kernel
    seconds: float
    size: float
    told: str  # the size in words
    source: str
    refusal: str = ""
    implementation: str | None = None  # what is named in the call


def run(settings: Settings) -> int:
    """Print the ranking; 1 where nothing serves."""
    rows = knowledge.read(pathlib.Path(settings.rows))
    if not rows:
        place = pathlib.Path(settings.rows).absolute()
        print(f"no rows of times or losses in {place}, so formulas tell alone: name a folder of rows by --rows")
    lost_by = losses.told(rows, settings.length)
    call = knowledge.Call(settings.device, settings.length, settings.causal, passed(settings), settings.dtype)
    serves = lambda kernel: lambda implementation: program(settings, kernel, implementation).refusal() is None
    known = {kernel: knowledge.factor(rows, kernel, call, serves(kernel)) for kernel in settings.kernels}
    other = knowledge.typical([each for each in known.values() if each is not None])
    broken = knowledge.broken(rows)
    law = lambda kernel: broken.get(catalogue.identity(kernel), "") or _law(settings, kernel)
    choose = lambda kernel, known: choice(settings, kernel, known, law(kernel))
    lost = lambda kernel: "; ".join(lost_by.get(losses.class_of(kernel), [])) or UNKNOWN * (type(kernel) is not Softmax)
    order = lambda each: (bool(each.refusal), each.seconds, lost(each.kernel) == UNKNOWN, each.size)
    every = sorted((choose(kernel, each or other) for kernel, each in known.items()), key=order)
    header = ["", "kernel", "time", "memory", "known from", "beside softmax"]
    lines = []
    for place, each in enumerate(every, 1):
        name = ", ".join(filter(None, (naming.short(catalogue.identity(each.kernel)), each.implementation)))
        if each.refusal:
            lines.append(["", name, "", "", each.refusal, ""])
            continue
        numbers = units.seconds_text(each.seconds), each.told
        lines.append([str(place), name, *numbers, each.source, lost(each.kernel)])
    progress.table(_title(settings), header, lines)
    print(ORDER)
    serving = [each for each in every if not each.refusal]
    if serving:
        print(f"the first as code: {_code(settings, serving[0])}")
    return int(not serving)


def passed(settings: Settings) -> str:
    """What is done, as rows call it."""
    return knowledge.DECODE if settings.decode else "train" if settings.train else "forward"


def choice(settings: Settings, kernel: Kernel, known: knowledge.Factor, broken: str = "") -> Choice:
    """What is known of a kernel in the place of the call; `broken` says which law it breaks, if one."""
    own = program(settings, kernel, known.implementation)
    target = knowledge.chip(settings.device)
    nothing = lambda why: Choice(kernel, math.inf, math.inf, "", "", why)
    if refusal := broken or _refusal(settings, own):
        return nothing(refusal)
    least = knowledge.least(kernel, own.dims, settings.dtype, settings.causal, passed(settings), target)
    if settings.decode:
        size, is_bound = kernel.state_bytes(own.dims, settings.dtype), False
    else:
        size, is_bound = knowledge.holds(own) * (known.held or 1), known.held is None
    told = f"{'at least ' * is_bound}{units.size_text(size)}"
    limit = min(settings.memory or math.inf, target.capacity)
    if size > limit:
        return nothing(f"needs {told}, there are {units.size_text(limit)}")
    return Choice(kernel, known.value * least, size, told, known.source, implementation=known.implementation)


def _law(settings: Settings, kernel: Kernel) -> str:
    """Which law a kernel of one's own breaks in a call like the one that is asked about, of fewer tokens."""
    if trust.is_ours(kernel):
        return ""
    asked_about = dataclasses.replace(settings, length=min(settings.length, ASKED))
    try:
        found = _breach_of_steps(asked_about, kernel) if settings.decode else _breach(asked_about, kernel)
    except NotImplementedError:  # which the call is refused for
        return ""
    return f"refused: breaks `{found['law']}`" if found and "law" in found else ""


def _breach(settings: Settings, kernel: Kernel) -> dict | None:
    own = program(settings, kernel, None)
    found = trust.breach(kernel, settings.length, is_trained=settings.train, is_causal=settings.causal)
    return found or asked.breach(own, own.operands(0))


def _breach_of_steps(settings: Settings, kernel: Kernel) -> dict | None:
    """What a row of decoding says of the kernel."""
    shared = {name: getattr(settings, name) for name in ("batch", "heads", "head_dim", "dtype")}
    cell = Cell(shared | {"context": settings.length, "tokens": STEPS, "cell_budget": BUDGET, "seed": 0}, kernel)
    decoding.prepare(cell)
    return cell.row


def program(settings: Settings, kernel: Kernel, implementation: str | None) -> Program:
    """The call by an implementation."""
    length, heads = settings.length + settings.decode, settings.kv_heads or settings.heads
    dims = Dims(settings.batch, length, length, settings.heads, heads, settings.head_dim, settings.head_dim)
    return Program(kernel, dims, settings.dtype, settings.causal, settings.train, implementation=implementation)


def _refusal(settings, program: Program) -> str:
    if settings.decode and program.kernel.state_bytes(program.dims, settings.dtype) is None:
        return "refused: it does not decode"
    found = program.refusal()
    return f"refused: {found.split('. ')[0]}" if found else ""


def _title(settings: Settings) -> str:
    device = knowledge.chip(settings.device).name
    what = "a token after" if settings.decode else "forward and backward," if settings.train else "forward,"
    return (
        f"{what} {settings.length:,} tokens{', causal' * settings.causal}, batch {settings.batch}, "
        f"{settings.heads} heads of {settings.head_dim}, {settings.dtype}, {device}"
    )


def _code(settings: Settings, chosen: Choice) -> str:
    imports, kernel = naming.code(catalogue.identity(chosen.kernel))
    if settings.decode:
        sizes = {"batch": settings.batch, "num_heads": settings.heads, "head_dim": settings.head_dim}
        sizes |= {"max_length": settings.length + 1}
        sizes |= {"num_key_value_heads": settings.kv_heads} if settings.kv_heads else {}
        told = ", ".join(f"{name}={value}" for name, value in sizes.items())
        return f'{imports}attnzoo.start({told}, dtype="{settings.dtype}", kernel={kernel})'
    causal = ", is_causal=True" if settings.causal else ""
    named = f', implementation="{chosen.implementation}"' if chosen.implementation else ""
    return f"{imports}attnzoo.attend(query, key, value, kernel={kernel}{causal}{named})"
