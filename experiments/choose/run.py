"""The catalogue, ranked for one call: what serves it by its time, and what does not with the reason."""

from __future__ import annotations

import dataclasses
import math
import pathlib

from attnzoo import Dims, Kernel, catalogue
from experiments.bench import asked, trust
from experiments.bench.experiment import Cell
from experiments.bench.program import Program
from experiments.choose import knowledge, losses, ranking, telling
from experiments.choose.ranking import BOUND, Choice
from experiments.choose.settings import Settings
from experiments.decoding import run as decoding
from experiments.show import calls, naming, units

ASKED = 1024  # tokens, at most, of a call of a kernel of one's own that is held to laws: some seconds
STEPS, BUDGET = 16, 10.0  # tokens that are then decoded, and seconds for those before them


def run(settings: Settings) -> int:
    """Print the ranking; 1 where nothing serves."""
    rows = knowledge.read(pathlib.Path(settings.rows))
    if not rows:
        place = pathlib.Path(settings.rows).absolute()
        print(f"no rows of times or losses in {place}, so formulas tell alone: name a folder of rows by --rows")
    lost = losses.told(rows, settings.length)
    kernels = {fitted(kernel, settings.length + settings.decode): kernel for kernel in settings.kernels}
    found = ranking.ranked(_choices(settings, rows, list(kernels)), lost.deciding)
    telling.show(_title(settings), found, lost, settings.verbose)
    for kernel, asked_for in kernels.items():
        if kernel != asked_for:
            name, short = (naming.short(catalogue.identity(each)) for each in (kernel, asked_for))
            print(f"{name} stands for {short}, which ends at {asked_for.longest:,} tokens")
    for reason, names in telling.refusals(found).items():
        print(f"{reason}: {', '.join(names)}")
    if not settings.verbose:
        print("--verbose tells all losses, and from which row each time is")
    for told, each in telling.picks(found):
        print(f"{told}; as code:\n{_code(settings, each)}")
    return int(not found.serving)


def fitted(kernel: Kernel, length: int) -> Kernel:
    """A kernel that ends before so many tokens by its own field, with one that serves; others as they are."""
    ends = kernel.longest is not None and kernel.longest < length
    has_field = any(field.name == "max_length" for field in dataclasses.fields(kernel))
    return dataclasses.replace(kernel, max_length=length) if ends and has_field else kernel


def _choices(settings: Settings, rows: list[dict], kernels: list[Kernel]) -> list[Choice]:
    call = knowledge.Call(settings.device, settings.length, settings.is_causal, passed(settings), settings.dtype)
    serves = lambda kernel: lambda implementation: program(settings, kernel, implementation).refusal() is None
    known = {kernel: knowledge.factor(rows, kernel, call, serves(kernel)) for kernel in kernels}
    other = knowledge.typical([each for each in known.values() if each is not None])
    broken = knowledge.broken(rows)
    law = lambda kernel: broken.get(catalogue.identity(kernel), "") or _law(settings, kernel)
    return [choice(settings, kernel, each or other, law(kernel)) for kernel, each in known.items()]


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
    least = knowledge.least(kernel, own.dims, settings.dtype, settings.is_causal, passed(settings), target)
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
    found = trust.breach(kernel, settings.length, is_trained=settings.train, is_causal=settings.is_causal)
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
    return Program(kernel, dims, settings.dtype, settings.is_causal, settings.train, implementation=implementation)


def _refusal(settings, program: Program) -> str:
    if settings.decode and program.kernel.state_bytes(program.dims, settings.dtype) is None:
        return "refused: it does not decode"
    found = program.refusal()
    return f"refused: {found.split('. ')[0]}" if found else ""


def _title(settings: Settings) -> str:
    device = knowledge.chip(settings.device).name
    what = "a token after" if settings.decode else "forward and backward," if settings.train else "forward,"
    return (
        f"{what} {settings.length:,} tokens{', causal' * settings.is_causal}, batch {settings.batch}, "
        f"{settings.heads} heads of {settings.head_dim}, {settings.dtype}, {device}"
    )


def _code(settings: Settings, chosen: Choice) -> str:
    """The line that runs it."""
    dims = program(settings, chosen.kernel, chosen.implementation).dims
    if settings.decode:
        return calls.decoding(chosen.kernel, dims, settings.dtype)
    given = {"is_causal": settings.is_causal, "implementation": chosen.implementation}
    return calls.attending(chosen.kernel, dims, settings.dtype, **given)
