"""A kernel under a law: how it is called, and how what it gives is compared."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from attnzoo.contract.sizes import Dims
from attnzoo.door.attention import attend, attention_weights
from attnzoo.kernel import Kernel

GROUPED = {"heads": 4, "kv_heads": 2}  # more than one group of query heads
LENGTH = 37  # a prime, which no block divides
LONG = 1031  # another, longer than the tiles and chunks that arithmetic is cut into


class LawBroken(AssertionError):
    """A kernel breaks a law.

    Attributes:
      law: its name.
      deviation: the largest deviation, NaN where something else than a number was wrong.

    Example:
      >>> from attnzoo.testing import LawBroken
      >>> broken = LawBroken("masks_hide", Softmax(), "output deviates by 0.5", deviation=0.5)
      >>> print(broken)
      Softmax() breaks the law `masks_hide`: output deviates by 0.5
      >>> broken.law, broken.deviation
      ('masks_hide', 0.5)
    """

    def __init__(self, law: str, kernel: Kernel, message: str, deviation: float = math.nan):
        super().__init__(f"{kernel!r} breaks the law `{law}`: {message}")
        self.law = law
        self.deviation = deviation


class Operands(NamedTuple):
    """Inputs of a call: q [B, T, N, H], k [B, S, K, H], v [B, S, K, Hv]; of NumPy, or of jax where it is traced."""

    q: Any
    k: Any
    v: Any


@dataclasses.dataclass(frozen=True)
class Subject:
    """A kernel under a law: calls with its parameters, and comparisons that name the law.

    Attributes:
      law: its name, for messages.
      kernel: what is held to it.
      implementation: of `attend`, for calls that name none.

    Example:
      >>> from attnzoo.testing import Subject
      >>> subject = Subject("outputs_are_zero", Softmax())
      >>> subject.attend(subject.operands(length=4)).shape
      (2, 4, 2, 8)
      >>> subject.zero(jnp.ones(3), "output")
      Traceback (most recent call last):
      attnzoo.testing.subject.LawBroken: Softmax() breaks the law `outputs_are_zero`: output of shape (3,) deviates ...
    """

    law: str
    kernel: Kernel
    implementation: str | None = None

    @property
    def supports(self):
        return self.kernel.supports

    @property
    def unordered(self) -> float:
        """How far two runs of one gradient may lie apart: on a GPU, sums by atomic additions come in any order."""
        return 1e-6 if jax.default_backend() == "gpu" else 0.0

    def operands(
        self, length=LENGTH, batch=2, heads=2, kv_heads=1, dim=8, keys=None, dtype=jnp.float32, value_dim=None
    ) -> Operands:
        """Normal operands, always the same."""
        key = (batch, length if keys is None else keys, kv_heads)
        shapes = [(batch, length, heads, dim), (*key, dim), (*key, value_dim or dim)]
        return Operands(*(normal(seed, shape, dtype) for seed, shape in enumerate(shapes)))

    def params(self, operands: Operands, longest: int | None = None):
        """Learned parameters for these operands, moved from where `init` starts."""
        dims = Dims.of(*operands)
        dims = dims._replace(key_length=max(longest or 0, dims.key_length))
        params = self.kernel.init(jax.random.key(1), dims)
        return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), params)

    def attend(self, operands: Operands, params=None, **arguments):
        """`attend` with the kernel; causal where it has no other form."""
        params = self.params(operands) if params is None else params
        given = brought(self.kernel, operands) | self._completed(arguments)
        return known(attend(*operands, kernel=self.kernel, params=params, **given))

    def weights(self, operands: Operands, **arguments):
        """The effective weights [B, N, T, S]."""
        given = {"kernel": self.kernel, "params": self.params(operands)} | brought(self.kernel, operands)
        return known(attention_weights(operands.q, operands.k, **given, **self._completed(arguments)))

    def _completed(self, arguments: dict) -> dict:
        return {"is_causal": not self.supports.bidirectional, "implementation": self.implementation} | arguments

    def broken(self, message: str, deviation: float = math.nan):
        """The error to raise."""
        return LawBroken(self.law, self.kernel, message, deviation)

    def same(self, got, expected, what: str, tolerance: float = 0.0) -> None:
        """Hold two trees together, relative to the size of the expected; bitwise where the tolerance is 0."""
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            if a.shape != b.shape or a.dtype != b.dtype:
                raise self.broken(f"{what} is {a.dtype}{a.shape}, expected {b.dtype}{b.shape}")
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            if not a.size or np.array_equal(a, b):
                continue
            deviation = float(np.max(np.where(a == b, 0, np.abs(a - b))))
            if not deviation <= tolerance * (1 + np.max(np.abs(b), where=np.isfinite(b), initial=0)):
                where = tuple(map(int, np.unravel_index(np.argmax(np.where(a == b, 0, np.abs(a - b))), a.shape)))
                raise self.broken(
                    f"{what} of shape {a.shape} deviates by {deviation:.3g}, allowed {tolerance}, most at {where}",
                    deviation,
                )

    def zero(self, got, what: str) -> None:
        """Hold all leaves to exactly 0."""
        self.same(got, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), got), what)

    def refuses(self, argument: str, **arguments) -> None:
        """Hold the kernel to refuse an argument by name."""
        operands = arguments.pop("operands", self.operands())
        try:
            self.attend(operands, **arguments)
        except NotImplementedError as error:
            if argument not in str(error) or type(self.kernel).__name__ not in str(error):
                raise self.broken(f"the refusal does not name the kernel and `{argument}`: {error}") from None
        else:
            raise self.broken(f"`{argument}` is not declared in `supports`, and not refused")

    def finite(self, got, what: str) -> None:
        """Hold all leaves to be neither infinite nor NaN."""
        if not all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(got)):
            raise self.broken(f"{what} not finite")

    def pulled(self, operands: Operands, params=None, remat: bool = False, **arguments) -> tuple[np.ndarray, Gradients]:
        """The output, and the gradients of a curved function of it; calls of one structure share one program."""
        params = self.params(operands) if params is None else params
        arguments = self._completed(arguments)
        arrays = {name: given for name, given in arguments.items() if isinstance(given, np.ndarray | jax.Array)}
        static = tuple((name, given) for name, given in arguments.items() if name not in arrays)
        bias = arrays.pop("bias", None)
        pulled = _pulled(Gradients(operands, params, bias), arrays, kernel=self.kernel, static=static, remat=remat)
        return known(pulled)


def normal(seed: int, shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Standard normal numbers, always the same."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def changed(x: np.ndarray, place: Any, times: float = 1.0, plus: float = 0.0) -> np.ndarray:
    """A copy in which what stands at a place is multiplied and added to."""
    x = x.copy()
    x[place] = x[place] * times + plus
    return x


def known(tree: Any) -> Any:
    """The tree in NumPy, which compiles no program to slice or compare; as it is where it is being traced."""
    return jax.tree.map(lambda x: x if isinstance(x, jax.core.Tracer) else np.asarray(x), tree)


def brought(kernel: Kernel, operands: tuple[Any, Any, Any]) -> dict:
    """What tokens bring as an argument, where the kernel takes such: it follows from each key, so that whatever moves,
    hides or differentiates keys does so with it; it is NaN where they are."""
    dims = Dims.of(*operands)
    return {"tokens": _brought(operands[1], kernel, dims)} if kernel.token_inputs(dims) else {}


@functools.partial(jax.jit, static_argnames=("kernel", "dims"))
def _brought(keys: jax.Array, kernel: Kernel, dims: Dims) -> dict[str, jax.Array]:
    is_real = jnp.isfinite(keys).all(axis=-1, keepdims=True)
    keys = jnp.where(is_real, keys, 0)
    made = {}
    for name, one in kernel.token_inputs(dims).items():
        size = math.prod(one.shape)
        mixed = jnp.cos(jnp.arange(1, keys.shape[-1] * size + 1, dtype=keys.dtype)).reshape(-1, size)
        made[name] = jnp.where(is_real, one.activation(keys @ mixed), jnp.nan).reshape(*keys.shape[:-1], *one.shape)
    return made


class Gradients(NamedTuple):
    """What a law differentiates by."""

    operands: Operands
    params: Any
    bias: Any


def curved(out: jax.Array) -> jax.Array:
    """What is differentiated: its slope differs from entry to entry, but lies between 1 and 3 and changes slowly, so
    that neither blind queries nor large outputs hide or magnify an error."""
    return 2 * out + jnp.sqrt(1 + out**2)


@functools.partial(jax.jit, static_argnames=("kernel", "static", "remat"))
def _pulled(points: Gradients, arrays, *, kernel, static, remat):
    def loss(points):
        learned = {"kernel": kernel, "params": points.params, "bias": points.bias}
        out = attend(*points.operands, **learned | brought(kernel, points.operands) | arrays | dict(static))
        return jnp.sum(curved(out.astype(jnp.float32))), out

    (_, out), gradients = jax.value_and_grad(jax.checkpoint(loss) if remat else loss, has_aux=True)(points)
    return out, gradients
