"""Which experiment wrote a row, and what its section of the page consists of.

A row tells whose it is by the columns that identify its cell: no other experiment's rows have them all. So rows that
were merged, moved or copied by hand are known wherever they lie. What an experiment has to say of its rows is
`summaries` in its `analysis`; an experiment that is not listed here gets a section with all its cells.
"""

from __future__ import annotations

import dataclasses
import importlib

from experiments.bench import records
from experiments.show.tables import Table

MACHINE = "Times and memory are those of one machine; ratios carry over better than seconds."
SMALL = "The models are small and briefly trained: they show that each learns, not how far it can."


@dataclasses.dataclass(frozen=True)
class Section:
    """An experiment's part of the page.

    Attributes:
      name: the package in `experiments`.
      columns: what its rows have, and those of no other experiment.
      caveats: what its numbers do not support, whatever they are.
      home: the module in `experiments` that has KEY, which makes two rows the same cell; `run` of the package if empty.
      has_models: whether rows are of trained models, which a published accuracy may be about.
    """

    name: str
    columns: frozenset[str]
    caveats: tuple[str, ...] = ()
    home: str = ""
    has_models: bool = False

    @property
    def question(self) -> str:
        """The first line of the package's docstring."""
        return importlib.import_module(f"experiments.{self.name}").__doc__.partition("\n")[0]

    @property
    def key(self) -> tuple[str, ...]:
        """What makes two rows the same cell."""
        return importlib.import_module(f"experiments.{self.home or f'{self.name}.run'}").KEY

    def summaries(self, rows: list[dict]) -> list[Table]:
        """What the experiment says of its rows, and where they are of a published setting, the verdict."""
        own = _analysis(self.name).summaries(rows)
        return [*own, *_analysis("reproduce").of_models(rows)] if self.has_models else own


def _analysis(name: str):
    return importlib.import_module(f"experiments.{name}.analysis")


def _section(name: str, columns: str, *caveats: str, **given) -> Section:
    return Section(name, frozenset(columns.split()), caveats, **given)


# In the order of the page.
SECTIONS = (
    _section(
        "scaling",
        "pass num_kv_heads cell_budget",
        MACHINE,
        "Exponents are slopes of straight lines through the logarithms of the last four lengths, with 95% intervals. "
        "Where a kernel becomes faster is where medians cross, with a bootstrap interval over repetitions.",
        "Operands are random: what kernels do whose work depends on data is not shown.",
    ),
    _section(
        "accuracy",
        "task_name positions learning_rate",
        SMALL,
        "Differences to softmax are paired by seed.",
        home="train.sweep.cells",
        has_models=True,
    ),
    _section("peers", "peer pairs", MACHINE, "Definitions differ as the notes say."),
    _section("decoding", "context tokens cell_budget", MACHINE, "States are full of random numbers."),
    _section(
        "approximation",
        "dial operands draws",
        MACHINE,
        "Linformer's projections are those of init: a trained model's would err less.",
    ),
    _section("swap", "trained checkpoint", SMALL, "A kernel that a model was trained with may lose far less."),
    _section("alignment", "score test_pairs", SMALL),
    _section("claims", "claim", MACHINE, SMALL),
    _section(
        "reproduce",
        "shrink reference",
        MACHINE,
        "Published speeds are of a TPU.",
        home="reproduce.stepping",
    ),
    _section("tiles", "tile pairs is_rule", MACHINE),
    _section("conformance", "law", "Laws are tested on small inputs, on one device."),
    _section(
        "throughput", "implementation repeats", "Shares are of what this device reached here, not of a data sheet."
    ),
)


def place(section: Section | None) -> int:
    """Where a section stands on the page: as listed here, and what is unknown last."""
    return len(SECTIONS) if section is None else SECTIONS.index(section)


@dataclasses.dataclass(frozen=True)
class Found:
    """Rows of one experiment in one folder, the last of each cell; `section` is None for an unknown experiment."""

    section: Section | None
    rows: list[dict]


def split(rows: list[dict]) -> list[Found]:
    """The rows of each experiment."""
    groups: dict[Section | None, list[dict]] = {}
    for row in rows:
        groups.setdefault(_of(row), []).append(row)
    return [Found(section, _latest(section, own)) for section, own in groups.items()]


def _of(row: dict) -> Section | None:
    return next((section for section in SECTIONS if section.columns <= row.keys()), None)


def _latest(section: Section | None, rows: list[dict]) -> list[dict]:
    return rows if section is None else list(records.latest(rows, section.key).values())
