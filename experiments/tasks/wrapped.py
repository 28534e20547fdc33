"""Tasks made of other tasks: fewer examples, inputs without far order, inputs that are to be restored or seen whole.

    epochs      a task of which there are so many training examples, that come again in another order each time
    shuffled    blocks of the input change places, so that order is left inside blocks alone
    denoised    what the input was, where tokens are hidden; or, where none is, what comes next
    two_sided   a task of causal models, asked of those whose tokens see all others

Shuffling asks what of an answer near tokens give: of the Long Range Arena that was found to be most (Miralles-Gonzalez
et al. 2025, arXiv:2501.14850, who bound what models see, as windows do here; this bounds what they are given).
Denoising is self-pretraining, Amos et al. 2023, arXiv:2310.02980: a model that learns the inputs of a task first, and
then its answers, needs no other data; they hide half of a picture, 15% of text, and 10% of ListOps, each token with
that probability, where here the share is exact.

A task is given as text, and one of the catalogue. What is drawn here is no matter of the split: that of an example is
the wrapped task's.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np

from attnzoo.contract import fields
from experiments.tasks.task import SPLITS, Batched, Examples, Task, visited

OWN = 1  # in the seed of what is drawn beside what the wrapped task draws


@dataclasses.dataclass(frozen=True)
class Wrapped(Task):
    """A task that is what another one is, but for what it says."""

    task: str = "listops"

    def __post_init__(self):
        fields.text(self, "task")
        self.inner  # noqa: B018 - which is refused here, and not where examples are made

    @property
    def inner(self) -> Task:
        """What is wrapped."""
        from experiments import tasks  # which knows this module

        found = tasks.parse_tasks(self.task, imports=False)
        if len(found) != 1:
            raise ValueError(f"{type(self).__name__}(task={self.task!r}): expected one task, such as 'listops'")
        return found[0]

    vocabulary = property(lambda self: self.inner.vocabulary)
    chance = property(lambda self: self.inner.chance)
    classes = property(lambda self: self.inner.classes)
    is_pair = property(lambda self: self.inner.is_pair)
    is_causal = property(lambda self: self.inner.is_causal)
    is_compressed = property(lambda self: self.inner.is_compressed)
    metric = property(lambda self: self.inner.metric)
    folder = property(lambda self: self.inner.folder)
    digest = property(lambda self: self.inner.digest)

    def corpus(self):
        """What a task of text is taken from."""
        return self.inner.corpus()

    @abc.abstractmethod
    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        """One example, without the axis of the batch."""

    def _generator(self, split, seed, index):
        return np.random.default_rng([seed, SPLITS.index(split), index, OWN])


@dataclasses.dataclass(frozen=True)
class Epochs(Batched, Wrapped):
    """`examples` training examples, each once in a pass; all of other splits."""

    examples: int = 12_800

    def __post_init__(self):
        super().__post_init__()
        fields.positive_integer(self, "examples")

    def probes(self) -> dict[str, Task]:
        return self.inner.probes()

    def numbered(self, split: str, seed: int, indices: Sequence[int], length: int) -> Examples:
        if split == "train":
            indices = [visited(seed, split, index, self.examples) for index in indices]
        return self.inner.numbered(split, seed, indices, length)


@dataclasses.dataclass(frozen=True)
class Shuffled(Wrapped):
    """Blocks of `block` real tokens in any order, of each document for itself; a last, shorter one is one of them."""

    block: int = 16

    def __post_init__(self):
        super().__post_init__()
        fields.positive_integer(self, "block")
        if self.classes is None:
            raise ValueError(f"Shuffled(task={self.task!r}): expected a task with one answer to a whole example")

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        found, rng = self.inner.example(split, seed, index, length), self._generator(split, seed, index)
        lengths = length if found.lengths is None else found.lengths
        inputs = found.inputs.reshape(-1, length).copy()
        for row, tokens in zip(inputs, np.broadcast_to(lengths, len(inputs)), strict=True):
            blocks = np.split(row[:tokens], np.arange(self.block, tokens, self.block))
            row[:tokens] = np.concatenate([blocks[place] for place in rng.permutation(len(blocks))])
        return found._replace(inputs=inputs.reshape(found.inputs.shape))


@dataclasses.dataclass(frozen=True)
class TwoSided(Batched, Wrapped):
    """A task of causal models for kernels that need not be causal, or cannot be: the same examples, seen whole.

    A task whose answers are its own next inputs would be read off, and is refused.
    """

    task: str = "mqar"

    is_causal = False

    def __post_init__(self):
        super().__post_init__()
        if self.classes is not None or not self.inner.is_causal or self.is_compressed:
            raise ValueError(f"TwoSided(task={self.task!r}): expected a task of causal models, such as 'mqar'")

    def probes(self) -> dict[str, Task]:
        from experiments import tasks  # which knows this module

        return {name: TwoSided(tasks.spelled(part)) for name, part in self.inner.probes().items()}

    def numbered(self, split: str, seed: int, indices: Sequence[int], length: int) -> Examples:
        found = self.inner.numbered(split, seed, indices, length)
        counts = found.weights[:, :-1] > 0
        is_next = (found.inputs[:, 1:] == found.targets[:, :-1]) | ~counts
        if (counts.any(axis=1) & is_next.all(axis=1)).any():
            raise ValueError(
                f"TwoSided(task={self.task!r}): its answers are its next inputs, which are seen here; expected a task "
                "whose inputs do not hold them, such as 'mqar'"
            )
        return found


@dataclasses.dataclass(frozen=True)
class Denoised(Wrapped):
    """A share `hidden` of real tokens is replaced by a token of its own, and to be restored; 0 for what comes next.

    Of a pair of documents one is taken, the first of every other example.
    """

    hidden: float = 0.15

    classes = None
    is_pair = False
    is_compressed = False
    metric = "accuracy"

    def __post_init__(self):
        super().__post_init__()
        if not fields.is_number(self.hidden) or not 0 <= self.hidden < 1:
            raise ValueError(f"Denoised(hidden={self.hidden!r}): hidden must be a number >= 0 and < 1")

    @property
    def vocabulary(self) -> int:
        return self.inner.vocabulary + 1

    @property
    def chance(self) -> float:
        return 1 / self.inner.vocabulary

    @property
    def is_causal(self) -> bool:
        return not self.hidden

    def example(self, split: str, seed: int, index: int, length: int) -> Examples:
        found, rng = self.inner.example(split, seed, index, length), self._generator(split, seed, index)
        lengths, tokens = found.lengths, found.inputs
        if self.inner.is_pair:
            lengths, tokens = lengths[index % 2], tokens[index % 2]
        real = length if lengths is None else int(lengths)
        counts = np.zeros(length, np.float32)
        if not self.hidden:
            counts[: max(real - 1, 1)] = 1
            return Examples(tokens, np.append(tokens[1:], tokens[:1]), counts, lengths)
        counts[rng.permutation(real)[: max(1, round(self.hidden * real))]] = 1
        return Examples(np.where(counts, self.vocabulary - 1, tokens).astype(np.int32), tokens, counts, lengths)
