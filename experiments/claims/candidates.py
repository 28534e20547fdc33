"""Who is compared: recurrent networks, and a Transformer with each kernel, of about as many parameters."""

from __future__ import annotations

from flax import nnx

from attnzoo import Kernel, catalogue
from attnzoo.models import BlockConfig, LanguageModel, RecurrentLanguageModel
from experiments.bench import trust

RECURRENT = ("gru", "lstm")


def described(candidate: str | Kernel) -> dict:
    """How a row names a candidate."""
    if isinstance(candidate, str):
        return {"kernel": candidate, "name": candidate}
    return {"kernel": catalogue.identity(candidate), "name": catalogue.name_of(candidate)}


def built(candidate: str | Kernel, settings, vocabulary: int, length: int, seed: int) -> nnx.Module:
    """The model. A block of a Transformer has 12 width^2 parameters, a GRU layer 6, an LSTM layer 8."""
    if isinstance(candidate, str):
        sizes = {"width": settings.width, "num_layers": 2 * settings.layers}
        return RecurrentLanguageModel(vocabulary, **sizes, cell=candidate, rngs=nnx.Rngs(seed))
    return LanguageModel(
        vocabulary,
        BlockConfig(width=settings.width, num_heads=settings.heads),
        max_length=length,
        num_layers=settings.layers,
        attention=candidate,
        rngs=nnx.Rngs(seed),
    )


def refusal(candidate: str | Kernel, length: int) -> dict | None:
    """What a row says of a kernel that cannot model a language, or breaks a law of its place there; or None."""
    if isinstance(candidate, str):
        return None
    if not candidate.supports.causal:
        return {"status": "refused", "reason": f"it has no causal form: {candidate.supports.why}"}
    return trust.breach(candidate, length, is_causal=True)


def kernels(candidate: str | Kernel) -> list[Kernel]:
    """Of which its blocks are made; none of a recurrent network."""
    return [] if isinstance(candidate, str) else [candidate]
