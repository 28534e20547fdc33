"""Suites by name."""

from __future__ import annotations

from experiments.suites import arena, recall, tracking
from experiments.suites.mad import MAD
from experiments.suites.suite import Suite

SUITES: dict[str, Suite] = {
    "mqar_2023": recall.MQAR_2023,
    "mqar_2026": recall.MQAR_2026,
    "mad": MAD,
    "formal": tracking.FORMAL,
    "words": tracking.WORDS,
    "flip_flop": tracking.FLIP,
    "phonebook": recall.PHONEBOOK,
    "copying": recall.COPYING,
    "needle": recall.NEEDLE,
    "listops": arena.LISTOPS,
    "lra": arena.LRA,
    "locality": arena.LOCALITY,
    "pretraining": arena.PRETRAINING,
}
