"""What rows tell of a kernel: how much longer it took than it must, and how much more it held."""

from __future__ import annotations

import functools
import math
import pathlib
import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import attnzoo
from attnzoo import Dims, Kernel, catalogue, costs
from attnzoo.costs import counting
from attnzoo.door.routes import IMPLEMENTATIONS
from experiments.accuracy import run as accuracy
from experiments.bench import brought, processor, records
from experiments.bench.chips import CHIPS, Chip
from experiments.bench.program import Program
from experiments.compiled import bounds
from experiments.compiled import run as compiled
from experiments.compiled.settings import AUTOMATIC, PROJECTED
from experiments.decoding import run as decoding
from experiments.scaling import run as scaling
from experiments.show import naming
from experiments.throughput import run as throughput

# Whose rows are looked at.
EXPERIMENTS = tuple(each.EXPERIMENT for each in (scaling, throughput, compiled, decoding, accuracy))
# What rows call the implementations of `attend`, beside their names; others are of other libraries.
OURS = {None: None, AUTOMATIC: None, "attnzoo": None, "attnzoo xla": "xla"} | {name: name for name in IMPLEMENTATIONS}
# Of a processor nobody publishes what it does: a guess, which a measured row corrects.
GUESS = 1e10, 1e10  # operations and bytes a second, of a core
DECODE = "decode"


class Factor(NamedTuple):
    """How many times the least it took, where that is known from, by which implementation, where None is the one that
    `attend` takes by itself, how many times the least bytes it held, None where no row tells, whether it may have taken
    longer, and the source in few words."""

    value: float
    source: str
    implementation: str | None = None
    held: float | None = None
    is_bound: bool = False
    brief: str = ""


class Call(NamedTuple):
    """What is asked about."""

    device: str
    length: int
    is_causal: bool
    passed: str
    dtype: str


def chip(device: str) -> Chip:
    """A device by its name."""
    if device != "cpu":
        return CHIPS[device]
    flops, memory = (processor.cores() * each for each in GUESS)
    return Chip("CPU", dict.fromkeys(("float32", "bfloat16", "float16"), flops), memory, math.inf, "cpu", "")


def read(root: pathlib.Path) -> list[dict]:
    """The last row of each cell of a folder and of those below it; each tells its `place`."""
    found = []
    for place in sorted({path.parent for path in root.rglob(records.PARTS)}):
        rows = records.whole(place)[0]
        for experiment in EXPERIMENTS:
            own = records.latest([row for row in rows if experiment.wrote(row)], experiment.key)
            found += [row | {"place": str(place)} for row in own.values()]
    return found


def broken(rows: list[dict]) -> dict[str, str]:
    """Of kernels that were refused anywhere because of a law, which law, and where."""
    told = [row for row in rows if row.get("status") == "refused" and "law" in row]
    return {row["kernel"]: f"refused: breaks `{row['law']}`, {row['place']}" for row in told}


def factor(
    rows: list[dict], kernel: Kernel, call: Call, serves: Callable[[str | None], bool] = lambda implementation: True
) -> Factor | None:
    """What the nearest rows tell, that of the fastest implementation; None where there are none.

    A measured row comes before a compiled one, then the same causality before another, the kernel itself before one of
    its class with other fields, the same type before another; then each implementation tells by its nearest length. How
    operands come is as fast as a row tells, and said: a layer's projections leave them side by side.

    Args:
      serves: whether the call may be by an implementation.
    """
    ranks: dict[tuple, dict[str | None, list[tuple[dict, Kernel]]]] = {}
    for row in rows:
        own = _kernel(row, kernel)
        if own is not None and row.get("implementation") in OURS and _tells(row, call):
            implementations = ranks.setdefault(_rank(row, own == kernel, call), {})
            implementations.setdefault(OURS[row.get("implementation")], []).append((row, own))
    for rank in sorted(ranks):
        able = [told for name, told in ranks[rank].items() if name is None or serves(name)]
        found = [_factor(row, own, own == kernel, call) for told in able for row, own in _nearest(told, call)]
        if found:
            return min(found, key=lambda each: (each.value, each.implementation is not None))
    return None


def _kernel(row: dict, kernel: Kernel) -> Kernel | None:
    """The kernel of a row, where it is this one or, in the catalogue, of its class."""
    if row.get("kernel") == catalogue.identity(kernel):
        return kernel
    name, opened, fields = str(row.get("kernel")).partition("(")
    if name != type(kernel).__name__:
        return None
    try:
        return catalogue.parse(catalogue.name_of(kernel) + opened + fields, imports=False)[0]
    except ValueError:  # of before a field was renamed, or of a plug-in
        return None


def _tells(row: dict, call: Call) -> bool:
    """Whether a row tells seconds of such a pass on the device, with heads as wide as their values."""
    is_narrow = row.get("value_dim") not in (None, row.get("head_dim"))
    if row.get("mesh") or is_narrow or not _asks(row, call.passed):
        return False
    if row.get("status") == "measured":
        return bool(row.get("median")) and _is_here(row, call.device)
    is_compiled = row.get("status") == "compiled" and row.get("target") == call.device
    return is_compiled and bool(row.get("roofline_seconds"))


def _rank(row: dict, is_itself: bool, call: Call) -> tuple:
    """How unlike what is asked a row is, the first that differs deciding."""
    return row["status"] != "measured", _is_other(row, call), not is_itself, row["dtype"] != call.dtype


def _nearest(told: list[tuple[dict, Kernel]], call: Call) -> list[tuple[dict, Kernel]]:
    """Those of the length that is nearest by its logarithm."""
    away = lambda each: abs(math.log(_length(each[0]) / call.length))
    near = min(map(away, told))
    return [each for each in told if away(each) == near]


