"""Rows to statements: what each variant reaches, over seeds, at the learning rate that validation chose for it."""

from __future__ import annotations

from experiments.bench import records
from experiments.show import naming, statistics, tables, units
from experiments.show.tables import Table
from experiments.show.units import Shown
from experiments.train.sweep import convergence
from experiments.train.sweep.cells import GIVEN, SHARED

GROUP = ("task", "kernel", "positions", "length", "width", "digest", "pairing", "blocks", *SHARED, *GIVEN)
LABELS = {"bits": "bits of each target, lower is better", "accuracy": "share of answers that are right"}
CURVES = {True: "flat", False: "still falls", None: ""}
BASELINE = "Softmax()"  # what differences are taken to


def summarise(rows: list[dict]) -> list[dict]:
    """One entry for each task, variant, length, width and all that is set; runs that diverged are counted apart.

    Parameters and state are told beside those of exact attention, and a state that was matched beside what was wanted.
    """
    groups = _groups(rows)
    chosen = {key: _chosen(own) for key, own in groups.items()}
    return [_entry(key, own, groups[key], _beside(chosen, key)) for key, own in chosen.items()]


def at_chosen_rates(rows: list[dict]) -> list[dict]:
    """The rows that the summary is of."""
    return [row for own in _groups(rows).values() for row in _chosen(own)]


def tested(rows: list[dict]) -> dict[int, list[dict]]:
    """Rows by each length that their models were tested on, with the score there: that of training, and others."""
    found: dict[int, list[dict]] = {}
    for row in rows:
        elsewhere = {int(length): score for length, score in (row.get("by_length") or {}).items()}
        for length, score in ({row["length"]: row.get("score")} | elsewhere).items():
            found.setdefault(length, []).append(row | {"tested": length, "score": score})
    return found


def _groups(rows: list[dict]) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(records.cell(row, GROUP), []).append(row)
    return groups


def _chosen(rows: list[dict]) -> list[dict]:
    """The rows of the learning rate that is best."""
    return best(rows, ("learning_rate",))


def best(rows: list[dict], chosen: tuple[str, ...]) -> list[dict]:
    """The rows with those values of `chosen` whose mean validation is best; where more seeds diverged comes later.

    Seeds that some values have not tried count for none, where there are such that all have: what more seeds find must
    not choose again.
    """
    tried: dict[tuple, list[dict]] = {}
    for row in rows:
        tried.setdefault(tuple(row[name] for name in chosen), []).append(row)
    common = set.intersection(*({row["seed"] for row in own} for own in tried.values())) if tried else set()

    def order(own):
        own = [row for row in own if row["seed"] in common] or own
        scores = [row["validation"] for row in own if row["status"] == "measured" and row["validation"] is not None]
        diverged = sum(row["status"] == "diverged" for row in own)
        return not scores, diverged, sum(scores) / len(scores) if scores else 0.0

    return min(tried.values(), key=order, default=[])


def _beside(chosen: dict, key: tuple) -> list[dict]:
    """The chosen rows of exact attention in the same place."""
    task, _, *rest = key
    return chosen.get((task, BASELINE, *rest), [])


def _entry(key: tuple, chosen: list[dict], every: list[dict], beside: list[dict]) -> dict:
    measured = [row for row in chosen if row["status"] == "measured"]
    scores = {row["seed"]: row["score"] for row in measured}
    others = {row["seed"]: row["score"] for row in beside if row["status"] == "measured"}
    is_baseline = key[1] == BASELINE
    rates = [row["learning_rate"] for row in every]
    missed = state_missed(measured[0]) if measured else None
    return dict(zip(GROUP, key, strict=True)) | {
        "metric": chosen[0]["metric"],
        "name": chosen[0]["name"],
        "variant": variant(chosen[0]),
        "learning_rate": chosen[0]["learning_rate"],
        "rates": len(set(rates)),
        "is_at_edge": len(set(rates)) > 2 and chosen[0]["learning_rate"] in (min(rates), max(rates)),
        "seeds": len(scores),
        "scores": list(scores.values()),
        "by_seed": scores,
        "score": scored(measured) if scores else None,
        "difference": None if is_baseline else statistics.paired(scores, others),
        "baselines": measured[0]["baselines"] if measured else {},
        "parameters": measured[0]["parameters"] if measured else None,
        "mismatch": _mismatch("parameters", measured, beside),
        "state_bytes": measured[0].get("state_bytes") if measured else None,
        "matched": chosen[0].get("matched"),
        "state_mismatch": _mismatch("state_bytes", measured, beside) if missed is None else missed,
        "diverged": sum(row["status"] == "diverged" for row in every),
        "has_flattened": convergence.flat(measured),
        "doubt": "" if is_baseline else convergence.doubt(chosen[0]["metric"], beside),
        "note": next((row["reason"] for row in (*chosen, *every) if row["status"] != "measured"), ""),
    }


def scored(rows: list[dict]) -> statistics.Mean:
    """The mean of scores over seeds, with the interval that their kind of number wants."""
    values = [row["score"] for row in rows]
    if rows[0]["metric"] == "accuracy":
        return statistics.answered(values, rows[0].get("answers") or rows[0].get("test_examples") or 1)
    return statistics.mean(values)


def _mismatch(name: str, measured: list[dict], beside: list[dict]) -> float | None:
    """How much more of something than exact attention has, as a share; None where one has none."""
    own, others = (
        [row[name] for row in rows if row["status"] == "measured" and row.get(name)] for rows in (measured, beside)
    )
    return own[0] / others[0] - 1 if own and others else None


