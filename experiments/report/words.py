"""Tasks in words, for readers who have not met their names, and words beside each other."""

from __future__ import annotations

from experiments import tasks
from experiments.show import naming
from experiments.tasks import TASKS, Task

# By class, in terms of its fields, and of what it wraps where it does.
PLAIN = {
    "MQAR": "recall of {pairs} pairs",
    "Recall": "recall of {count} symbols",
    "Text": "the next byte of text",
    "MaskedText": "hidden bytes of text",
    "Needle": "a number of {digits} digits hidden in text",
    "Copy": "a copy of what was read",
    "SelectiveCopy": "a copy of {count} symbols among blanks",
    "Induction": "what followed a sign",
    "Phonebook": "numbers of a phone book",
    "FlipFlop": "a flip-flop's bit",
    "Parity": "parity of bits",
    "WordProblem": "words of the group {group}",
    "ListOps": "ListOps",
    "TwoSided": "{inner}, seen whole",
    "Epochs": "{inner}, {examples:,} examples again and again",
    "Shuffled": "{inner}, in shuffled blocks of {block}",
}


def task(text: str) -> str:
    """The repr of a task in words; one that has none without fields at their defaults."""
    found = _parsed(text)
    return naming.short(text) if found is None else _words(found)


def _words(found: Task) -> str:
    form = PLAIN.get(type(found).__name__)
    if form is None:
        return naming.short(repr(found))
    inner = {"inner": _words(found.inner)} if hasattr(found, "inner") else {}
    return form.format(**vars(found), **inner)


def _parsed(text: str) -> Task | None:
    """The task of a repr; None for text from a file that is none of the catalogue."""
    name, opened, fields = text.partition("(")
    names = {cls.__name__: name for name, cls in TASKS.items()}
    try:
        [found] = tasks.parse_tasks(names.get(name, name) + opened + fields, imports=False)
    except (ValueError, TypeError, RecursionError, MemoryError):  # rows are read from files, and may hold anything
        return None
    return found


def joined(*texts: str) -> str:
    """Those that say something, one after another."""
    return "; ".join(filter(None, texts))
