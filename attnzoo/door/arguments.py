"""The arguments of `attend` that say who may see whom, and how much, declared once for all who hand them on."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import jax

from attnzoo.contract.sizes import Tree
from attnzoo.positions import PositionBias

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer

Function = TypeVar("Function", bound=Callable)


class Masking(TypedDict, total=False):
    """Who may see whom, and where; the batch leads in all arrays."""

    mask: jax.Array | None
    is_causal: bool
    query_offset: int | Integer[jax.Array, ""] | Integer[jax.Array, "*B"]
    query_seq_lengths: Integer[jax.Array, "*B"] | None
    key_value_seq_lengths: Integer[jax.Array, "*B"] | None
    key_mask: Bool[jax.Array, "*B S"] | None
    query_segment_ids: Integer[jax.Array, "*B T"] | None
    key_value_segment_ids: Integer[jax.Array, "*B S"] | None
    local_window_size: int | tuple[int, int] | None
    mask_mod: Callable | None
    global_tokens: Integer[jax.Array, "*B G"] | Bool[jax.Array, "*B S"] | None


class Asked(Masking, total=False):
    """What a caller of a layer asks of attention."""

    bias: Float[jax.Array, "*_"] | PositionBias | None
    score_mod: Callable | None
    scale: float | jax.Array | None
    soft_cap: float | jax.Array | None
    sinks: Float[jax.Array, " N"] | None
    draws: Tree | None
    sequence_axis: str | tuple[str, ...] | None


DEFAULTS = {"is_causal": False, "query_offset": 0}  # of others, None


def beyond_defaults(asked: Asked) -> dict[str, object]:
    """What is asked for beyond what is so by default."""
    return {name: x for name, x in asked.items() if x is not DEFAULTS.get(name)}


def spelled_out(source: Callable, chosen: Callable[[str], bool]) -> Callable[[Function], Function]:
    """A decorator of functions that hand keywords on to `source`: their signature names those that are `chosen`.

    Others are refused as Python does.
    """

    def decorate(function: Any) -> Any:
        signature = inspect.signature(function)
        own = {name: x for name, x in signature.parameters.items() if x.kind is not x.VAR_KEYWORD}
        theirs = inspect.signature(source).parameters.items()
        handed = {name: x.replace(kind=x.KEYWORD_ONLY) for name, x in theirs if chosen(name) and name not in own}

        @functools.wraps(function)
        def checked(*args, **kwargs):
            for name in kwargs:
                if name not in own and name not in handed:
                    raise TypeError(f"{function.__qualname__}() got an unexpected keyword argument {name!r}")
            return function(*args, **kwargs)

        spelled: Any = checked
        spelled.__signature__ = signature.replace(parameters=[*own.values(), *handed.values()])
        return spelled

    return decorate
