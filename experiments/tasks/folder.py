"""What tasks share whose examples lie in a folder that the user supplies."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, NamedTuple

from attnzoo.contract import fields
from experiments.tasks.task import Task


class Stored(NamedTuple):
    """The examples of each split, in the form that their task keeps, and the SHA-256 of what they were read from."""

    splits: dict[str, Any]
    digest: str


@dataclasses.dataclass(frozen=True)
class FolderTask(Task):
    """Examples that are read, not drawn."""

    folder: str

    def __post_init__(self):
        fields.text(self, "folder")

    @abc.abstractmethod
    def stored(self) -> Stored:
        """What the folder holds, read once in a process."""

    @property
    def digest(self) -> str:
        return self.stored().digest
