"""What PyTorch runs: scaled_dot_product_attention, and compiled flex_attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

import attnzoo
from experiments.bench import outcome
from experiments.throughput import work
from experiments.throughput.jax_calls import timed
from experiments.throughput.work import dims_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def function(implementation: str, kernel, is_causal: bool, length: int, num_heads: int) -> Callable:
    """Attention of query, key and value [B, N, T, H]."""
    if implementation == "torch SDPA":
        attention = torch.nn.functional.scaled_dot_product_attention
        return lambda q, k, v: attention(q, k, v, is_causal=is_causal)
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = None
    if is_causal or not isinstance(kernel, attnzoo.Softmax):
        shows = work.joined(kernel, length, num_heads, is_causal, lambda x: torch.tensor(x, device=DEVICE))
        heads = num_heads if isinstance(kernel, attnzoo.BigBird) else None
        pairs = lambda batch, head, i, j: shows(head, i, j)
        mask = create_block_mask(pairs, None, heads, length, length, DEVICE, _compile=True)
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)


def outputs(implementation: str, kernel, is_causal: bool, inputs: list[np.ndarray], dtype: str) -> np.ndarray:
    """The output for given inputs [B, T, N, H], as float32."""
    operands = [torch.tensor(x.swapaxes(1, 2), dtype=getattr(torch, dtype), device=DEVICE) for x in inputs]
    with torch.inference_mode():
        out = function(implementation, kernel, is_causal, *inputs[0].shape[1:3])(*operands)
    return out.float().cpu().numpy().swapaxes(1, 2)


def measured(implementation: str, cells: list[dict], kernels: dict, repeats: int) -> Iterator[dict]:
    """Rows of cells."""
    torch._dynamo.config.recompile_limit = 256  # a program for each cell
    for cell in cells:
        try:
            yield cell | _measured(implementation, kernels[cell["kernel"]], cell, repeats)
        except torch.OutOfMemoryError as error:
            yield cell | {"status": "skipped", "limit": "memory", "reason": str(error).splitlines()[0][:300]}
        except Exception as error:
            yield cell | outcome.of(error)
        if DEVICE == "cuda":
            torch.cuda.empty_cache()


def _measured(implementation: str, kernel, cell: dict, repeats: int) -> dict:
    dims = dims_of(cell)
    shape = (dims.batch, dims.num_heads, dims.query_length, dims.head_dim)
    generator = torch.Generator(DEVICE).manual_seed(cell["seed"])
    made = [torch.randn(shape, generator=generator, device=DEVICE) for _ in range(4)]
    q, k, v, direction = (x.to(getattr(torch, cell["dtype"])) for x in made)
    del made
    attention = function(implementation, kernel, cell["is_causal"], dims.query_length, dims.num_heads)

    def train():
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        return torch.autograd.grad(attention(*leaves), leaves, direction)

    def forward():
        with torch.inference_mode():
            return attention(q, k, v)

    return timed(train if cell["pass"] == "train" else forward, _wait, repeats)


def _wait(result) -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
