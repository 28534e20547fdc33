"""What a preset runs: experiments with their flags, one after another."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """One command, and the folder for what it leaves; `{out}` in a flag is the folder of all parts."""

    experiment: str
    folder: str
    flags: dict[str, str]


# Seeds of small models, in one process and without checkpoints of unfinished ones.
SEEDS = {"seeds": "5", "save_every": "0", "isolate": "false"}
# Small models that recall pairs (Zoology, arXiv:2312.04927). A short convolution with SiLU, on which published
# recurrences stand and which Zoology has before every kernel by now, brings key and value of a pair together, so that
# no layer need learn to; embeddings start large, by which symbols are told apart.
SYMBOLS = {
    "positions": "none",
    "conv_width": "4",
    "qkv_activation": "silu",
    "embedding_stddev": "1",
    "widths": "32",
    "heads": "2",
    "feed_forward": "64",
    "batch": "32",
    "test_examples": "128",
    "seeds": "5",
    "save_every": "0",
    "jobs": "2",
}
# Short examples come first. Some kernels learn late, so that others end when they have learned.
PAIRS = SYMBOLS | {
    "task": "mqar(pairs=8, vocabulary=64)",
    "curriculum": "true",
    "validate_every": "50",
    "until": "0.995",
}
# Asked of eight times as many tokens as it learned. Those that take longest come first; with one head, or one layer, a
# gated delta rule would hang on the decays that it drew.
RECALL = PAIRS | {
    "kernels": "gated_delta, sliding_window(left=15, right=0), linear, softmax",
    "lengths": "64",
    "eval_lengths": "32,128,512",
    "steps": "1000",
    "learning_rates": "1e-2",
}

# Each idea once: blocks of any pattern have BigBird that stands for them, and the Synthesizer's scores and those of
# distances grow as exact ones do.
SCALED = "softmax, additive, sliding_window, bigbird, linear, performer, linformer, nystrom, reformer"
TIMES = {"lengths": "512:4096", "passes": "forward,train", "repeats": "5", "cell_budget": "6"}
FULL = (
    Part("scaling", "scaling", TIMES | {"kernels": SCALED}),
    # What recall is asked of: a model that answers sees the past.
    Part(
        "scaling",
        "causal",
        TIMES | {"kernels": "softmax, sliding_window, linear, gated_delta", "is_causal": "true"},
    ),
    Part("accuracy", "recall", RECALL),
    Part(
        "accuracy",
        "accuracy",
        {
            "task": "text",
            "kernels": "softmax, sliding_window(left=15, right=0)",
            "lengths": "128",
            "steps": "120",
            "heads": "2",
            "learning_rates": "1e-2",
            "test_examples": "128",
            "save_every": "0",
            "jobs": "2",
        },
    ),
)
SMALL = (
    Part(
        "scaling",
        "scaling",
        {
            "kernels": "softmax, sliding_window, bigbird, linear, nystrom, gated_delta",
            "lengths": "64:256",
            "passes": "forward",
            "heads": "2",
            "head_dim": "16",
        },
    ),
    Part(
        "accuracy",
        "accuracy",
        {
            "task": "masked_text",
            "kernels": "softmax, sliding_window(left=15, right=15), nystrom(landmarks=8)",
            "lengths": "32,64",
            "steps": "20",
            "batch": "8",
            "learning_rates": "3e-3",
            "heads": "2",
            "widths": "32",
            "layers": "1",
            "test_examples": "64",
            "isolate": "false",
        },
    ),
)
# Without convolutions recall needs embeddings and positions that start large, by which keys are told from values.
MQAR = {"embedding_stddev": "1", "positions": "sinusoidal(scale=1.0)", "heads": "1", "feed_forward": "64"}
HOUR = (
    *(part._replace(folder=f"compare/{part.folder}") for part in FULL),
    Part(
        "accuracy",
        "accuracy/mqar",
        SEEDS
        | MQAR
        | {
            "task": "mqar(pairs=4, vocabulary=64)",
            "kernels": "softmax, sliding_window(left=7, right=0)",
            "widths": "32,64",
            "lengths": "16,32",
            "tokens": "2048",
            "steps": "400",
            "learning_rates": "5e-3",
        },
    ),
    Part(
        "accuracy",
        "accuracy/needle",
        SEEDS
        | {
            "task": "needle(digits=3)",
            "kernels": "softmax",
            "positions": "t5",
            "tied": "true",
            "embedding_stddev": "0.3",
            "lengths": "64",
            "eval_lengths": "128,256",
            "tokens": "2048",
            "steps": "1000",
            "warmup": "50",
            "learning_rates": "5e-3",
            "weight_decay": "0.1",
            "heads": "2",
            "feed_forward": "64",
            "test_examples": "64",
        },
    ),
    Part(
        "accuracy",
        "accuracy/longer",
        SEEDS
        | {
            "task": "text",
            "kernels": "softmax",
            "positions": "learned, rotary, alibi",
            "lengths": "64",
            "eval_lengths": "128,256,512",
            "tokens": "2048",
            "steps": "200",
            "learning_rates": "3e-3",
        },
    ),
    Part(
        "swap",
        "swap",
        {
            "checkpoint": "{out}/accuracy/longer",
            "kernels": "sliding_window(left={3,15}), bigbird(block_size=8), linear, performer(features={16,256})",
            "lengths": "64,512",
        },
    ),
    Part(
        "approximation",
        "approximation",
        {"length": "512", "heads": "4", "landmarks": "16:256", "random_blocks": "1:4", "steps": "200"},
    ),
    Part("reproduce", "reproduce", {"forms": "faithful", "repeats": "5"}),
    Part("reproduce", "reproduce", {"only": "speed,memory", "forms": "corrected", "lengths": "1000", "repeats": "5"}),
)
# What each kernel loses, by rates that validation chose; parts that take longest come last.
TUNED = {"seeds": "5", "tuning_seeds": "2", "jobs": "2"}
EVIDENCE = (
    Part("disputes", "disputes", TUNED | {"disputes": "eigenvalues", "seeds": "10"}),
    Part("disputes", "disputes", {"disputes": "windows", "seeds": "20", "jobs": "2"}),
    Part(
        "learnability",
        "learnability",
        SYMBOLS
        | {
            "task": "mqar(pairs=4, vocabulary=64)",
            "kernels": "softmax, linear, gated_linear, state_space, delta, gated_delta",
            "lengths": "32",
            "steps": "600",
            "validate_every": "25",
            "learning_rates": "1e-3,3.2e-3,1e-2,3.2e-2,1e-1,3.2e-1,1",
        },
    ),
    Part(
        "accuracy",
        "accuracy/words",
        {
            "task": "word_problem(group='S5', moved=2)",
            "kernels": "softmax, delta, delta(max_beta=2), gated_delta, state_space",
            "positions": "none",
            "lengths": "16",
            "eval_lengths": "8,32",
            "layers": "2",
            "widths": "64",
            "heads": "2",
            "conv_width": "4",
            "qkv_activation": "silu",
            "normalize_out": "true",
            "batch": "64",
            "steps": "1000",
            "learning_rates": "3e-3",
            "test_examples": "256",
            "seeds": "5",
            "save_every": "0",
            "jobs": "2",
        },
    ),
    Part(
        "accuracy",
        "accuracy/recall",
        PAIRS
        | TUNED
        | {
            "kernels": "softmax, sliding_window(left=15, right=0), linear, performer(features=32), gated_linear, "
            "retention, state_space, delta, gated_delta, based",
            "lengths": "128",
            "eval_lengths": "64,256,512,1024",
            "steps": "1200",
            "learning_rates": "3e-3,1e-2,3e-2",
        },
    ),
    Part(
        "accuracy",
        "accuracy/text",
        TUNED
        | {
            "task": "epochs(task='text', examples=48)",
            "kernels": "softmax, sliding_window(left=63, right=0), linear, gated_linear, state_space, gated_delta",
            "lengths": "2048",
            "eval_lengths": "256,512,1024",
            "steps": "20000",
            "batch": "2",
            "heads": "2",
            "widths": "32",
            "conv_width": "4",
            "qkv_activation": "silu",
            "schedule": "rsqrt",
            "warmup": "50",
            "validate_every": "50",
            "patience": "5",
            "test_examples": "32",
            "save_every": "100",
            "learning_rates": "1e-2,3e-2",
        },
    ),
)
PRESETS = {"full": FULL, "small": SMALL, "hour": HOUR, "evidence": EVIDENCE}
