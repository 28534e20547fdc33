"""The catalogue, ranked for one call: what serves it by its time, and what does not with the reason."""

from __future__ import annotations

import dataclasses
import math
import pathlib

from attnzoo import Dims, Kernel, Softmax, catalogue
from experiments.bench import asked, progress, trust
from experiments.bench.experiment import Cell
from experiments.bench.program import Program
from experiments.choose import knowledge, losses, ranking
from experiments.choose.losses import Losses, Lost
from experiments.choose.ranking import Choice, Ranking
from experiments.choose.settings import Settings
from experiments.decoding import run as decoding
from experiments.show import calls, naming, units

ASKED = 1024  # tokens, at most, of a call of a kernel of one's own that is held to laws: some seconds
STEPS, BUDGET = 16, 10.0  # tokens that are then decoded, and seconds for those before them
UNKNOWN = "not trained in these rows"
BOUND, FRONT = "≥ ", " ★"
ORDER = (
    "of equal times what loses less comes first, then what needs less memory; what was not trained comes after what was"
)
STARRED = "★ nothing here is at least as fast and loses less"
BOUNDED = "≥ so much at least, by formulas or a compiled program, and ranked as if it took no more"
WORSE = {"points": "fewer points are worse", "bits": "more bits are worse"}


def run(settings: Settings) -> int:
    """Print the ranking; 1 where nothing serves."""
    rows = knowledge.read(pathlib.Path(settings.rows))
    if not rows:
        place = pathlib.Path(settings.rows).absolute()
        print(f"no rows of times or losses in {place}, so formulas tell alone: name a folder of rows by --rows")
    lost = losses.told(rows, settings.length)
    kernels = {fitted(kernel, settings.length + settings.decode): kernel for kernel in settings.kernels}
    found = ranking.ranked(_choices(settings, rows, list(kernels)), lost.deciding)
    _show(settings, found, lost)
    for kernel, asked_for in kernels.items():
        if kernel != asked_for:
            name, short = (naming.short(catalogue.identity(each)) for each in (kernel, asked_for))
            print(f"{name} stands for {short}, which ends at {asked_for.longest:,} tokens")
    for reason, names in _refusals(found).items():
        print(f"{reason}: {', '.join(names)}")
    if not settings.verbose:
        print("--verbose tells all losses, and from which row each time is")
    if found.serving:
        _pick(settings, found)
    return int(not found.serving)


def fitted(kernel: Kernel, length: int) -> Kernel:
    """A kernel that ends before so many tokens by its own field, with one that serves; others as they are."""
    ends = kernel.longest is not None and kernel.longest < length
    has_field = any(field.name == "max_length" for field in dataclasses.fields(kernel))
    return dataclasses.replace(kernel, max_length=length) if ends and has_field else kernel


def _choices(settings: Settings, rows: list[dict], kernels: list[Kernel]) -> list[Choice]:
    call = knowledge.Call(settings.device, settings.length, settings.causal, passed(settings), settings.dtype)
    serves = lambda kernel: lambda implementation: program(settings, kernel, implementation).refusal() is None
    known = {kernel: knowledge.factor(rows, kernel, call, serves(kernel)) for kernel in kernels}
    other = knowledge.typical([each for each in known.values() if each is not None])
    broken = knowledge.broken(rows)
    law = lambda kernel: broken.get(catalogue.identity(kernel), "") or _law(settings, kernel)
    return [choice(settings, kernel, each or other, law(kernel)) for kernel, each in known.items()]


def _show(settings: Settings, found: Ranking, lost: Losses) -> None:
    """The table of what serves, and what its columns are about."""
    sources = [each.source if settings.verbose else each.brief for each in found.serving]
    is_same, front = len(set(sources)) == 1, found.front()
    lines = []
    for place, (each, source) in enumerate(zip(found.serving, sources, strict=True), 1):
        loss = _all_losses(each, lost) if settings.verbose else _loss(each, found, lost)
        known_from = [] if is_same else [source]
        lines.append([f"{place}{FRONT * (each in front)}", _name(each), *each.told, *known_from, loss])
    known_from = [] if is_same else ["known from"]
    progress.table(_title(settings), ["", "kernel", "time", "memory", *known_from, "beside softmax"], lines)
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


def _refusals(found: Ranking) -> dict[str, list[str]]:
    """Names of what does not serve, by the reason."""
    reasons: dict[str, list[str]] = {}
    for each in found.refused:
        reasons.setdefault(each.refusal, []).append(_name(each))
    return reasons


def _pick(settings: Settings, found: Ranking) -> None:
    """The first as code, with what it loses; and where that is something, the first that loses nothing."""
    first, keeping = found.serving[0], next(filter(found.keeps, found.serving), None)
    print(f"the first, {_name(first)}, {_verdict(first, found)}; as code:\n{_code(settings, first)}")
    if keeping is not None and keeping is not first:
        told = f"the first that is not known to lose any, {_name(keeping)}, {keeping.told[0]}; as code:"
        print(f"{told}\n{_code(settings, keeping)}")


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


def passed(settings: Settings) -> str:
    """What is done, as rows call it."""
    return knowledge.DECODE if settings.decode else "train" if settings.train else "forward"


def choice(settings: Settings, kernel: Kernel, known: knowledge.Factor, broken: str = "") -> Choice:
    """What is known of a kernel in the place of the call; `broken` says which law it breaks, if one."""
    own = program(settings, kernel, known.implementation)
    target = knowledge.chip(settings.device)
    nothing = lambda why: Choice(kernel, math.inf, math.inf, ("", ""), "", "", why)
    if refusal := broken or _refusal(settings, own):
        return nothing(refusal)
    least = knowledge.least(kernel, own.dims, settings.dtype, settings.causal, passed(settings), target)
    if settings.decode:
        size, is_bound = kernel.state_bytes(own.dims, settings.dtype), False
    else:
        size, is_bound = knowledge.holds(own) * (known.held or 1), known.held is None
    told = f"{BOUND * is_bound}{units.size_text(size)}"
    limit = min(settings.memory or math.inf, target.capacity)
    if size > limit:
        return nothing(f"needs {told}, there are {units.size_text(limit)}")
    seconds = known.value * least
    both = f"{BOUND * known.is_bound}{units.seconds_text(seconds)}", told
    return Choice(kernel, seconds, size, both, known.source, known.brief, implementation=known.implementation)


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
    """The line that runs it."""
    dims = program(settings, chosen.kernel, chosen.implementation).dims
    if settings.decode:
        return calls.decoding(chosen.kernel, dims, settings.dtype)
    given = {"is_causal": settings.causal, "implementation": chosen.implementation}
    return calls.attending(chosen.kernel, dims, settings.dtype, **given)
