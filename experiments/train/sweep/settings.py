"""What `python -m experiments.accuracy` is asked for; experiments that train models ask it, too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.bench import mesh, optional, parsing, processes
from experiments.bench.settings import flag

if TYPE_CHECKING:
    from attnzoo import Kernel, PositionEncoding
    from attnzoo.models import Preset
    from experiments.tasks.task import Task

# All of `experiments.tasks.TASKS` and `attnzoo.models.presets.PRESETS`, in their order; they are not imported, since
# help does not wait for jax.
TASKS = (
    "text, masked_text, corpus(folder='/path'), listops, mqar(pairs=4), mixed_mqar, copy, packed_copy, selective_copy, "
    "induction, needle, recall, phonebook, flip_flop, parity, cycle_navigation, modular_arithmetic, "
    "bracketed_arithmetic, word_problem(group='S5'), mad_recall, mad_fuzzy_recall, mad_selective_copy, "
    "mad_memorization, mad_compression, modules, digits, imdb(folder='/path'), image(folder='/path'), "
    "pathfinder(folder='/path'), retrieval(folder='/path'), epochs(task='listops'), shuffled(task='listops'), "
    "denoised(task='listops'), two_sided(task='mqar')"
)
PRESETS = (
    "gla, mamba2, deltanet, gated_deltanet, hybrid(ratio=3), longformer, gemma2, gpt_oss, "
    "turns(kernels='linear, softmax')"
)
BATCH = 32
TUNING = "Of the seeds, the first that try every learning rate; others have what validation chose by them. 0 for all."


def check_tuning(tuning_seeds: int, seeds: int) -> None:
    """Refuse as many seeds that tune as there are: none would be left for the rate that they choose."""
    if tuning_seeds and tuning_seeds >= seeds:
        raise ValueError(f"--tuning_seeds={tuning_seeds} of --seeds={seeds}: expected fewer; leave it out for all")


def has_choice(flags: Mapping[str, Any]) -> bool:
    """Whether flags name several learning rates, of which seeds that tune choose one."""
    return "," in str(flags["learning_rates"])


def none_or(*choices: str) -> tuple[str, ...]:
    """Words of a flag of which one is "none"."""
    return "none", *choices


@dataclasses.dataclass(frozen=True)
class Settings(processes.Settings):
    """What to train, on which devices, and within which limits."""

    tasks: tuple[Task, ...] = flag("text, masked_text", f"Tasks as calls: {TASKS}.", parsing.tasks, name="task")
    kernels: tuple[Kernel | Preset, ...] = flag(
        "softmax, sliding_window, linear",
        f"Kernels as calls, or 'all'; {{a,b}} is a grid. Or models whose blocks are known by name: {PRESETS}.",
        parsing.models,
    )
    positions: tuple[PositionEncoding, ...] = flag(
        "rotary",
        "How tokens know their places: none, sinusoidal, learned, rotary, alibi, t5, shaw, as calls.",
        parsing.positions,
    )
    lengths: tuple[int, ...] = flag("64,256", "Sequence lengths; a range such as 64:512 doubles.", parsing.lengths)
    eval_lengths: tuple[int, ...] = flag(
        "", "Other lengths to test on, such as longer ones.", parsing.unless_empty(parsing.lengths)
    )
    widths: tuple[int, ...] = flag("64", "Widths of the model.", parsing.lengths)
    learning_rates: tuple[float, ...] = flag(
        "1e-4,4.6e-4,2.2e-3,1e-2",
        "Highest learning rates, Zoology's four unless given; validation chooses for each kernel and width.",
        parsing.numbers,
        at_least=1e-12,
    )
    seeds: int = flag(1, "Number of runs of each cell, with a seed each.", at_least=1)
    first_seed: int = flag(0, "The first of these seeds, which others follow.", at_least=0)
    tuning_seeds: int = flag(0, TUNING, at_least=0)
    steps: int = flag(200, "Training steps.", at_least=2)
    batch: int = flag(
        0, f"Examples in a training batch, as many at every length; {BATCH} unless --tokens is given.", at_least=0
    )
    tokens: int = flag(
        0,
        "Tokens in a training batch in place of --batch, so that longer examples are fewer; of a pair, one document's "
        "count.",
        at_least=0,
    )
    examples: int = flag(0, "Training examples in all, in place of --steps.", at_least=0)
    curriculum: bool = flag(
        False, "Three quarters of the steps at the task's shortest length, then lengths that double."
    )
    layers: int = flag(2, "Blocks of the model.", at_least=1)
    heads: int = flag(4, "Heads of attention.", at_least=1)
    kv_heads: int = flag(0, "Heads of keys and values, shared by groups of the others; 0 for as many.", at_least=0)
    feed_forward: int = flag(0, "Width inside feed-forward networks; 0 for four times the width.", at_least=0)
    norm: str = flag("before", "Norms before parts, after, or both.", choices=("before", "after", "both"))
    norm_kind: str = flag("layer", "LayerNorm, or RMSNorm.", choices=("layer", "rms"))
    activation: str = flag(
        "gelu", "Of feed-forward networks; the last two are gated.", choices=("gelu", "relu", "swiglu", "geglu")
    )
    normalize_qk: str = flag("none", "Norm of queries and keys.", choices=none_or("layer", "rms", "l2"))
    conv_width: int = flag(0, "Tokens in short convolutions of queries, keys and values; 0 for none.", at_least=0)
    qkv_activation: str = flag("none", "Of queries, keys and values.", choices=none_or("silu", "sigmoid", "relu"))
    normalize_out: bool = flag(False, "Normalise what heads give.")
    gate: str = flag("none", "Activation of a gate of what heads give.", choices=none_or("silu", "sigmoid", "relu"))
    sinks: bool = flag(False, "A learned logit of each head joins its sum of exponentials.")
    soft_cap: float = flag(0.0, "Of attention's scores; 0 for none.", at_least=0)
    logits_soft_cap: float = flag(0.0, "Of logits of tokens; 0 for none.", at_least=0)
    pooling: str = flag("mean", "How a classifier pools.", choices=("mean", "cls"))
    pairing: str = flag(
        "compared", "Pairs to classes by x and y, or x * y and x - y, too.", choices=("joined", "compared")
    )
    tied: bool = flag(False, "Logits by the embeddings of tokens, in place of a layer of their own.")
    embedding_stddev: float = flag(0.02, "Of embeddings before training.", at_least=1e-12)
    dropout: float = flag(0.0, "Dropout of activations.", at_least=0)
    warmup: int = flag(20, "Steps until the learning rate is reached; with a cosine, all but one at most.", at_least=0)
    schedule: str = flag("cosine", "How it falls afterwards.", choices=("cosine", "rsqrt"))
    weight_decay: float = flag(0.01, "Of matrices.", at_least=0)
    dtype: str = flag("float32", "Type of activations.", choices=("float32", "bfloat16"))
    test_examples: int = flag(256, "Held-out examples, and as many to validate on.", at_least=1)
    validate_every: int = flag(
        0, "Steps between validations, the best of which is tested; 0 for the last step.", at_least=0
    )
    until: float = flag(
        0.0, "Share of validation's answers that are right at which training ends; 0 for all steps.", at_least=0
    )
    patience: int = flag(
        0,
        "Validations in a row without a better one after which training ends; 0 for all steps. Needs --schedule=rsqrt: "
        "a cosine finds its best at its end.",
        at_least=0,
    )
    save_every: int = flag(500, "Steps between checkpoints of an unfinished cell; 0 for none.", at_least=0)
    start_from: str = flag(
        "", "Folder of rows of task 'denoised(task=...)', whose models' embeddings and blocks these start with."
    )
    match: str = flag(
        "none",
        "params: feed-forward widths make models equally large. state: heads of each kernel, and of its keys, bring "
        "what decoding keeps near to that of the first kernel, which has --heads.",
        choices=("none", "params", "state"),
    )
    fsdp: bool = flag(False, "Split parameters over the data axis of --mesh, too.")
    minutes: float = flag(0.0, "Limit of each cell; 0 for none.", at_least=0)
    memory: float = flag(0.0, "GiB of address space that a cell may take; 0 for no limit.", at_least=0)
    isolate: bool = flag(
        True, "A process for each cell; without, or with --coordinator, all in this one: quicker, and less safe."
    )
    jobs: int = flag(1, "Cells at work beside each other; of several, each has one device.", at_least=1)
    shard: tuple[int, int] | None = flag(
        "", "i/n: only the i-th of n parts of the sweep, counted from 0.", parsing.shard
    )
    tensorboard: bool = flag(False, "Write curves while training, to <out>/tensorboard/<cell>.")
    wandb: str = flag("", "A project of Weights & Biases: curves in <out>/weights_and_biases, for `wandb sync`.")
    out: str = flag("runs/accuracy", "Folder for rows and figures.")
    dry_run: bool = flag(False, "List the cells and predicted hours, and run none.")

    def __post_init__(self):
        super().__post_init__()
        if self.tensorboard:
            optional.require("tensorboardX", "tensorboard", "--tensorboard")
        if self.wandb:
            optional.require("wandb", "wandb", "--wandb")
        if self.dropout >= 1:
            raise ValueError(f"--dropout={self.dropout}: expected a share in [0, 1)")
        self._check_tuning()
        if not self.is_apart and (self.minutes or self.memory):
            raise ValueError(
                "--minutes and --memory limit processes of a cell each: pass --isolate, and no --coordinator"
            )
        if not self.is_apart and self.jobs > 1:
            raise ValueError(f"--jobs={self.jobs} are processes of a cell each: pass --isolate, and no --coordinator")
        if self.until > 1 or (self.until and not self.validate_every):
            given = f"--until={self.until:g} with --validate_every={self.validate_every}"
            raise ValueError(f"{given}: expected a share in (0, 1], and steps between validations that may reach it")
        if self.patience and (not self.validate_every or self.schedule == "cosine"):
            given = f"--patience={self.patience} with --validate_every={self.validate_every} --schedule={self.schedule}"
            raise ValueError(
                f"{given}: expected steps between validations, and rsqrt: a cosine finds its best at its end"
            )
        self._check_mesh()
        self._settle_batch()
        if self.tasks:  # the process of a cell is given none here: its cell has its own
            self._check_tasks()
        for width in self.widths:
            if width % self.heads:
                raise ValueError(f"--heads={self.heads} does not divide --widths={width}")
        if self.match == "state" and self.kv_heads:
            raise ValueError(f"--kv_heads={self.kv_heads} with --match=state, which chooses them: leave one out")
        if self.heads % (self.kv_heads or self.heads):
            raise ValueError(f"--kv_heads={self.kv_heads} does not divide --heads={self.heads}")

    @property
    def is_apart(self) -> bool:
        """Whether each cell has a process of its own."""
        return self.isolate and not self.coordinator

    def count(self, length: int) -> int:
        """Examples in a batch of this length."""
        return self.tokens // length if self.tokens else self.batch

    def _settle_batch(self):
        if self.tokens and self.batch:
            raise ValueError(f"--batch={self.batch} and --tokens={self.tokens} exclude each other")
        if self.tokens and self.tokens < max(self.lengths):
            raise ValueError(f"--tokens={self.tokens} is less than the longest length, {max(self.lengths)}")
        if self.tokens and self.examples:
            raise ValueError(f"--examples={self.examples} are batches of as many each: give --batch, and no --tokens")
        object.__setattr__(self, "batch", 0 if self.tokens else self.batch or BATCH)
        if self.examples:
            object.__setattr__(self, "steps", -(-self.examples // self.batch))

    def _check_tuning(self):
        given = f"--tuning_seeds={self.tuning_seeds}"
        if self.tuning_seeds and len(set(self.learning_rates)) == 1:
            raise ValueError(f"{given} with one of --learning_rates: expected several, of which one is chosen")
        check_tuning(self.tuning_seeds, self.seeds)
        if self.tuning_seeds and self.shard:
            raise ValueError(
                f"{given} chooses by the rows of all shards, and --shard={self.shard[0]}/{self.shard[1]} has its own: "
                f"run shards with --seeds={self.tuning_seeds}, merge them, and then all of it without --shard"
            )

    def _check_mesh(self):
        if not self.mesh and (self.coordinator or self.fsdp):
            name = "--coordinator" if self.coordinator else "--fsdp"
            raise ValueError(f"{name} needs --mesh, which says how devices share a model, such as 'data=8'")
        if self.mesh and self.jobs > 1:
            raise ValueError(f"--mesh={self.mesh} is of all devices, and --jobs={self.jobs} deals them out: give one")
        parts = mesh.sizes(self.mesh)
        wanted = [("model", "heads", self.heads)]
        wanted += [("sequence", "lengths", length) for length in (*self.lengths, *self.eval_lengths)]
        for axis, name, whole in wanted:
            if whole % parts[axis]:
                raise ValueError(f"--mesh={self.mesh}: {axis}={parts[axis]} does not divide --{name}={whole}")

    def _check_tasks(self):
        from experiments import tasks

        classified = [tasks.spelled(task) for task in self.tasks if task.classes is not None]
        if self.tied and classified:
            raise ValueError(f"--tied is of models that predict tokens: {', '.join(classified)} asks for a class")
        without = [tasks.spelled(task) for task in self.tasks if task.metric != "accuracy"]
        if self.until and without:
            share = f"a share of which, {self.until:g}, ends training here (--until)"
            raise ValueError(f"--task={', '.join(without)} has no right answers, {share}: expected a task of answers")
        if self.pooling != "mean" and not classified:
            raise ValueError(f"--pooling={self.pooling} is of models that tell a class: no task here asks for one")
        if self.pairing != "compared" and not any(task.is_pair for task in self.tasks):
            raise ValueError(
                f"--pairing={self.pairing} is of models that meet pairs of documents: no task here has them"
            )
