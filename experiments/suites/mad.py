"""MAD: each task at its baseline, and with one thing changed at a time (Poli et al. 2024, arXiv:2403.17844).

What changes is in `configs/tasks` of athms/mad-lab. Each setting is trained at three rates and two weight decays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from experiments.suites.kinds import apart
from experiments.suites.suite import Suite, Training, finite

EXAMPLES, TEST, BATCH, EPOCHS = 12_800, 1_280, 128, 200
FEWER = (6400, 3200, 1600, 800)
RATES, DECAYS = "1e-4,5e-4,1e-3", (0, 0.1)
MODEL = {
    "widths": 128, "layers": 2, "activation": "swiglu", "norm_kind": "rms", "warmup": 1, "test_examples": TEST,
    "learning_rates": RATES,
}  # fmt: skip
# Rotations are inside layers that attend, there.
ATTENDS, RECURS = {"positions": "rotary", "heads": 16}, {"positions": "none", "heads": 8}
SMALL = {
    "widths": 64, "layers": 2, "heads": 4, "positions": "rotary", "steps": 400, "tokens": 2048, "test_examples": 256,
    "learning_rates": "1e-3,3e-3", "warmup": 20, "weight_decay": 0, "isolate": "false", "save_every": 0,
    "embedding_stddev": 1,
}  # fmt: skip


class Setting(NamedTuple):
    """One setting of a task: its fields, its length, and how many training examples there are."""

    fields: dict[str, Any]
    length: int
    examples: int = EXAMPLES

    def task(self, name: str) -> str:
        """As text."""
        given = ", ".join(f"{field}={value!r}" for field, value in self.fields.items())
        return finite(f"{name}({given})", self.examples)


def _changed(base: Setting, vocabularies, lengths, fewer=FEWER, **fields) -> list[Setting]:
    """The baseline, then each change of it."""
    found = [base, *(base._replace(fields=base.fields | {"vocabulary": each}) for each in vocabularies)]
    found += [base._replace(length=length) for length in lengths]
    found += [base._replace(examples=examples) for examples in fewer]
    return found + [base._replace(fields=base.fields | {name: x}) for name, each in fields.items() for x in each]


# A sequence of 128 tokens of recall is 127 inputs: its last value is told, and not read.
RECALLED = (255, 511, 1023)
NOISE = {"vocabulary": 32, "noise": 0.2, "noise_symbols": 16}
TASKS: dict[str, tuple[str, list[Setting]]] = {
    "recall": ("mad_recall", _changed(Setting({"vocabulary": 16}, 127), (32, 64, 128), RECALLED)),
    "noisy_recall": ("mad_recall", _changed(Setting(NOISE, 127), (48, 80, 144), RECALLED, noise=(0.4, 0.6, 0.8))),
    "fuzzy_recall": ("mad_fuzzy_recall", _changed(Setting({"vocabulary": 16}, 128), (32, 64, 128), (256, 512, 1024))),
    "selective_copy": (
        "mad_selective_copy",
        _changed(Setting({"vocabulary": 16}, 256), (32, 64, 128), (512, 1024), count=(32, 64, 96)),
    ),
    "compression": ("mad_compression", _changed(Setting({"vocabulary": 16}, 32), (32, 64, 128), (64, 128, 256))),
    "memorization": (
        "mad_memorization",
        _changed(Setting({"vocabulary": 256}, 32, 256), (512, 1024, 2048, 4096, 8192), (), ()),
    ),
}


def _published(part, name, number, setting, decay):
    steps = EPOCHS * setting.examples // BATCH
    own = {"task": setting.task(name), "lengths": setting.length, "tokens": BATCH * setting.length, "steps": steps}
    return apart(f"{part}-{number}-decay-{decay:g}", MODEL | own | {"weight_decay": decay}, ATTENDS, RECURS, part)


def _small(part, name, setting):
    length = min(setting.length, 63 if setting.length % 2 else 64)
    fields = setting.fields | ({"count": 8} if part == "selective_copy" else {})
    fields |= {"vocabulary": 64} if part == "memorization" else {}
    return Training(part, SMALL | {"task": Setting(fields, length).task(name), "lengths": length}, part)


MAD = Suite(
    source="MAD, Poli et al. 2024, arXiv:2403.17844; settings of athms/mad-lab",
    kernels="softmax, sliding_window(left=32, right=0), linear, gla, deltanet, gated_deltanet, mamba2",
    published=tuple(
        training
        for part, (name, settings) in TASKS.items()
        for number, setting in enumerate(settings)
        for decay in DECAYS
        for training in _published(part, name, number, setting, decay)
    ),
    small=tuple(_small(part, name, settings[0]) for part, (name, settings) in TASKS.items()),
    differs=(
        "the best of rates and decays is chosen on validation, theirs on test examples; accuracy is of all answers "
        "alike, theirs a mean over tokens; rates fall to a tenth, theirs to 1e-6; gradients are clipped, b2 is 0.98; "
        "float32 for bf16. What keeps a state has 8 heads, as gated linear attention there; linear attention there "
        "has 16, and features that are products. Gated linear attention there has decays through 16 numbers, no "
        "biases, and a learned scale in its norm of outputs. Mamba-2 stands here for Mamba, whose channels have 4 "
        "numbers of state; DeltaNet and its gated form are not theirs, and are as in their papers"
    ),
    scaled=(
        "baselines alone, at most 64 tokens, width 64, 4 heads, rotary positions for every kernel, 400 steps, two "
        "rates, no decay, large embeddings; 8 symbols to copy, 31 keys to memorise; fewer epochs"
    ),
    is_scored=True,
)
