"""Language models as plain values and back, so that a checkpoint tells how to build its model."""

from __future__ import annotations

import dataclasses
import pathlib

from flax import nnx

from attnzoo import Kernel, PositionEncoding, Softmax, catalogue
from attnzoo.contract import fields
from attnzoo.models import BlockConfig, LanguageModel
from experiments.bench import records
from experiments.train import checkpoints
from experiments.train.sweep.cells import KEY

FOLDER = "checkpoints"  # inside the folder of a run


@dataclasses.dataclass(frozen=True)
class Description:
    """What builds a `LanguageModel`: a config and a kernel for each block, or for all; weights start by `seed`."""

    config: BlockConfig | tuple[BlockConfig, ...]
    vocabulary: int
    max_length: int
    num_layers: int
    attention: tuple[Kernel, ...]
    positions: PositionEncoding
    is_causal: bool
    is_tied: bool = False
    seed: int = 0

    def __post_init__(self):
        fields.positive_integer(self, "vocabulary")
        fields.positive_integer(self, "max_length")
        fields.positive_integer(self, "num_layers")

    def build(self) -> LanguageModel:
        """The model before training."""
        return LanguageModel(
            self.vocabulary,
            self.config,
            max_length=self.max_length,
            num_layers=self.num_layers,
            attention=self.attention if len(self.attention) > 1 else self.attention[0],
            positions=self.positions,
            is_causal=self.is_causal,
            is_tied=self.is_tied,
            rngs=nnx.Rngs(self.seed),
        )

    def told(self) -> dict:
        """As JSON has it."""
        return {
            "config": dataclasses.asdict(self.config)
            if isinstance(self.config, BlockConfig)
            else [dataclasses.asdict(config) for config in self.config],
            "vocabulary": self.vocabulary,
            "max_length": self.max_length,
            "num_layers": self.num_layers,
            "attention": ", ".join(map(catalogue.spelled, self.attention)),
            "positions": catalogue.spelled(self.positions),
            "is_causal": self.is_causal,
            "is_tied": self.is_tied,
            "seed": self.seed,
        }


def read(told: dict, attention: tuple[Kernel, ...] | None = None) -> Description:
    """The description that `told` gave. Nothing is imported that it names: a kernel from elsewhere must be passed.

    Args:
      attention: kernels in place of those that are named, one for each block or one for all.

    Raises:
      ValueError: it is no such description.
    """
    try:
        named = tuple(catalogue.parse(told["attention"], imports=False)) if attention is None else attention
        [positions] = catalogue.parse_positions(told["positions"], imports=False)
        plain = {name: value for name, value in told.items() if name not in ("config", "attention", "positions")}
        config = _config(told["config"])
        return Description(config, attention=named, positions=positions, **plain)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a checkpoint describes no language model: {type(error).__name__}: {error}") from None


def _config(told: dict | list) -> BlockConfig | tuple[BlockConfig, ...]:
    """That of all blocks, or one for each; fields that it does not have are as they were before there were such."""
    return tuple(BlockConfig(**each) for each in told) if isinstance(told, list) else BlockConfig(**told)


def save(folder: pathlib.Path, description: Description, model: LanguageModel) -> None:
    """Write a model that `description` builds."""
    checkpoints.save(folder, model, description.told())


def load(folder: pathlib.Path, attention: tuple[Kernel, ...] | None = None) -> tuple[Description, LanguageModel]:
    """A saved model, with other kernels of the same parameters where they are given.

    Raises:
      ValueError: there is none, it is damaged, or the kernels have other parameters.
    """
    description = read(checkpoints.about(folder), attention)
    model = description.build()
    checkpoints.restore(folder, model)
    return description, model


def find(folder: pathlib.Path) -> pathlib.Path:
    """The checkpoint at `folder`; where it holds rows of `experiments.accuracy`, that of the best causal model of text.

    Raises:
      ValueError: there is none.
    """
    return _find(folder, "a causal model of text", speaks)


def find_exact(folder: pathlib.Path) -> pathlib.Path:
    """The same of models with exact attention: the best causal one, or the best where none is causal."""
    return _find(folder, "a model of text with exact attention", attends_exactly)


def find_seeds(folder: pathlib.Path) -> list[pathlib.Path]:
    """What `find_exact` finds, with all models of the folder that differ from it in their seed alone."""
    best, others = find_exact(folder), list(filter(attends_exactly, records.read(pathlib.Path(folder))))
    same = tuple(name for name in KEY if name != "seed")
    wanted = {records.cell(row, same) for row in others if row["checkpoint"] == best.name}
    found = {row["seed"]: row["checkpoint"] for row in others if records.cell(row, same) in wanted}
    return [best.with_name(pathlib.PurePath(name).name) for _, name in sorted(found.items())] or [best]


def _find(folder, what, is_wanted) -> pathlib.Path:
    folder = pathlib.Path(folder)
    if (folder / checkpoints.ABOUT).is_file():
        return folder
    saved = list(filter(is_wanted, records.read(folder)))
    if not saved:
        raise ValueError(
            f"{folder} has neither a checkpoint nor rows of {what}: expected a folder that `python -m "
            "experiments.accuracy` has written, or one of its checkpoints"
        )
    best = min(saved, key=lambda row: (not row.get("is_causal"), row["bits"]))
    return folder / FOLDER / pathlib.PurePath(best["checkpoint"]).name


def attends_exactly(row: dict) -> bool:
    """Whether a row is of a model of text with exact attention that was trained to its end."""
    return _is_trained(row) and row.get("kernel") == repr(Softmax())


def speaks(row: dict) -> bool:
    """Whether a row is of a causal model of text that was trained to its end."""
    return _is_trained(row) and bool(row.get("is_causal"))


def _is_trained(row):
    is_whole = isinstance(row.get("checkpoint"), str) and fields.is_number(row.get("bits"))
    return is_whole and row.get("status") == "measured" and row.get("metric") == "bits"
