"""A checkpoint and a prompt to text."""

from __future__ import annotations

import pathlib

import jax
import numpy as np

from attnzoo.models import generate
from experiments.bench import trust
from experiments.generate.settings import Settings
from experiments.tasks import text
from experiments.train import asked, language


def run(settings: Settings) -> int:
    """Print what the model says."""
    folder = language.find(pathlib.Path(settings.checkpoint))
    described, model = language.load(folder, settings.attention)
    for kernel in dict.fromkeys(described.attention):
        trust.require(kernel, described.max_length, is_trained=False, is_causal=described.is_causal)
    said = samples(settings, model)
    asked.require(model, described.attention, np.concatenate([_prompt(settings), said[0]]), is_stepped=True)
    print(f"{folder.name}: {', '.join(map(repr, described.attention))}, {described.max_length} bytes long")
    for tokens in said:
        print(settings.prompt + told(tokens))
    return 0


def samples(settings: Settings, model) -> np.ndarray:
    """What follows the prompt: tokens [samples, n]."""
    prompt = _prompt(settings)
    room = model.max_length - len(prompt)
    if room < 1:
        raise ValueError(
            f"--prompt has {len(prompt)} bytes: the model has room for {model.max_length}, prompt and answer together"
        )
    if settings.tokens > room:
        raise ValueError(
            f"--tokens={settings.tokens}: after {len(prompt)} bytes of prompt the model has room for {room}"
        )
    drawn = {"temperature": settings.temperature, "top_k": settings.top_k or None}
    drawn["top_p"] = settings.top_p if settings.top_p != 1 else None
    drawn["rng"] = jax.random.key(settings.seed) if settings.temperature > 0 else None
    prompts = np.tile(prompt, (settings.samples, 1))
    return np.asarray(generate(model, prompts, settings.tokens or room, **drawn))


def _prompt(settings: Settings) -> np.ndarray:
    return np.frombuffer(settings.prompt.encode(), np.uint8).astype(np.int32)


def told(tokens: np.ndarray) -> str:
    """Bytes as text; what is no UTF-8, and the token that masks, shows as a replacement character."""
    plain = b"".join(bytes([token]) if token != text.MASK else b"\xff" for token in tokens.tolist())
    return plain.decode(errors="replace")
