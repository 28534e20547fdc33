"""One device for each process that works beside others. Nothing here imports jax before devices are asked for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

DIVISIBLE = ("cpu", "gpu")  # platforms of which a process can be given one device; a TPU's chips are one process's


class Pool:
    """Devices by their numbers, of which whoever comes is given one where the fewest are at work."""

    def __init__(self, numbers: Sequence[int]):
        self._at_work, self._lock = dict.fromkeys(numbers, 0), threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[int]:
        """The number of a device, given while the context lasts."""
        with self._lock:
            number = min(self._at_work, key=self._at_work.__getitem__)
            self._at_work[number] += 1
        try:
            yield number
        finally:
            with self._lock:
                self._at_work[number] -= 1


def found(jobs: int) -> Pool:
    """The devices that jax finds on this machine, for so many processes beside each other.

    Raises:
      ValueError: they are of a platform whose devices one process has alone.
    """
    import jax

    devices = jax.local_devices()
    if devices[0].platform not in DIVISIBLE:
        raise ValueError(
            f"--jobs={jobs}: expected devices that processes can be given one by one, {' or '.join(DIVISIBLE)}; those "
            f"here are of platform {devices[0].platform!r}, which one process has alone: pass --jobs=1 --noisolate"
        )
    return Pool([device.local_hardware_id for device in devices])


def take(number: int) -> None:
    """Leave one device to jax in this process, before it is asked for any: that GPU, or a CPU that is one."""
    import jax

    for vendor in ("cuda", "rocm"):  # jax reads neither flag from the environment
        jax.config.update(f"jax_{vendor}_visible_devices", str(number))
    jax.config.update("jax_num_cpu_devices", 1)
