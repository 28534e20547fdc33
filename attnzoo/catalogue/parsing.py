"""Values from text: frozen dataclasses of a catalogue, written as calls. Nothing is evaluated."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
from typing import NamedTuple


class Catalogue(NamedTuple):
    """What text may name.

    Attributes:
      noun: what one of them is called in messages.
      classes: dataclasses by name.
      base: what a class outside the catalogue must be a subclass of, or some of which it must be of one.
      example: text that is right.
    """

    noun: str
    classes: dict[str, type]
    base: type | tuple[type, ...]
    example: str

    def parse(self, text: str, imports: bool = True) -> list:
        """Instances from a list of calls, such as `"performer(features=64), my_package.MyKernel(width=3)"`.

        Values of fields are Python literals; a name with dots is imported; "all" is one of each class.

        Args:
          imports: whether names with dots are taken. Text from a file must not import anything.

        Raises:
          ValueError: an unknown name or field (the message has the nearest one), or text that is no list of calls.
        """
        if text.strip() == "all":
            return [cls() for cls in self.classes.values()]
        if text.rstrip().endswith(","):
            raise ValueError(f"{text!r} ends with an empty item: remove the last comma")
        try:
            listed = ast.parse(f"[{text}\n]", mode="eval").body
        except SyntaxError:
            raise ValueError(f"{text!r} is no list of {self.noun}s: expected such as {self.example!r}") from None
        if not isinstance(listed, ast.List) or not listed.elts:
            raise ValueError(f"{text!r} names no {self.noun}: expected such as {self.example!r}, or 'all'")
        return [self._instance(node, imports) for node in listed.elts]

    def name_of(self, value) -> str:
        """The name of a value's class, or the class's own where it is not in the catalogue."""
        names = {cls: name for name, cls in self.classes.items()}
        return names.get(type(value), type(value).__name__)

    def identity(self, value) -> str:
        """The repr, after its module where the class is not in the catalogue: others may have a class of that name."""
        is_known = type(value) in self.classes.values()
        return repr(value) if is_known else f"{type(value).__module__}.{value!r}"

    def spelled(self, value) -> str:
        """Text that `parse` reads as this value, with a dotted name where its class is not in the catalogue."""
        cls = type(value)
        name = self.name_of(value) if cls in self.classes.values() else f"{cls.__module__}.{cls.__qualname__}"
        return name + repr(value).removeprefix(cls.__qualname__)

    def _instance(self, node: ast.expr, imports: bool):
        call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
        cls = self._class(ast.unparse(call.func), imports)
        named = [(keyword.arg, keyword.value) for keyword in call.keywords if keyword.arg is not None]
        if call.args or len(named) < len(call.keywords):
            raise ValueError(f"{ast.unparse(node)!r}: expected fields by name, such as `{_example(cls)}`")
        given = {name: _field(cls, name, value) for name, value in named}
        if len(given) < len(named):
            raise ValueError(f"{ast.unparse(node)!r} gives a field twice: keep one value")
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"{ast.unparse(node)!r}: {error}") from None

    def _class(self, name: str, imports: bool) -> type:
        if name in self.classes:
            return self.classes[name]
        if "." in name and not imports:
            raise ValueError(f"{name!r} is not in the catalogue, and nothing is imported that a file names")
        if "." not in name:
            known = ", ".join(self.classes)
            raise ValueError(f"unknown {self.noun} {name!r}{_nearest(name, self.classes)}: expected one of {known}")
        module, _, attribute = name.rpartition(".")
        try:
            cls = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"cannot import {self.noun} {name!r}: {error}") from None
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            bases = self.base if isinstance(self.base, tuple) else (self.base,)
            expected = " or ".join(f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in bases)
            raise ValueError(f"{name!r} is {cls!r}: expected a subclass of {expected}")
        return cls


def _field(cls: type, name: str, value: ast.expr):
    names = [field.name for field in dataclasses.fields(cls)]
    if name not in names:
        known = f"expected one of {', '.join(names)}" if names else "it has none"
        raise ValueError(f"{cls.__name__} has no field {name!r}{_nearest(name, names)}: {known}")
    try:
        return ast.literal_eval(value)
    except ValueError:
        written = f"{name}={ast.unparse(value)}"
        raise ValueError(
            f"{cls.__name__}({written}): expected a number, a string, a tuple, True, False or None"
        ) from None


def _nearest(name: str, known) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _example(cls: type) -> str:
    fields = dataclasses.fields(cls)
    return f"{cls.__name__}({fields[0].name}={fields[0].default!r})" if fields else f"{cls.__name__}()"
