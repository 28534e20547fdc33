"""Recall and copying: MQAR of 2023 and 2026, copying, phone books, and the needle."""

from __future__ import annotations

from experiments.suites.kinds import apart
from experiments.suites.suite import Suite, Training, finite
from experiments.tasks import mqar

SMALL = {"isolate": "false", "save_every": 0, "tokens": 2048, "test_examples": 256}
KERNELS = "softmax, sliding_window(left=31, right=0), linear, gla, deltanet, gated_deltanet, mamba2"
BATCHES = {64: 512, 128: 512, 256: 256, 512: 128}
EXAMPLES, EPOCHS = 100_000, 64
MODEL = {"layers": 2, "heads": 1, "feed_forward": 1, "tied": "true", "weight_decay": 0.1, "warmup": 1}
# Of models whose training is ours, where papers ask language models.
OURS = {
    "steps": 20_000,
    "widths": 256,
    "layers": 4,
    "heads": 4,
    "positions": "rotary",
    "learning_rates": "3e-4,1e-3",
}
# By which small models tell keys from values within hundreds of steps.
LARGE = {"embedding_stddev": 1, "positions": "sinusoidal(scale=1.0)", "learning_rates": "5e-3"}


def _of_2023(length, pairs):
    own = {
        "task": finite(f"mqar(pairs={pairs})", EXAMPLES),
        "lengths": length,
        "tokens": BATCHES[length] * length,
        "steps": EPOCHS * EXAMPLES // BATCHES[length],
        "test_examples": 3000,
        "widths": "64,128,256,512",
        "learning_rates": "1e-4,4.64e-4,2.15e-3,1e-2",
    }
    return apart(f"mqar-{length}", MODEL | own, {"positions": "learned"}, {"positions": "none"})


