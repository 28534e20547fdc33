"""What a preset runs: for each folder, an experiment and its flags."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """One command; `{out}` in a flag is the folder of the whole."""

    experiment: str
    flags: dict[str, str]


FULL = {
    "scaling": Part(
        "scaling", {"kernels": "all", "lengths": "256:4096", "passes": "forward,train", "cell_budget": "8"}
    ),
    "accuracy": Part(
        "accuracy",
        {
            "task": "text",
            "kernels": "softmax, sliding_window(left=7, right=7), linear, performer(features=32)",
            "lengths": "32,64,128",
            "steps": "150",
            "tokens": "2048",
            "heads": "2",
            "test_examples": "128",
            "seeds": "5",
            "save_every": "0",
            "isolate": "false",
        },
    ),
}
SMALL = {
    "scaling": Part(
        "scaling", {"kernels": "all", "lengths": "64:256", "passes": "forward", "heads": "2", "head_dim": "16"}
    ),
    "accuracy": Part(
        "accuracy",
        {
            "kernels": "softmax, sliding_window(left=15, right=15), nystrom(landmarks=8)",
            "lengths": "32,64",
            "steps": "20",
            "tokens": "512",
            "heads": "2",
            "widths": "32",
            "layers": "1",
            "test_examples": "64",
            "isolate": "false",
        },
    ),
}
# Five seeds of small models, in one process and without checkpoints of unfinished ones.
TRAINED = {"seeds": "5", "save_every": "0", "isolate": "false"}
HOUR = {f"compare/{folder}": part for folder, part in FULL.items()} | {
    "approximation": Part("approximation", {}),
    "accuracy/mqar": Part(
        "accuracy",
        TRAINED
        | {
            "task": "mqar(pairs=2, vocabulary=64)",
            "kernels": "softmax, sliding_window(left=7, right=0), linear",
            "positions": "sinusoidal(scale=1.0)",
            "embedding_stddev": "1",
            "heads": "1",
            "feed_forward": "64",
            "widths": "16,64",
            "lengths": "16,32",
            "tokens": "1024",
            "steps": "400",
            "learning_rates": "5e-3",
        },
    ),
    "accuracy/longer": Part(
        "accuracy",
        TRAINED
        | {
            "task": "text",
            "kernels": "softmax",
            "positions": "learned, rotary, alibi",
            "lengths": "64",
            "eval_lengths": "128,256,512",
            "tokens": "2048",
            "steps": "300",
        },
    ),
    "accuracy/needle": Part(
        "accuracy",
        TRAINED
        | {
            "task": "needle",
            "kernels": "softmax, sliding_window(left=31, right=0)",
            "positions": "t5",
            "tied": "true",
            "embedding_stddev": "0.3",
            "lengths": "64",
            "eval_lengths": "128,256",
            "tokens": "2048",
            "steps": "1200",
            "warmup": "50",
            "learning_rates": "5e-3",
            "weight_decay": "0.1",
            "heads": "2",
            "feed_forward": "64",
            "test_examples": "64",
        },
    ),
    "swap": Part("swap", {"checkpoint": "{out}/accuracy/longer", "lengths": "64,512"}),
    "reproduce": Part("reproduce", {"repeats": "5"}),
}
PRESETS = {"full": FULL, "small": SMALL, "hour": HOUR}
