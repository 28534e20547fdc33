"""The catalogue: a kernel's name everywhere, and kernels from text."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib

from attnzoo.interface import Kernel
from attnzoo.kernels import (
    Additive,
    BigBird,
    Linear,
    Linformer,
    NadarayaWatson,
    Nystrom,
    Performer,
    SlidingWindow,
    Softmax,
)

KERNELS: dict[str, type[Kernel]] = {
    "softmax": Softmax,
    "nadaraya_watson": NadarayaWatson,
    "additive": Additive,
    "sliding_window": SlidingWindow,
    "bigbird": BigBird,
    "linear": Linear,
    "performer": Performer,
    "linformer": Linformer,
    "nystrom": Nystrom,
}


def parse(text: str) -> list[Kernel]:
    """Kernels from text such as `"softmax, sliding_window(left=255, right=0)"`; `"all"` is the whole catalogue.

    A name with dots is a class outside the catalogue, imported: `"my_package.my_module.MyKernel(width=3)"`. Values
    are Python literals; nothing is evaluated.

    Raises:
      ValueError: an unknown kernel or field (the message has the nearest name), or text that is no list of calls.

    Example:
      >>> parse("sliding_window(left=255, right=0)")
      [SlidingWindow(left=255, right=0, dilation=1, global_tokens=0)]
    """
    if text.strip() == "all":
        return [kernel() for kernel in KERNELS.values()]
    if text.rstrip().endswith(","):
        raise ValueError(f"{text!r} ends with an empty item: remove the last comma")
    try:
        listed = ast.parse(f"[{text}\n]", mode="eval").body
    except SyntaxError:
        raise ValueError(
            f"{text!r} is no list of kernels: expected such as 'softmax, performer(features=64)'"
        ) from None
    if not isinstance(listed, ast.List) or not listed.elts:
        raise ValueError(f"{text!r} names no kernel: expected such as 'softmax, performer(features=64)', or 'all'")
    return [_kernel(node) for node in listed.elts]


def name_of(kernel: Kernel) -> str:
    """The catalogue's name of a kernel's class, or the class's own where it is not in the catalogue."""
    names = {cls: name for name, cls in KERNELS.items()}
    return names.get(type(kernel), type(kernel).__name__)


def spelled(kernel: Kernel) -> str:
    """Text that `parse` reads as this kernel, in any process that can import its class."""
    cls = type(kernel)
    return f"{cls.__module__}.{cls.__qualname__}{repr(kernel).removeprefix(cls.__qualname__)}"


def _kernel(node: ast.expr) -> Kernel:
    call = node if isinstance(node, ast.Call) else ast.Call(func=node, args=[], keywords=[])
    cls = _class(ast.unparse(call.func))
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"{ast.unparse(node)!r}: expected fields by name, such as `{_example(cls)}`")
    fields = {keyword.arg: _field(cls, keyword) for keyword in call.keywords}
    if len(fields) < len(call.keywords):
        raise ValueError(f"{ast.unparse(node)!r} gives a field twice: keep one value")
    try:
        return cls(**fields)
    except TypeError as error:
        raise ValueError(f"{ast.unparse(node)!r}: {error}") from None


def _class(name: str) -> type[Kernel]:
    if name in KERNELS:
        return KERNELS[name]
    if "." not in name:
        raise ValueError(f"unknown kernel {name!r}{_nearest(name, KERNELS)}: expected one of {', '.join(KERNELS)}")
    module, _, attribute = name.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import kernel {name!r}: {error}") from None
    if not (isinstance(cls, type) and issubclass(cls, Kernel)):
        raise ValueError(f"{name!r} is {cls!r}: expected a subclass of attnzoo.Kernel")
    return cls


def _field(cls: type[Kernel], keyword: ast.keyword):
    names = [field.name for field in dataclasses.fields(cls)]
    if keyword.arg not in names:
        known = f"expected one of {', '.join(names)}" if names else "it has none"
        raise ValueError(f"{cls.__name__} has no field {keyword.arg!r}{_nearest(keyword.arg, names)}: {known}")
    try:
        return ast.literal_eval(keyword.value)
    except ValueError:
        written = f"{keyword.arg}={ast.unparse(keyword.value)}"
        raise ValueError(
            f"{cls.__name__}({written}): expected a number, a string, a tuple, True, False or None"
        ) from None


def _nearest(name: str, known) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _example(cls: type[Kernel]) -> str:
    fields = dataclasses.fields(cls)
    return f"{cls.__name__}({fields[0].name}={fields[0].default!r})" if fields else f"{cls.__name__}()"