def _is_other(row: dict, call: Call) -> bool:
    return row.get("is_causal", call.is_causal) != call.is_causal


def _factor(row: dict, kernel: Kernel, is_itself: bool, call: Call) -> Factor:
    is_measured = row["status"] == "measured"
    needed = least(kernel, _dims(row), row["dtype"], row.get("is_causal", True), call.passed, chip(call.device))
    steps = row["tokens"] if call.passed == DECODE else 1  # in a call that was timed
    # A compiled program may hide its operations in a kernel: it takes the least, too.
    value = row["median"] / steps / needed if is_measured else max(1.0, row["roofline_seconds"] / needed)
    implementation = OURS[row.get("implementation")]
    scaled = f"scaled from {_length(row):,} tokens" * (_length(row) != call.length)
    unlike = [
        "as projections leave operands" * (row.get("operands") == PROJECTED),
        f"as {naming.short(row['kernel'])}" * (not is_itself),
        "other causality" * _is_other(row, call),
        row["dtype"] * (row["dtype"] != call.dtype),
    ]
    joined = lambda *told: ", ".join(filter(None, told))
    how = "measured" if is_measured else "compiled, at least"
    source = joined(row["place"], scaled or f"{_length(row):,} tokens", implementation, *unlike)
    brief = joined(row["status"], scaled, *unlike)
    return Factor(value, f"{how}: {source}", implementation, _held(row, kernel, call), not is_measured, brief)


def _held(row: dict, kernel: Kernel, call: Call) -> float | None:
    """How many times the least bytes a compiled program was to hold."""
    if call.passed == DECODE or not row.get("needed_bytes"):
        return None
    is_causal, implementation = row.get("is_causal", True), OURS[row.get("implementation")]
    is_train = call.passed == "train"
    return row["needed_bytes"] / holds(
        Program(kernel, _dims(row), row["dtype"], is_causal, is_train, implementation=implementation)
    )


def holds(program: Program) -> float:
    """The least bytes of a call: of its operands, and of the largest array that it names."""
    return sum(float(x.size * x.dtype.itemsize) for x in jax.tree.leaves(program.shapes())) + program.largest_array()


def typical(known: list[Factor]) -> Factor:
    """What is taken for kernels without a row: the median of those with one, or the least where there are none."""
    if not known:
        return Factor(1.0, "formulas alone, at least", is_bound=True, brief="formulas alone")
    value = statistics.median(each.value for each in known)
    held = [each.held for each in known if each.held is not None]
    source = f"formulas, times {value:,.3g} as the median of {len(known)} kernels with rows"
    return Factor(
        value,
        source,
        held=statistics.median(held) if held else None,
        is_bound=any(each.is_bound for each in known),
        brief=f"formulas, times {value:,.3g} as others",
    )


def _asks(row: dict, passed: str) -> bool:
    """Whether a row is of such a pass; one of decoding has a context in place of it."""
    return bool(row.get("context")) if passed == DECODE else bool(row.get("length")) and row.get("pass") == passed


def _length(row: dict) -> int:
    return row.get("context") or row["length"]


def _is_here(row: dict, device: str) -> bool:
    return row.get("platform") == "cpu" if device == "cpu" else device.upper() in str(row.get("device"))


def _dims(row: dict) -> Dims:
    heads, length = row.get("num_kv_heads") or row["heads"], _length(row)
    batch = row.get("batch") or max(1, (row.get("tokens") or 0) // length)
    return Dims(batch, length, length, row["heads"], heads, row["head_dim"], row["head_dim"])


def least(kernel: Kernel, dims: Dims, dtype: str, is_causal: bool, passed: str, target: Chip) -> float:
    """The least seconds of a call: of a launch, of operations counted from its program, and of what must be moved."""
    if passed == DECODE:
        return bounds.roofline(target, dtype, _read(kernel, dims, dtype), None, 1).seconds
    flops = _flops(kernel, dims, is_causal, dtype)
    is_train = passed == "train"
    moved = bounds.least_bytes(kernel, dims, dtype, is_train)
    return bounds.roofline(target, dtype, moved, flops * (3 if is_train else 1), 1).seconds  # backward, each is two


@functools.lru_cache(maxsize=1024)
def _read(kernel: Kernel, dims: Dims, dtype: str) -> float:
    """Bytes that a step reads: a state once, or as many of its numbers as the step multiplies and adds."""
    sizes = {"num_heads": dims.num_heads, "num_key_value_heads": dims.num_key_value_heads, "head_dim": dims.head_dim}
    sizes |= {"batch": dims.batch, "max_length": dims.key_length, "dtype": dtype}

    def begun(rng):
        params = kernel.init(rng, dims)
        brings = brought.normal(kernel, dims, (dims.batch, 1, dims.num_key_value_heads), rng, dtype)
        return attnzoo.start(kernel=kernel, params=params, **sizes), params, brings

    def step(begun, q, k):
        state, params, brings = begun
        return attnzoo.step(state, q, k, k, params=params, tokens=brings)

    of = lambda heads: jax.ShapeDtypeStruct((dims.batch, 1, heads, dims.head_dim), dtype)
    operands = of(dims.num_heads), of(dims.num_key_value_heads)
    operations = counting.flops(step, jax.eval_shape(begun, jax.random.key(0)), *operands)
    return min(kernel.state_bytes(dims, dtype), operations / 2 * jnp.dtype(dtype).itemsize)


@functools.lru_cache(maxsize=1024)
def _flops(kernel: Kernel, dims: Dims, is_causal: bool, dtype: str) -> float:
    try:
        return costs.cost_of(kernel, dims, is_causal=is_causal, dtype=dtype).flops
    except ValueError:  # a loop whose trip count is not known
        return 0.0
