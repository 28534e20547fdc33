"""Curves of a training run as TensorBoard's event files, written while it trains.

What is written is what the run's progress says, which a checkpoint holds from the first step on. So a run that goes on
from a checkpoint writes its curves anew: no point is lost, and none of a step that was done twice is there twice.

The records are tensorboardX's. Its `SummaryWriter(purge_step=)` would be shorter, but it writes from a thread: `flush`
does not wait for the last points, so that one may be in a checkpoint and in no file, and once a disk is full the thread
has ended and the run waits for it for ever. It would put the name of the host into that of the file, too.
"""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Callable, Iterator

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter

from experiments.train.loop import Progress

EVERY = 1.0  # seconds between writes, which wait for the disk
FILES = "*.tfevents.*"
TRAIN, VALIDATION = "train/bits", "validation"


@contextlib.contextmanager
def following(folder: pathlib.Path, metric: str) -> Iterator[Callable[[Progress], None]]:
    """What to tell of each step; the last is written however the run ends.

    Args:
      folder: of this run alone; what an earlier try of it has left there is replaced.
      metric: what is validated, "bits", or another of which more is better.
    """
    writer = _started(folder)
    written, last, told = {TRAIN: 0, VALIDATION: 0}, [0.0], []

    def tell(progress: Progress) -> None:
        told[:] = [progress]
        if time.monotonic() - last[0] > EVERY:
            last[0] = time.monotonic()
            _write(writer, progress, metric, written)

    try:
        yield tell
    finally:
        for progress in told:
            _write(writer, progress, metric, written)
        writer.close()


def _started(folder: pathlib.Path) -> RecordWriter:
    """A new file, which tells a TensorBoard that is looking to forget what it has seen of the run."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(FILES):
        path.unlink()
    now = time.time()
    writer = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
    for event in (
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, step=0, session_log=SessionLog(status=SessionLog.START)),
    ):
        writer.write(event.SerializeToString())
    writer.flush()
    return writer


def _write(writer: RecordWriter, progress: Progress, metric: str, written: dict[str, int]) -> None:
    """Add the points that are not written yet. Validation is kept as lower is better, and shown as it is meant."""
    sign = 1 if metric == "bits" else -1
    validations = [(step, sign * score) for step, score in progress.validations]
    for tag, name, points in ((TRAIN, TRAIN, progress.curve), (VALIDATION, f"{VALIDATION}/{metric}", validations)):
        for step, value in points[written[tag] :]:
            event = Event(wall_time=time.time(), step=step, summary=summary.scalar(name, value))
            writer.write(event.SerializeToString())
        written[tag] = len(points)
    writer.flush()
