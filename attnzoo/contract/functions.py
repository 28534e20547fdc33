"""A caller's function of a head and a pair of positions, as structure: it is asked tile by tile, like a mask or a bias.

    score_mod(score, head, query_index, key_index) -> score        mask_mod(head, query_index, key_index) -> bool

All are scalars (FlexAttention: Dong et al. 2024, arXiv:2412.05496). There an index of an example comes before the head;
here functions that differ by example are a `jax.vmap`. What the function closes over becomes operands, so that it may
be traced and has gradients. Where all of it is known beforehand, so are the tiles that it hides entirely.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.sharding import AxisType, PartitionSpec

from attnzoo.contract import programs, varying

TAKEN = {"score_mod": ("score", "head", "query_index", "key_index"), "mask_mod": ("head", "query_index", "key_index")}
INDEX = jax.ShapeDtypeStruct((), jnp.int32)


class Program:
    """What a function computes, apart from what it closes over; equal where it is the same function of the same text.

    Attributes:
      dtypes: of what it closes over.
      constants: that, where all of it is known beforehand; else None.
    """

    def __init__(self, function: Callable, jaxpr: core.Jaxpr, closed_over: list[Any]):
        self.jaxpr = jaxpr
        self.dtypes = tuple(jnp.result_type(x) for x in closed_over)
        self.constants = [np.asarray(x) for x in closed_over] if all(map(_is_known, closed_over)) else None
        self._same = function if isinstance(function, Hashable) else id(function), str(jaxpr), _digest(self.constants)

    @property
    def uses_head(self) -> bool:
        """Whether what it gives may differ between heads."""
        head = self.jaxpr.invars[-3]
        return any(head is x for equation in self.jaxpr.eqns for x in equation.invars) or head in self.jaxpr.outvars

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._same == other._same

    def __hash__(self) -> int:
        return hash(self._same)

    def __call__(self, closed_over: Any, *scalars: jax.Array) -> jax.Array:
        closed = core.ClosedJaxpr(self.jaxpr, list(closed_over))
        is_mapped = bool(jax.sharding.get_abstract_mesh().manual_axes)
        return (_in_a_shard_map(closed, *scalars) if is_mapped else core.jaxpr_as_fun(closed)(*scalars))[0]

    def over(self, closed_over: Any, head: jax.Array, i: jax.Array, j: jax.Array, *scores: jax.Array) -> jax.Array:
        """Of one head, for positions [t] and [s] and scores [t, s]: [t, s]."""
        one = lambda head, i, j, *score: self(closed_over, *score, head, i, j)
        beside = jax.vmap(one, (None, None, 0, *(0,) * len(scores)))
        return jax.vmap(beside, (None, 0, None, *(0,) * len(scores)))(head, i, j, *scores)


def _in_a_shard_map(closed: core.ClosedJaxpr, *args: Any) -> list[Any]:
    """What a program gives whose types know no device, for arrays that may differ between devices.

    Loops in it are left as they are, and refused by jax.
    """
    # Arrays that are known have the type of the mesh that was there when the function was traced; numbers have none.
    here = lambda x: jnp.asarray(np.asarray(x)) if _is_known(x) else x

    def rule(equation, operands):
        given = varying.alike(list(map(here, operands)))
        # A reshard is of one number, over the mesh that was there when the function was traced.
        return given if equation.primitive.name == "reshard" else programs.usual(equation, given)

    return list(map(here, programs.run(closed, args, rule)))


def _is_known(x: Any) -> bool:
    return not isinstance(x, jax.core.Tracer) and getattr(x, "is_fully_addressable", True)


def _digest(constants: list[np.ndarray] | None) -> str | None:
    if constants is None:
        return None
    digest = hashlib.sha256()
    for x in constants:
        digest.update(f"{x.dtype}{x.shape}".encode() + x.tobytes())
    return digest.hexdigest()


def traced(name: str, function: Callable, *scores: jax.ShapeDtypeStruct) -> tuple[Program, list[jax.Array], Any]:
    """The program of a function, what it closes over, and the type of what it gives.

    Raises:
      ValueError: it is no function, or one of other arguments.
    """
    if not callable(function):
        raise ValueError(f"{name}={function!r}: expected a function of scalars that jax can trace")
    if not _takes(function, TAKEN[name]):
        raise ValueError(
            f"{name}{inspect.signature(function)}: expected {name}({', '.join(TAKEN[name])}), in which no index of an "
            "example comes first; where it differs by example, call under jax.vmap"
        )
    again = lambda *scalars: function(*scalars)  # jax remembers what it traced, and with it what was closed over then
    closed, out = jax.make_jaxpr(again, return_shape=True)(*scores, INDEX, INDEX, INDEX)
    return Program(function, closed.jaxpr, closed.consts), [_in_one_piece(x) for x in closed.consts], out


def _takes(function: Callable, arguments: tuple[str, ...]) -> bool:
    """Whether it can be called with these, one after another, as far as it tells."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # what is compiled may have none
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _in_one_piece(x: Any) -> Any:
    """An array that Auto axes may split: XLA ends the process where a `shard_map` over some axes of a mesh looks up
    entries of one that others split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    is_left_to_xla = set(mesh.axis_types) == {AxisType.Auto}
    return jax.lax.with_sharding_constraint(x, PartitionSpec()) if is_left_to_xla else x