MQAR_2023 = Suite(
    source="MQAR, Arora et al. 2023, arXiv:2312.04927, figure 2; settings of HazyResearch/zoology",
    kernels=KERNELS,
    published=tuple(training for each in mqar.PUBLISHED for training in _of_2023(*each)),
    small=(
        Training(
            "mqar-32",
            MODEL
            | SMALL
            | LARGE
            | {
                "task": "mqar(pairs=4, vocabulary=64)",
                "lengths": 32,
                "widths": "32,64",
                "steps": 400,
                "feed_forward": 64,
            },
        ),
    ),
    differs=(
        "feed-forward networks of width 1 for none; no dropout, theirs is 0.1 of embeddings and of attention; the "
        "best rate is chosen on validation; rates fall to a tenth, theirs to 0; the code's list lacks 512 tokens, "
        "which the paper has. Of its models exact attention is here, and Mamba-2 for Mamba; Based is not, whose "
        "queries and keys have 8 numbers there, where heads here are as wide as the model. All others here are not "
        "theirs, and are as in their papers; linear attention and gated linear attention have no convolution, and "
        "presets RMSNorm for LayerNorm"
    ),
    scaled=(
        "32 tokens, 64 symbols, 4 pairs, widths 32 and 64, 400 steps at one rate, no epochs, large embeddings, "
        "sinusoidal positions for every kernel"
    ),
)
MQAR_2026 = Suite(
    source="MQAR in the setting of 2026, `original_mqar_configs.py` of HazyResearch/zoology",
    kernels=KERNELS,
    published=apart(
        "mixed-256",
        MODEL
        | {
            "task": finite("mixed_mqar", 180_000),
            "lengths": 256,
            "eval_lengths": "64,128,512,1024",
            "tokens": 256 * 256,
            "steps": 32 * 180_000 // 256,
            "test_examples": 3000,
            "heads": 2,
            "positions": "none",
            "learning_rates": "1e-3,3.16e-3,1e-2,3.16e-2",
        },
        {"widths": "32,64,128", "conv_width": 3},
        {"widths": "64,128,256", "conv_width": 4},
    ),
    small=(
        Training(
            "mixed-32",
            MODEL
            | SMALL
            | LARGE
            | {
                "task": "mixed_mqar(vocabulary=64, is_noisy=False, trained=((16, 2, 5), (32, 4, 1), (32, 8, 1)), "
                "tested=((16, 2), (16, 4), (32, 8), (64, 16)))",
                "lengths": 32,
                "eval_lengths": "16,64",
                "widths": 64,
                "steps": 800,
                "feed_forward": 64,
                "conv_width": 4,
            },
        ),
    ),
    differs=(
        "the convolution is of queries, keys and values, theirs a gated layer of 3 tokens before each mixer; what "
        "keeps a state has one of 4 alone, theirs that layer, and DeltaNet and its gated form their own of 4 behind "
        "it; a batch mixes settings, theirs has one; validation is at 256 tokens alone, theirs at all that are "
        "tested; 3,000 examples are tested at each length, theirs are 1,000 of each setting; no dropout. Widths and "
        "heads are those of its `models_repo.py`, whose attention had widths 64 and 128 and one head until that list "
        "was made, but that windows there have width 128 and sizes of 8 to 1,024; Mamba-2 there has states of 8, 16 "
        "and 24 and no layer before it, keys of gated linear attention half the width of values, and the gated delta "
        "rule no gate of outputs. Based is not here, as in mqar_2023; linear attention is not theirs"
    ),
    scaled=(
        "16 and 32 tokens, tested to 64, 64 symbols, no noise, width 64, one head, a convolution of 4 for every "
        "kernel, 800 steps at one rate, large embeddings, sinusoidal positions"
    ),
)
COPYING = Suite(
    source="Copying, Jelassi et al. 2024, arXiv:2402.01032; task of sjelassi/transformers_ssm_copy",
    kernels="softmax, sliding_window(left=31, right=0), deltanet, gated_deltanet, mamba2",
    published=apart(
        "copy-220",
        {
            "task": "packed_copy(shortest=5, longest=50)",
            "lengths": 220,
            "eval_lengths": "102,402,802",
            "tokens": 8 * 220,
            "steps": 2000,
            "test_examples": 128,
            "widths": 1024,
            "layers": 12,
            "heads": 16,
            "learning_rates": "1e-5",
            "warmup": 1,
        },
        {"positions": "alibi"},
        {"positions": "none"},
    ),
    small=(
        Training(
            "copy-40",
            SMALL
            | {
                "task": "packed_copy(shortest=2, longest=8, symbols=8)",
                "lengths": 40,
                "eval_lengths": "18,80",
                "widths": 64,
                "layers": 2,
                "heads": 2,
                "positions": "rotary",
                "steps": 600,
                "learning_rates": "3e-3",
            },
        ),
    ),
    differs=(
        "sizes, batch, rate and 2,000 steps are the defaults of the code, which lists no runs; strings of 5 to 50, "
        "where its default ends at 20; ALiBi, one of their four encodings, for all that attends; Mamba-2 stands for "
        "Mamba, in blocks of the Transformer's sizes; others are not theirs"
    ),
    scaled=(
        "strings of 2 to 8 of 8 symbols, tested to 39, two layers of width 64, rotary positions for every kernel, 600 "
        "steps"
    ),
)
PHONEBOOK = Suite(
    source="Phone book, Jelassi et al. 2024, arXiv:2402.01032",
    kernels=COPYING.kernels,
    published=(
        Training(
            "phonebook-512",
            OURS
            | {
                "task": "phonebook",
                "lengths": 512,
                "eval_lengths": "1024,2048",
                "tokens": 64 * 512,
                "test_examples": 1000,
            },
        ),
    ),
    small=(
        Training(
            "phonebook-200",
            SMALL
            | {
                "task": "phonebook(examples=0)",
                "lengths": 200,
                "eval_lengths": 400,
                "widths": 64,
                "layers": 2,
                "heads": 2,
                "positions": "rotary",
                "tokens": 3200,
                "steps": 600,
                "learning_rates": "3e-3",
            },
        ),
    ),
    differs=(
        "they ask models that were trained on text, of 20 entries and more; training, sizes, rotary positions for "
        "every kernel, and lengths are ours"
    ),
    scaled="about six entries without examples, two layers of width 64, 600 steps",
)
NEEDLE = Suite(
    source="Needle in a haystack, Kamradt 2023",
    kernels=COPYING.kernels,
    published=(
        Training(
            "needle-1024",
            OURS
            | {
                "task": "needle",
                "lengths": 1024,
                "eval_lengths": "2048,4096",
                "tokens": 32 * 1024,
                "test_examples": 500,
            },
        ),
    ),
    small=apart(
        "needle-64",
        SMALL
        | {
            "task": "needle(digits=3)",
            "lengths": 64,
            "eval_lengths": "128,256",
            "widths": 64,
            "layers": 2,
            "heads": 2,
            "feed_forward": 64,
            "tied": "true",
            "embedding_stddev": 0.3,
            "steps": 1000,
            "warmup": 50,
            "learning_rates": "5e-3",
            "weight_decay": 0.1,
            "test_examples": 64,
        },
        {"positions": "t5"},
        {"positions": "none"},
    ),
    differs=(
        "language models that were trained on text are asked there; training, sizes, rotary positions for every "
        "kernel, and lengths are ours"
    ),
    scaled=(
        "three digits in 64 bytes, tested to 256, two layers of width 64, T5's positions for what attends and none "
        "for what keeps a state, 1,000 steps"
    ),
)
