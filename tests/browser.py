"""A headless Chromium to look at pages with: the DevTools protocol over two pipes, without a port or a package.

https://chromedevtools.github.io/devtools-protocol: messages are JSON, each ended by a zero byte; the browser reads from
descriptor 3 and writes to 4.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

PATIENCE = 30.0  # seconds that an answer may take
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Puts two descriptors where the browser expects them, in the new process, before it becomes the browser.
LAUNCHER = "import os, sys; [os.dup2(int(sys.argv[i]), 2 + i) for i in (1, 2)]; os.execv(sys.argv[3], sys.argv[3:])"


def found() -> str | None:
    """The path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """An open page, and what the browser has told of it."""

    def __init__(self, to_browser: int, from_browser: int):
        self.events: list[dict] = []
        self._to, self._from, self._buffer, self._number, self._session = to_browser, from_browser, b"", 0, {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        """The browser's answer; what it tells before that is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda said: said.get("id") == self._number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, url: str) -> None:
        """Go there, forget what was told before, and wait until everything is loaded."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        if "Page.loadEventFired" not in self.told():
            self._until(lambda said: said.get("method") == "Page.loadEventFired")

    def value(self, script: str):
        """What an expression is on the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **typed)

    def told(self) -> list[str]:
        """Names of what happened."""
        return [event["method"] for event in self.events]

    def _until(self, is_it) -> dict:
        deadline = time.monotonic() + PATIENCE
        while True:
            while b"\0" in self._buffer:
                line, _, self._buffer = self._buffer.partition(b"\0")
                said = json.loads(line)
                self.events += [said] if "method" in said else []
                if is_it(said):
                    return said
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self._from, 2**16) if ready else b""
            if not more:
                raise TimeoutError(f"the browser {'has ended' if ready else 'was silent'} after {self.told()[-3:]}")
            self._buffer += more


@contextlib.contextmanager
def page(folder: pathlib.Path) -> Iterator[Page]:
    """A page of a browser that keeps its files in `folder`, knows no host, and is gone afterwards."""
    (reads, to_browser), (from_browser, writes) = os.pipe(), os.pipe()
    words = [found(), "--headless=new", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
    words += [f"--user-data-dir={folder}", "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking"]
    words += ["--no-sandbox", "--disable-dev-shm-usage"]  # of which root and containers may have none; pages are ours
    process = subprocess.Popen(
        [sys.executable, "-IS", "-c", LAUNCHER, str(reads), str(writes), *words],
        pass_fds=(reads, writes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(reads)
    os.close(writes)
    try:
        yield Page(to_browser, from_browser)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(to_browser)
        os.close(from_browser)
