"""The disputes: what is said, by whom, which models would tell, and what cannot be told at that size."""

from __future__ import annotations

import dataclasses

from experiments.disputes import rules
from experiments.disputes.rules import Rule

# Recall in small models: a short convolution brings key and value of a pair together, embeddings start large, and short
# examples come first (Arora et al. 2023, arXiv:2312.04927, and their code since).
RECALL = {
    "conv_width": 4,
    "embedding_stddev": 1,
    "curriculum": True,
    "heads": 1,
    "feed_forward": 64,
    "widths": 32,
    "batch": 64,
    "test_examples": 256,
    "save_every": 0,
}
SUMS, FULL = "linear", "softmax"


def turns(*kernels: str) -> str:
    """A model whose blocks have these kernels, in turns."""
    return f"turns(kernels='{', '.join(kernels)}')"


HYBRID = turns(SUMS, SUMS, SUMS, FULL)
NARROW, WIDE = (turns(f"sliding_window(left={left}, right=0)", FULL) for left in (7, 95))
STATES = ("linear", "gated_linear", "gated_delta", "log_linear", "based")


@dataclasses.dataclass(frozen=True)
class Dispute:
    """What is in dispute.

    Attributes:
      claim: one sentence.
      sources: who says so, or otherwise.
      contenders: the models, as `--kernels` has them.
      rule: by which their scores decide.
      flags: of `python -m experiments.accuracy`, beside kernels, seeds and folder; or, where they name a suite, of
        `python -m experiments.suites`, whose score decides.
      scale: what the verdict is of, and cannot tell.
      wants_card: whether two cores would take days.
    """

    claim: str
    sources: str
    contenders: tuple[str, ...]
    rule: Rule
    flags: dict
    scale: str
    wants_card: bool = False


DISPUTES = {
    "hybrid": Dispute(
        "One layer of full attention in four restores the recall that recurrences lose.",
        "for: Lieber et al. 2024, arXiv:2403.19887; Waleffe et al. 2024, arXiv:2406.07887",
        (FULL, SUMS, HYBRID),
        rules.Restores(FULL, SUMS, HYBRID),
        RECALL
        | {"task": "mqar(pairs=16, vocabulary=128)", "lengths": 128, "layers": 4, "steps": 600}
        | {"learning_rates": "3e-3,1e-2"},
        "MQAR of 16 pairs in 128 tokens, four layers of width 32 without norm or gate of outputs, two learning rates; "
        "nothing about text, or about larger states.",
    ),
    "windows": Dispute(
        "Beside full attention, a window that is large delays the learning of retrieval.",
        "for: arXiv:2606.15378; against: arXiv:2507.06457",
        (NARROW, WIDE),
        rules.Delays(NARROW, WIDE, steps=600),
        RECALL
        | {"task": "mqar(pairs=8, vocabulary=64)", "lengths": 128, "layers": 2, "steps": 600, "curriculum": False}
        | {"batch": 32, "validate_every": 25, "until": rules.SOLVED, "learning_rates": "1e-2"},
        "MQAR of 8 pairs in 128 tokens, a window of 8 or 96 below one full layer, one learning rate; nothing about "
        "windows of thousands.",
    ),
    "eigenvalues": Dispute(
        "The delta rule tells parity of longer words than it learned from where its eigenvalues may be negative.",
        "for: Grazzi et al. 2024, arXiv:2411.12537",
        ("delta(max_beta=2)", "delta(max_beta=1)"),
        rules.OnlyOne("delta(max_beta=2)", "delta(max_beta=1)", length=80, chance=0.5),
        {
            "task": "parity(trained=39)",
            "lengths": 39,
            "eval_lengths": "80",
            "positions": "none",
            "layers": 1,
            "heads": 4,
            "widths": 64,
            "conv_width": 4,
            "qkv_activation": "silu",
            "normalize_out": True,
            "batch": 64,
            "steps": 2000,
            "validate_every": 50,
            "until": 0.999,
            "learning_rates": "3e-3,1e-2",
            "test_examples": 512,
            "save_every": 0,
        },
        "One layer of width 64, up to 39 bits in training, 80 in tests; published: two of width 128, 100k steps.",
    ),
    "state": Dispute(
        "Without full attention, recall goes by the size of the state, whatever writes it.",
        "for: Arora et al. 2024, arXiv:2402.18668; against: Yang et al. 2024, arXiv:2406.06484",
        STATES,
        rules.GoesBy(),
        RECALL
        | {"task": "mqar(pairs=8, vocabulary=64)", "lengths": 64, "layers": 2, "steps": 400}
        | {"learning_rates": "3e-3,1e-2"},
        "Five kernels in models that are else alike, MQAR of 8 pairs in 64 tokens, width 32.",
    ),
    "locality": Dispute(
        "Long Range Arena's ListOps is solved, as far as it is, by what is near.",
        "for: Miralles-Gonzalez et al. 2025, arXiv:2501.14850",
        (FULL, "sliding_window(left=16, right=16)"),
        # The operation at the root alone tells 36% of the answers (`ListOps.root_operator`).
        rules.IsLocal(FULL, "sliding_window(left=16, right=16)", trivial=0.37),
        {
            "task": "listops",
            "lengths": 2000,
            "batch": 32,
            "steps": 5000,
            "widths": 128,
            "layers": 4,
            "learning_rates": "1e-4,4.6e-4,2.2e-3",
            "pooling": "mean",  # by the first token alone a window would answer from what is near that one
            "test_examples": 2000,
        },
        "ListOps as published, in models of width 128 that answer by the mean of their tokens; one window of 33.",
        wants_card=True,
    ),
    "scores": Dispute(
        "Gated linear attention scores 60.0 on MAD, as one table has it, and not 63.3, as another.",
        "for: Yang et al. 2024, arXiv:2406.06484; against: Chou et al. 2024, arXiv:2411.10741",
        ("gla",),
        rules.Scores("gla", claimed=0.6, other=0.633),
        {"suite": "mad", "scale": "published"},
        "MAD's six tasks with every change of them, as published, but for what `experiments.suites` says is different.",
        wants_card=True,
    ),
}
