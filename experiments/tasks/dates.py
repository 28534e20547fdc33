"""Dates as people write them, and as ISO 8601 does: "the 3rd of May, 1979" -> "1979-05-03".

A pair is a pure function of seed, split and index. Days from 1930 to 2029 are split by a hash, so that no day that is
tested was seen in training, in whatever words; two digits of a year stand for one of these hundred years. Numbers alone
are day first with dots ("3.5.1979") or year first with slashes ("1979/05/03"), and so never ambiguous.
"""

from __future__ import annotations

import datetime
from typing import NamedTuple

import numpy as np

from experiments.tasks import task
from experiments.tasks.task import SPLITS as SPLITS
from experiments.tasks.task import generator

FIRST, LAST = datetime.date(1930, 1, 1).toordinal(), datetime.date(2029, 12, 31).toordinal()
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
FORMS = (
    "{day} {month} {year}", "{day:02} {month} {year}", "{day}. {month} {year}", "{day}-{month}-{year}",
    "{month} {day}, {year}", "{month} {day} {year}", "{month} {nth}, {year}", "{nth} of {month} {year}",
    "the {nth} of {month}, {year}", "{weekday}, {month} {day}, {year}", "{weekday} {month} {day} {year}",
    "{weekday}, {day} {month} {year}", "{weekday} the {nth} of {month}, {year}", "{day}.{number}.{year}",
    "{day:02}.{number:02}.{year}", "{full}/{number:02}/{day:02}", "{full}/{number}/{day}",
)  # fmt: skip

PAD = 0
SOURCE = {chr(code): code - 31 for code in range(32, 127)}  # printable ASCII from 1
TARGET = {character: index for index, character in enumerate("0123456789-")}
START = len(TARGET)
LONGEST = 40  # characters of a human date
TARGET_LENGTH = 10


class Pair(NamedTuple):
    """A date in two spellings."""

    human: str
    iso: str


def pair(seed: int, split: str, index: int) -> Pair:
    """Pair number `index` of a split."""
    rng = generator(seed, split, index)
    ordinal = rng.integers(FIRST, LAST + 1)
    while split_of(ordinal) != split:
        ordinal = rng.integers(FIRST, LAST + 1)
    day = datetime.date.fromordinal(int(ordinal))
    return Pair(_written(day, rng), day.isoformat())


def split_of(ordinal: int) -> str:
    """The split that a day belongs to."""
    return task.split_of(str(int(ordinal)).encode())


def _written(day: datetime.date, rng: np.random.Generator) -> str:
    month = MONTHS[day.month - 1]
    name = FORMS[rng.integers(len(FORMS))].format(
        day=day.day,
        nth=f"{day.day}{_ending(day.day)}",
        number=day.month,
        month=month if rng.random() < 0.6 else month[:3],
        weekday=WEEKDAYS[day.weekday()] if rng.random() < 0.6 else WEEKDAYS[day.weekday()][:3],
        year=day.year if rng.random() < 0.8 else f"{day.year % 100:02}",
        full=day.year,
    )
    case = rng.random()
    return name.lower() if case < 0.3 else name.upper() if case < 0.4 else name


def _ending(day: int) -> str:
    return "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def encoded(pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source tokens int [B, LONGEST], their lengths [B], and target tokens [B, TARGET_LENGTH].

    Raises:
      ValueError: a human date is longer than `LONGEST`, or has a character that is not printable ASCII.
    """
    source = np.full((len(pairs), LONGEST), PAD, np.int32)
    for row, (human, _) in enumerate(pairs):
        unknown = [character for character in human if character not in SOURCE]
        if unknown or not 0 < len(human) <= LONGEST:
            raise ValueError(f"{human!r}: expected 1 to {LONGEST} printable ASCII characters")
        source[row, : len(human)] = [SOURCE[character] for character in human]
    target = np.array([[TARGET[character] for character in iso] for _, iso in pairs], np.int32)
    return source, np.array([len(human) for human, _ in pairs], np.int32), target.reshape(-1, TARGET_LENGTH)


def text_of(tokens: np.ndarray) -> str:
    """Target tokens as text; one that is no character is a question mark."""
    characters = list(TARGET)
    return "".join(characters[token] if token < len(characters) else "?" for token in tokens)
