"""Curves as TensorBoard's event files.

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

from experiments.train import curves
from experiments.train.curves import Point
from experiments.train.loop import Progress

FILES = "*.tfevents.*"


@contextlib.contextmanager
def following(folder: pathlib.Path, metric: str) -> Iterator[Callable[[Progress], None]]:
    """As `curves.following`.

    Args:
      folder: of this run alone; what an earlier try of it has left there is replaced.
    """
    with contextlib.closing(_started(folder)) as writer:

        def write(points: list[Point]) -> None:
            for point in points:
                told = summary.scalar(point.curve, point.value)
                writer.write(Event(wall_time=time.time(), step=point.step, summary=told).SerializeToString())
            writer.flush()

        with curves.following(metric, write) as tell:
            yield tell


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
