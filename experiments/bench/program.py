"""Attention by a kernel as a program: whether the kernel takes it, what it costs, and what it needs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import attnzoo
from attnzoo import Dims, Kernel, costs
from attnzoo.costs import counting, traffic
from experiments.bench import brought, mesh, splitting
from experiments.bench.memory import planned


@dataclasses.dataclass(frozen=True)
class Program:
    """What is timed: attention by `kernel`, with the gradients of operands and parameters in a train pass.

    `mesh` names the devices that it is for, as a flag does; empty for one. `implementation` is that of `attend`.
    """

    kernel: Kernel
    dims: Dims
    dtype: str
    is_causal: bool
    is_train: bool
    mesh: str = ""
    implementation: str | None = None

    def __call__(self, query, key, value, params, tokens):
        operands = (query, key, value, params, tokens)
        return jax.value_and_grad(self._loss, (0, 1, 2, 3, 4))(*operands) if self.is_train else self.forward(*operands)

    def forward(self, query, key, value, params, tokens):
        """The output alone."""
        given = {"kernel": self.kernel, "params": params, "tokens": tokens, "implementation": self.implementation}
        return attnzoo.attend(query, key, value, **given, is_causal=self.is_causal)

    def _loss(self, *operands):
        return jnp.sum(jnp.square(self.forward(*operands).astype(jnp.float32)))

    def shapes(self) -> list:
        """Shapes of query, key, value, parameters, and what tokens bring."""
        params = jax.eval_shape(lambda: self.kernel.init(jax.random.key(0), self.dims))
        return [*costs.operands(self.dims, self.dtype), params, costs.tokens(self.kernel, self.dims, self.dtype)]

    def placed(self) -> list:
        """The same, which tell how they are split over the mesh, if there is one."""
        return splitting.over(mesh.made(self.mesh), self.shapes(), splitting.shape) if self.mesh else self.shapes()

    def operands(self, seed: int) -> list:
        """Normal queries, keys and values, the same for every kernel, new parameters, and what normal tokens bring."""
        drawn, key = np.random.default_rng(seed), jax.random.key(seed)  # NumPy compiles nothing for each length
        *shapes, _, _ = self.shapes()
        arrays = [jnp.asarray(drawn.standard_normal(x.shape, np.float32), x.dtype) for x in shapes]
        leading = self.dims.batch, self.dims.key_length, self.dims.num_heads
        tokens = brought.normal(self.kernel, self.dims, leading, jax.random.fold_in(key, 1), self.dtype)
        operands = [*arrays, self.kernel.init(key, self.dims), tokens]
        return splitting.over(mesh.made(self.mesh), operands, jax.device_put) if self.mesh else operands

    def refusal(self) -> str | None:
        """Why the kernel cannot serve, or devices cannot share its operands, or None."""
        if self.mesh and (reason := splitting.refusal(self.mesh, self.dims)):
            return reason
        try:
            with self._on_devices():
                jax.eval_shape(self, *self.placed())
        except (NotImplementedError, ValueError) as error:
            return str(error)
        return None

    def counts(self) -> dict:
        """Operations of the program on one device, None where they cannot be counted; bytes that a call moves and
        decoding keeps."""
        try:
            flops = counting.flops(self, *self.shapes())
        except ValueError:  # a loop whose trip count is not known
            flops = None
        moved = costs.bytes_moved(self.kernel, self.dims, self.dtype)
        return {"flops": flops, "cost_bytes": moved, "state_bytes": self.kernel.state_bytes(self.dims, self.dtype)}

    def largest_array(self) -> int:
        """Bytes of the largest array that the program names, a lower bound of its memory that needs no compiler."""
        return counting.largest_intermediate(self, *self.shapes()) * jnp.dtype(self.dtype).itemsize

    @functools.cached_property
    def compiled(self) -> tuple[Callable, dict]:
        """The compiled program, and what it took, will need and send; kept, since jax would not compile it again."""
        start = time.perf_counter()
        compiled = self._made(self, *self.placed())
        seconds = time.perf_counter() - start
        return compiled, {"compile_seconds": seconds} | planned(compiled) | (sent(compiled) if self.mesh else {})

    def pulled(self) -> Callable:
        """The compiled `with_gradients` of `forward`: what a train pass differentiates, along any direction."""
        like, operands = self.shapes()[0], self.placed()
        out = jax.eval_shape(self.forward, *self.shapes())
        direction = operands[0] if like.shape == out.shape else out
        return self._made(with_gradients(self.forward), direction, *operands)

    def _made(self, function: Callable, *shapes) -> jax.stages.Compiled:
        with self._on_devices():
            return jax.jit(function).lower(*shapes).compile()

    def _on_devices(self) -> contextlib.AbstractContextManager:
        return jax.set_mesh(mesh.made(self.mesh)) if self.mesh else contextlib.nullcontext()


def with_gradients(forward: Callable) -> Callable:
    """A function of the gradient of what `forward` gives, and of its operands, to what it gives and their gradients."""

    def train(direction, *operands):
        out, pull = jax.vjp(forward, *operands)
        return out, pull(direction)

    return train


def sent(compiled: jax.stages.Compiled) -> dict:
    """Messages and bytes that one device sends in a call, by kind, and all bytes; None where they cannot be counted."""
    try:
        messages = traffic.sent(compiled)
    except ValueError:  # a loop whose trip count is not known
        return {"sent": None, "sent_bytes": None}
    return {"sent": {kind: each._asdict() for kind, each in messages.items()}, "sent_bytes": traffic.total(messages)}
