"""Rows to statements: what each kernel adds to the loss of models that were trained with another."""

from __future__ import annotations

from experiments.show import naming, statistics, tables, units
from experiments.show.tables import Table

MODEL = ("trained", "positions", "length", "test_examples", "digest")  # what models have in common that differ in seed


def summaries(rows: list[dict]) -> list[Table]:
    """A line for each kernel in the models of one kind."""
    header = ["trained with", "length", "kernel in it", "models", "bits of each byte", "change", "note"]
    return [Table("Nothing is learned anew", header, [_line(own) for own in grouped(rows)])]


def grouped(rows: list[dict]) -> list[list[dict]]:
    """Rows of each kernel in models of one kind, with `change`, the bits that it adds to the same model, if known."""
    own = [row for row in rows if row["kernel"] == row["trained"] and "bits" in row]
    trained = {(row["checkpoint"], row["length"]): row["bits"] for row in own}
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        before = trained.get((row["checkpoint"], row["length"]))
        change = row["bits"] - before if row["status"] == "measured" and before is not None else None
        kind = tuple(row.get(name) for name in (*MODEL, "kernel"))
        found.setdefault(kind, []).append(row | {"change": change})
    return list(found.values())


def _line(own: list[dict]) -> list[str]:
    measured = [row for row in own if row["change"] is not None]
    names = [naming.short(own[0]["trained"]), units.count_text(own[0]["length"]), naming.short(own[0]["kernel"])]
    names.append(units.count_text(len(measured)))
    if not measured:
        return [*names, "", "", tables.status_text(own[0])]
    told = [
        tables.mean_text([row[name] for row in measured], form) for name, form in (("bits", ".3f"), ("change", "+.3f"))
    ]
    return [*names, *told, statistics.doubt(len(measured))]
