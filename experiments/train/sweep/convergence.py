"""Whether a comparison may be believed: a model that still learns, or a baseline below its ceiling, decides nothing.

Which kernel is ahead early tells what is learned first, such as what is near. So every figure says where its baseline,
exact attention, has not come to its end.
"""

from __future__ import annotations

import numpy as np

PARTS = 5  # of a curve, the last two of which are compared
FEWEST = 2 * PARTS  # points of a curve that tells
GAIN, FLOOR = 0.02, 0.02  # less than this share, or these bits, from one part to the next is flat
CEILING = 0.99  # a share of answers that leaves nothing to learn


def has_flattened(curve: list) -> bool | None:
    """Whether the loss, [(step, bits)], has stopped falling; None where it has too few points to tell."""
    losses = [loss for _, loss in curve]
    if len(losses) < FEWEST:
        return None
    *_, before, last = (float(np.mean(part)) for part in np.array_split(losses, PARTS))
    return before - last <= max(GAIN * before, FLOOR)


def flat(measured: list[dict]) -> bool | None:
    """Whether the curves of all rows have flattened; None where one does not tell."""
    found = [has_ended(row) or has_flattened(row.get("curve") or []) for row in measured]
    return None if not found or None in found else all(found)


def trained(row: dict) -> int:
    """The steps that were trained: all that were asked for, or those to where training ended."""
    return row.get("trained_steps", row["steps"])


def has_ended(row: dict) -> bool:
    """Whether training ended before all steps were done: validation had found enough, or nothing better for long."""
    return "trained_steps" in row and trained(row) < row["steps"]


def doubt(metric: str, baseline: list[dict]) -> str:
    """What rows of exact attention leave to doubt about a comparison with them; empty for nothing, or without any."""
    measured = [row for row in baseline if row["status"] == "measured"]
    if not measured:
        return "softmax was not measured: there is nothing to compare with" if baseline else ""
    if metric == "accuracy":
        reached = float(np.mean([row["score"] for row in measured]))
        is_there = reached >= CEILING
        return "" if is_there else f"softmax is right in {reached:.0%}, not at its ceiling: nothing is decided"
    has_ended = flat(measured)
    if has_ended is None:
        return "the curve of softmax is too short to tell whether it still learns"
    return "" if has_ended else "softmax still learns: this shows what is learned first"


def solved_at(validations: list, share: float) -> int | None:
    """The step of the first of [(step, score)], of which lower is better, that has so many answers right; or None."""
    return next((step for step, score in validations if -score >= share), None)