def state_missed(row: dict) -> float | None:
    """How much more state a model keeps than `--match=state` wants of it, as a share; None where it wants nothing."""
    kept, wanted = row.get("state_bytes"), row.get("wanted_state_bytes")
    return kept / wanted - 1 if kept and wanted else None


def variant(row: dict) -> str:
    """A kernel, and its positions where they are not the learned ones, such as `Softmax, Rotary(pairing='half')`."""
    positions = naming.short(row["positions"])
    return naming.short(row["kernel"]) + ("" if positions == "LearnedPositions" else f", {positions}")


def captioned(rows: list[dict]) -> list[dict]:
    """Rows of one task with what a figure says of them: the `label` of each variant, which tells it from the others,
    and the `subject` of all, the task and what the variants share."""
    plain = lambda text: naming.short(text).replace("$", r"\$")  # a folder's name may look like a formula
    shown = [{name: plain(row[name]) for name in ("task", "kernel", "positions")} for row in rows]
    kernels, positions = ({each[name] for each in shown} for name in ("kernel", "positions"))
    if len(positions) == 1:
        label, shared = "kernel", positions - {"LearnedPositions"}
    elif len(kernels) == 1:
        label, shared = "positions", kernels
    else:
        label, shared = "variant", set()
    return [
        row | {"label": ({"variant": variant(row)} | each)[label], "subject": ", ".join([each["task"], *shared])}
        for row, each in zip(rows, shown, strict=True)
    ]


def by_width(rows: list[dict]) -> dict[str, list[dict]]:
    """Captioned rows of each variant at each width, which is named where there are several."""
    is_named, found = len({row["width"] for row in rows}) > 1, {}
    for row in rows:
        found.setdefault(row["label"] + f", width {row['width']:,}" * is_named, []).append(row)
    return found


def nearby(rows: list[dict], worst: float, along: str = "length") -> dict[str, dict[int, float]]:
    """What is reached without a model, along an axis: all shares, and bits seen beside the `worst` that is drawn."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row["baselines"].items():
            if row["metric"] == "accuracy" or value <= 1.3 * worst:
                found.setdefault(name, {})[row[along]] = value
    return found


def score_text(metric: str, score: float) -> str:
    """A score with its unit."""
    return f"{score:.3f} bits" if metric == "bits" else f"{score:.1%}"


def scored_text(entry: dict) -> str:
    """The mean of an entry; where it is of seeds of which some have learned what others have not, with each of them."""
    told = mean_text(entry["metric"], entry["score"])
    if entry["score"] is None or entry["metric"] != "accuracy":
        return told
    return Shown(f"{told}{tables.seeds_text([100 * score for score in entry['scores']], '.0f')}", told.value)


def mean_text(metric: str, found: statistics.Mean | None, sign: str = "") -> str:
    """A mean with its interval, such as `3.210 [3.180, 3.240]`, shares in percent; of a difference, which has a sign,
    with digits that tell an end of it from 0."""
    if found is None:
        return ""
    scale, digits = (1, 3) if metric == "bits" else (100, 1)
    values = [scale * x for x in found if x is not None]
    digits = _telling(values, digits) if sign else digits
    text = [format(x, f"{sign}.{digits}f") if round(x, digits) or not sign else "0" for x in values]
    return Shown(text[0] if found.low is None else f"{text[0]} [{text[1]}, {text[2]}]", found.value)


def _telling(values: list[float], digits: int) -> int:
    """As many digits, or up to two more, as show that numbers are not 0 where they are not."""
    enough = (more for more in (digits, digits + 1, digits + 2) if all(round(x, more) or not x for x in values))
    return next(enough, digits)


def table(summary: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the summary, a line for each entry, with what is set where that differs."""
    told = ("pairing", "blocks", "matched", *SHARED, *GIVEN)
    differing = [name for name in told if len({entry[name] for entry in summary}) > 1]
    header = ["task", "kernel", "length", "width", *(name.replace("_", " ") for name in differing)]
    header += ["score", "minus softmax", "rate", "curve", "parameters", "state", "seeds", "diverged", "note"]
    lines = []
    for entry in summary:
        unit = "bits" if entry["metric"] == "bits" else "%"
        mismatch, of_state = (f" ({x:+.1%})" if x else "" for x in (entry["mismatch"], entry["state_mismatch"]))
        state = entry["state_bytes"]
        rates = f" of {entry['rates']}" if entry["rates"] > 1 else ""
        rates += ", at the end of them" if entry["is_at_edge"] else ""
        lines.append(
            [
                f"{naming.short(entry['task'])}, {unit}",
                entry["variant"],
                units.count_text(entry["length"]),
                units.count_text(entry["width"]),
                *(tables.text(name, entry[name]) for name in differing),
                scored_text(entry),
                mean_text(entry["metric"], entry["difference"], "+"),
                Shown(f"{entry['learning_rate']:g}{rates}", entry["learning_rate"]),
                CURVES[entry["has_flattened"]],
                "" if entry["parameters"] is None else Shown(f"{entry['parameters']:,}{mismatch}", entry["parameters"]),
                "" if state is None else Shown(f"{units.size_text(state)}{of_state}", state),
                units.count_text(entry["seeds"]),
                units.count_text(entry["diverged"]) if entry["diverged"] else "",
                "; ".join(filter(None, (entry["doubt"], entry["note"].split(". ")[0]))),
            ]
        )
    return header, lines


def summaries(rows: list[dict]) -> list[Table]:
    """What each variant reaches, and the data that it was learned from."""
    data = dict.fromkeys((row["task"], row["digest"]) for row in rows)
    files = [[task, digest or "none: made up from seeds"] for task, digest in data]
    return [
        Table("Scores on what was not seen", *table(summarise(rows))),
        Table("Data", ["task", "SHA-256 of files"], files),
    ]
