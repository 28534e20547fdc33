"""Kernels whose tokens have an order in time beside independent implementations, in float64 (extra `peers`).

Those of fla are its references, which its own kernels are tested against. Those of transformers give way to fla where
that is installed, and are unwrapped. cosFormer's public code is in no package.
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnzoo import (
    Based,
    Delta,
    Forgetting,
    GatedDelta,
    GatedLinear,
    Kernel,
    KimiDelta,
    Linear,
    LogLinear,
    Retention,
    StateSpace,
    attend,
    start,
    step,
)
from tests.test_packages import arrays, assert_agree, heads_first, peer

torch = pytest.importorskip("torch", reason="torch is not here: install the extra `peers`")

BATCH, LENGTH, HEADS, DIM, VALUE_DIM = 2, 160, 3, 6, 5  # two of our chunks and a half, five of theirs
CHUNK = 32
CUT = 90  # where states are left
LEVELS = 9
RATES = np.array([-0.1, -1.0, -4.0])


class Public(NamedTuple):
    """A kernel, and a public function of the same.

    Attributes:
      kernel: ours.
      brings: what tokens bring beside queries, keys and values, by names of `TOKENS`.
      module: where the function is.
      call: (module, queries, keys, values, *what tokens bring, initial state or None) -> output, state or None.
      tokens: what tokens bring to ours, from what they bring to theirs.
      scale: of ours.
    """

    kernel: Kernel
    brings: tuple[str, ...]
    module: str
    call: Callable
    tokens: Callable = lambda *brought: {}
    scale: float | None = None


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


TOKENS = {  # shape, and activation
    "decay": ((), lambda x: -np.log1p(np.exp(2 * x))),
    "decay by channel": ((DIM,), lambda x: -np.log1p(np.exp(2 * x))),
    "beta": ((), sigmoid),
    "beta to 2": ((), lambda x: 2 * sigmoid(x)),
    "levels": ((LEVELS,), np.exp),
}


def inputs_of(public, length=LENGTH):
    widths = ((DIM,), (DIM,), (VALUE_DIM,), *(TOKENS[name][0] for name in public.brings))
    q, k, v, *brought = arrays(*((BATCH, length, HEADS, *width) for width in widths))
    return [q, k, v, *(TOKENS[name][1](x) for name, x in zip(public.brings, brought, strict=True))]


def in_float64(function):
    """References compute in float32 whatever they are given: here float64 is what they call so."""

    @functools.wraps(function)
    def called(*tensors):
        before = torch.get_default_dtype()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "float32", torch.float64)
            patch.setattr(torch, "float", torch.float64)
            patch.setattr(torch.Tensor, "float", torch.Tensor.double)
            torch.set_default_dtype(torch.float64)
            try:
                return function(*tensors)
            finally:
                torch.set_default_dtype(before)

    return called


def theirs_of(public):
    module = peer(public.module)
    return in_float64(lambda *tensors: public.call(module, *tensors, None)[0])


def options_of(public, brought):
    options = {"kernel": public.kernel, "tokens": public.tokens(*brought), "scale": public.scale}
    if isinstance(public.kernel, Retention):  # those that it draws are float32
        options["draws"] = jnp.log1p(-jnp.exp2(-5.0 - jnp.arange(HEADS)))
    return options


def ours_of(public):
    return lambda q, k, v, *brought: attend(q, k, v, is_causal=True, **options_of(public, brought))


def unit(x):
    """Norms are ours to take, and in fla a layer's (its epsilon is that of transformers' `l2norm`)."""
    return x * torch.rsqrt((x**2).sum(-1, keepdim=True) + 1e-6)


def turned(x):
    """Heads before time, or time before heads."""
    return x.transpose(1, 2)


def retention(fla, q, k, v, found):
    return heads_first(fla.naive_retention)(q, k, v), None


def delta(fla, q, k, v, beta, found):
    q, k, v, beta = map(turned, (unit(q), unit(k), v, beta))
    out, left = fla.delta_rule_recurrence(q, k, v, beta, found)
    return turned(out), left


def delta_in_chunks(fla, q, k, v, beta, found):
    out, left = fla.delta_rule_chunkwise(*map(turned, (unit(q), unit(k), v, beta)), chunk_size=CHUNK)
    return turned(out), left


def state_space_of_mamba(module, q, k, v, step, found):
    """Their state is [values, keys], and their scale 1; decays are steps times the rate of a head."""
    found = None if found is None else found.mT
    options = {"chunk_size": CHUNK, "initial_states": found, "return_final_states": True}
    out, left = inspect.unwrap(module.mamba2_chunk_scan)(v, step, torch.tensor(RATES), k, q, **options)
    return out, left.mT


def based(fla, q, k, v, found):
    """Theirs adds 1e-6 to the sum of weights, ours nothing: so values are summed, and ones."""
    weigh = heads_first(functools.partial(fla.naive_parallel_based, use_norm=False))
    return weigh(q, k, v) / weigh(q, k, torch.ones_like(v)), None


def linear(fla, q, k, v, found):
    q, k = (torch.nn.functional.elu(x) + 1 for x in (q, k))
    return fla.naive_recurrent_linear_attn(q, k, v, scale=1.0, normalize=True)


NORMS = {"use_qk_l2norm_in_kernel": True}
KEPT = {"output_final_state": True}
decays = lambda log_decay: {"log_decay": log_decay}
rates = lambda beta: {"beta": beta}
both = lambda log_decay, beta: {"log_decay": log_decay, "beta": beta}
undamped = lambda log_decay: {"log_decay": log_decay, "beta": jnp.ones_like(log_decay)}
levels = lambda log_decay, weights: undamped(log_decay) | {"log_level": jnp.log(weights)}

GATES, GATES_BY_CHANNEL = ("decay", "beta"), ("decay by channel", "beta")
GATED, KIMI = "fla.ops.gated_delta_rule.naive", "fla.ops.kda.naive"
QWEN = "transformers.models.qwen3_next.modeling_qwen3_next"
MOONSHOT = "transformers.models.kimi_linear.modeling_kimi_linear"

# Those that take and leave a state.
WITH_STATE = {
    "gla": Public(
        GatedLinear(),
        ("decay by channel",),
        "fla.ops.gla.naive",
        lambda fla, *x: fla.naive_recurrent_gla(*x, **KEPT),
        decays,
    ),
    "simple gla": Public(
        StateSpace(),
        ("decay",),
        "fla.ops.simple_gla.naive",
        lambda fla, *x: fla.naive_recurrent_simple_gla(*x[:-1], initial_state=x[-1]),
        undamped,
    ),
    "mamba 2": Public(
        StateSpace(),
        ("beta",),
        "transformers.models.mamba2.modeling_mamba2",
        state_space_of_mamba,
        lambda step: {"log_decay": step * RATES, "beta": step},
        scale=1.0,
    ),
    "delta": Public(Delta(), ("beta",), "fla.ops.delta_rule.naive", delta, rates),
    "delta to 2": Public(Delta(max_beta=2), ("beta to 2",), "fla.ops.delta_rule.naive", delta, rates),
    "gated delta": Public(
        GatedDelta(),
        GATES,
        GATED,
        lambda fla, q, k, v, g, beta, found: fla.naive_recurrent_gated_delta_rule(
            unit(q), unit(k), v, beta, g, initial_state=found, **KEPT
        ),
        both,
    ),
    "gated delta of qwen": Public(
        GatedDelta(),
        GATES,
        QWEN,
        lambda module, *x: inspect.unwrap(module.torch_recurrent_gated_delta_rule)(*x[:-1], x[-1], **NORMS, **KEPT),
        both,
    ),
    "gated delta of qwen, in chunks": Public(
        GatedDelta(),
        GATES,
        QWEN,
        lambda module, *x: inspect.unwrap(module.torch_chunk_gated_delta_rule)(*x[:-1], CHUNK, x[-1], **NORMS, **KEPT),
        both,
    ),
    "kimi": Public(
        KimiDelta(),
        GATES_BY_CHANNEL,
        KIMI,
        lambda fla, q, k, v, g, beta, found: fla.naive_recurrent_kda(
            unit(q), unit(k), v, g, beta, initial_state=found, **KEPT
        ),
        both,
    ),
    "kimi of transformers": Public(
        KimiDelta(),
        GATES_BY_CHANNEL,
        MOONSHOT,
        lambda module, *x: inspect.unwrap(module.recurrent_kimi_delta_attention)(*x, True, **NORMS),
        both,
    ),
    "kimi of transformers, in chunks": Public(
        KimiDelta(),
        GATES_BY_CHANNEL,
        MOONSHOT,
        lambda module, *x: inspect.unwrap(module.chunk_kimi_delta_attention)(*x[:-1], CHUNK, x[-1], True, **NORMS),
        both,
    ),
}
PUBLIC = WITH_STATE | {
    "retention": Public(Retention(), (), "fla.ops.retention.naive", retention),
    "linear": Public(Linear(epsilon=1e-10), (), "fla.ops.linear_attn.naive", linear),
    "based": Public(Based(), (), "fla.ops.based.naive", based),
    "delta, in chunks": Public(Delta(), ("beta",), "fla.ops.delta_rule.naive", delta_in_chunks, rates),
    "gated delta, in chunks": Public(
        GatedDelta(),
        GATES,
        GATED,
        lambda fla, q, k, v, g, beta, _: fla.naive_chunk_gated_delta_rule(unit(q), unit(k), v, g, beta, CHUNK),
        both,
    ),
    "kimi, in chunks": Public(
        KimiDelta(),
        GATES_BY_CHANNEL,
        KIMI,
        lambda fla, q, k, v, g, beta, _: fla.naive_chunk_kda(unit(q), unit(k), v, g, beta, chunk_size=CHUNK),
        both,
    ),
    "log-linear": Public(
        LogLinear(levels=LEVELS),
        ("decay", "levels"),
        "fla.ops.log_linear_attn.naive",
        lambda fla, *x: (fla.naive_log_linear_attn(*x[:-1]), None),
        levels,
        scale=1.0,
    ),
    "forgetting": Public(
        Forgetting(),
        ("decay",),
        "fla.ops.forgetting_attn.naive",
        lambda fla, *x: (fla.naive_forgetting_attn(*x[:-1]), None),
        lambda log_forget: {"log_forget": log_forget},
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions(name):
    """Values, and the gradients of queries, keys, values and all that tokens bring."""
    public = PUBLIC[name]
    assert_agree(ours_of(public), theirs_of(public), inputs_of(public))


@pytest.mark.parametrize("name", [name for name in PUBLIC if "chunks" not in name])
def test_documents_that_are_packed_are_theirs_one_by_one(name):
    """Ids that return are the same document; where decays count positions, they do so over what stands between."""
    public = PUBLIC[name]
    theirs, documents = theirs_of(public), np.arange(LENGTH) // (60 if public.kernel.supports.positions else 13) % 3

    def packed(*tensors):
        out = torch.zeros(BATCH, LENGTH, HEADS, VALUE_DIM, dtype=torch.float64)
        for document in range(3):
            places = torch.tensor(np.flatnonzero(documents == document))
            out = out.index_add(1, places, theirs(*(x[:, places] for x in tensors)))
        return out

    def ours(q, k, v, *brought):
        ids = jnp.broadcast_to(documents, (BATCH, LENGTH))
        asked = {"query_segment_ids": ids, "key_value_segment_ids": ids, "is_causal": True}
        return attend(q, k, v, **asked, **options_of(public, brought))

    assert_agree(ours, packed, inputs_of(public))


@pytest.mark.parametrize("name", WITH_STATE)
def test_states_are_theirs(name):
    """What a part of the sequence leaves the other one finds; gradients of what is left, too."""
    public, module = WITH_STATE[name], peer(WITH_STATE[name].module)
    parts = slice(0, CUT), slice(CUT, LENGTH)

    @in_float64
    def theirs(*tensors):
        outs, left = [], None
        for part in parts:
            out, left = public.call(module, *(x[:, part] for x in tensors), left)
            outs.append(out)
        return torch.cat([torch.cat(outs, dim=1).flatten(), left.flatten()])

    def ours(q, k, v, *brought):
        sizes = {"batch": BATCH, "num_heads": HEADS, "head_dim": DIM, "value_dim": VALUE_DIM, "max_length": None}
        state = start(**sizes, kernel=public.kernel, dtype=jnp.float64)
        given, outs = public.tokens(*brought), []
        for part in parts:
            tokens = {name: x[:, part] for name, x in given.items()}
            state, out = step(state, q[:, part], k[:, part], v[:, part], tokens=tokens, scale=public.scale)
            outs.append(out)
        (sums,) = state.cache
        return jnp.concatenate([jnp.concatenate(outs, axis=1).ravel(), sums.totals[0].ravel()])

    assert_agree(ours, theirs, inputs_of(public))


def test_lightning_attention_of_minimax():
    """Retention whose decays follow from heads and layers; theirs activates what it projects, and scales by 1."""
    module = peer("transformers.models.minimax.modeling_minimax")
    width = HEADS * DIM
    config = module.MiniMaxConfig(
        hidden_size=width, num_attention_heads=HEADS, head_dim=DIM, num_hidden_layers=4, block_size=CHUNK
    )
    layer = module.MiniMaxLightningAttention(config, layer_idx=1).double()
    layer.norm = layer.out_proj = torch.nn.Identity()
    slopes = np.asarray(layer.slope_rate[:, 0, 0])
    x, weight = arrays((BATCH, LENGTH, width), (3 * width, width))

    def theirs(x, weight):
        own = {"qkv_proj.weight": weight, "output_gate.weight": torch.zeros(width, width, dtype=torch.float64)}
        return 2 * torch.func.functional_call(layer, own, (x, None, None))[0]  # a gate of 0 lets half of it through

    def ours(x, weight):
        heads = jax.nn.silu(x @ weight.T).reshape(BATCH, LENGTH, HEADS, 3 * DIM)
        q, k, v = jnp.split(heads, 3, axis=-1)
        out = attend(q, k, v, kernel=Retention(), draws=-jnp.asarray(slopes), scale=1.0, is_causal=True)
        return out.reshape(x.shape)

    # Their decays are made in float32.
    assert_agree(ours, theirs, [x, weight / width**0.5], tolerance=1e-5)
