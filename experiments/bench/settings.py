"""Settings that are declared once: each field of a dataclass is a flag, with its text, its default and its bounds.

    class Settings(settings.Settings):
        lengths: tuple[int, ...] = flag("256:4096", "Sequence lengths; a range doubles.", parsing.lengths)
        heads: int = flag(8, "Heads of queries.", at_least=1)

A field that is no flag has a plain default. Nothing here imports jax, and a parser imports what it needs when it is
called, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple, TypeVar

from absl import flags

from experiments.bench import parsing

DTYPES = ("float32", "bfloat16", "float16")
FLAG = "flag"  # the key in a field's metadata
flags.disclaim_key_flags()  # they are those of the module that asks for them


class _Number:
    """What absl's parsers are given first, to say what was expected as lists of numbers do."""

    noun: ClassVar[str]

    def __init__(self, smallest: float | None):
        super().__init__()
        self.smallest = smallest

    def convert(self, argument):
        try:
            return super().convert(argument)
        except (TypeError, ValueError):
            bound = "" if self.smallest is None else f" >= {self.smallest:g}"
            raise ValueError(f"expected {self.noun}{bound}") from None


class _Whole(_Number, flags.IntegerParser):
    noun = "a whole number"


class _Real(_Number, flags.FloatParser):
    noun = "a number"


NUMBERS = {"int": _Whole, "float": _Real}


class Flag(NamedTuple):
    """How a field is given on a command line.

    Attributes:
      default: as the command line has it: text where there is a `parse`.
      text: what help says.
      parse: from what the flag says, and its name, to the value; None where absl's value is the field's.
      name: of the flag; the field's where empty.
      choices: words, one of which it must be.
      at_least: what the value, or each of several, must reach.
    """

    default: Any
    text: str
    parse: Callable[[Any, str], Any] | None = None
    name: str = ""
    choices: tuple[str, ...] = ()
    at_least: float | None = None


def flag(default: Any, text: str, parse: Callable[[Any, str], Any] | None = None, **given) -> Any:
    """A field of settings that is a flag; `given` has other attributes of `Flag`."""
    made = {FLAG: Flag(default, text, parse, **given)}
    if parse is None:
        return dataclasses.field(default=default, metadata=made)
    return dataclasses.field(default_factory=lambda: parse(default, given.get("name", "")), metadata=made)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a command is asked for.

    Raises:
      ValueError: a value is below what its flag allows.
    """

    def __post_init__(self):
        for field, own in _flags(type(self)):
            value = getattr(self, field.name)
            for each in value if isinstance(value, (list, tuple)) else (value,):
                if own.at_least is not None and each is not None:
                    parsing.at_least(own.at_least, **{own.name or field.name: each})


Own = TypeVar("Own", bound=Settings)


def define(settings: type[Settings], values: flags.FlagValues = flags.FLAGS) -> None:
    """Register a flag for each field that is one."""
    for field, own in _flags(settings):
        name, given = own.name or field.name, {"flag_values": values}
        kind = "str" if own.parse else _kind(field.type)
        if own.choices:
            flags.DEFINE_enum(name, own.default, list(own.choices), own.text, **given)
        elif kind in NUMBERS:
            parser, serializer = NUMBERS[kind](own.at_least), flags.ArgumentSerializer()
            flags.DEFINE(parser, name, own.default, own.text, serializer=serializer, **given)
        else:
            {"str": flags.DEFINE_string, "bool": flags.DEFINE_bool}[kind](name, own.default, own.text, **given)


def _kind(annotation: type | str) -> str:
    """The name of a type, or of one that may be None, which is text where annotations are not evaluated."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text.partition(" ")[0]


def read(settings: type[Own], values: flags.FlagValues = flags.FLAGS) -> Own:
    """What flags say.

    Raises:
      ValueError: what one of them says means nothing.
    """
    found = {}
    for field, own in _flags(settings):
        name = own.name or field.name
        said = values[name].value
        found[field.name] = own.parse(said, name) if own.parse else said
    return settings(**found)


def parsed(settings: type[Own], **given) -> Own:
    """Settings of the command with these flags, as `--name=value` would give them, and the defaults of all others."""
    values = flags.FlagValues()
    define(settings, values)
    values(["", *(f"--{name}={value}" for name, value in given.items())])
    return read(settings, values)


def _flags(settings: type[Settings]) -> Iterator[tuple[dataclasses.Field, Flag]]:
    for field in dataclasses.fields(settings):
        if FLAG in field.metadata:
            yield field, field.metadata[FLAG]
