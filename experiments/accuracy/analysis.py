"""Rows to statements: bits per byte for each kernel with its positions, objective and length, over seeds."""

from __future__ import annotations

from experiments import statistics, wording


def summarise(rows: list[dict]) -> list[dict]:
    """One entry for each variant, objective and length; runs that diverged are counted apart."""
    entries = []
    for key in dict.fromkeys((row["objective"], variant(row), row["length"]) for row in rows):
        own = [row for row in rows if (row["objective"], variant(row), row["length"]) == key]
        measured = [row for row in own if row["status"] == "measured"]
        entries.append(
            {
                "objective": key[0],
                "variant": key[1],
                "length": key[2],
                "seeds": len(measured),
                "bits": statistics.mean([row["bits"] for row in measured]) if measured else None,
                "parameters": measured[0]["parameters"] if measured else None,
                "diverged": sum(row["status"] == "diverged" for row in own),
                "note": next((row["reason"] for row in own if row["status"] != "measured"), ""),
            }
        )
    return entries


def variant(row: dict) -> str:
    """A kernel, and its positions where they are not the learned ones, such as `Softmax, Rotary(pairing='half')`."""
    positions = wording.short(row["positions"])
    return wording.short(row["kernel"]) + ("" if positions == "LearnedPositions" else f", {positions}")


def bits_text(found: statistics.Mean | None) -> str:
    """A mean in words, such as `3.21 [3.18, 3.24]`."""
    if found is None:
        return ""
    return f"{found.value:.3f}" if found.low is None else f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def table(summary: list[dict]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the summary; lengths side by side."""
    lengths = sorted({entry["length"] for entry in summary})
    header = ["kernel", "objective", *(f"{length:,}" for length in lengths), "parameters", "seeds", "note"]
    lines = []
    for objective, name in dict.fromkeys((entry["objective"], entry["variant"]) for entry in summary):
        own = [entry for entry in summary if (entry["objective"], entry["variant"]) == (objective, name)]
        by_length = {entry["length"]: entry for entry in own}
        counts = sorted({entry["parameters"] for entry in own if entry["parameters"]})
        lines.append(
            [
                name,
                objective,
                *(bits_text(by_length[length]["bits"]) if length in by_length else "" for length in lengths),
                " to ".join(f"{count:,}" for count in dict.fromkeys((counts or [0])[:1] + counts[-1:]))
                if counts
                else "",
                str(min(entry["seeds"] for entry in own)),
                own[0]["note"].split(". ")[0],
            ]
        )
    return header, lines
