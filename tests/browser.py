"""A page in headless Chromium, driven over the pipes of its DevTools protocol: no driver and no network."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A browser with one page."""

    def __init__(self, commands: int, replies: int) -> None:
        self._commands, self._replies = os.fdopen(commands, "wb"), os.fdopen(replies, "rb")
        self._number = 0
        self._session: str | None = None
        self._buffer = b""
        self.errors: list[str] = []  # what the page's console reports as errors and exceptions
        (target,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (reply := self._receive()).get("id") != self._number:
            pass
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        result: dict[str, Any] = reply["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            received = os.read(self._replies.fileno(), 2**16)
            if not received:
                raise RuntimeError("the browser has ended")
            self._buffer += received
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        is_error = message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error"
        if is_error or message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"]))
        return message

    def open(self, url: str, width: int, height: int, dark: bool = False) -> None:
        """Open a page in a window of a size in CSS pixels, and wait until it has loaded."""
        window = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 800}
        self.call("Emulation.setDeviceMetricsOverride", **window)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise RuntimeError(json.dumps(done["exceptionDetails"]))
        return done["result"].get("value")

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write a picture of the whole page, or of the window, as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a new profile in a folder, and end it with the context."""
    command_reader, commands = os.pipe()
    replies, reply_writer = os.pipe()
    options = f"--headless=new --no-sandbox --remote-debugging-pipe --user-data-dir={profile} about:blank"
    # The protocol is read from descriptor 3 and written to descriptor 4.
    script = f"exec {CHROMIUM} {options} 3<&{command_reader} 4>&{reply_writer}"
    process = subprocess.Popen(
        ["bash", "-c", script], pass_fds=(command_reader, reply_writer), stderr=subprocess.DEVNULL
    )
    os.close(command_reader)
    os.close(reply_writer)
    try:
        yield Browser(commands, replies)
    finally:
        process.terminate()
        process.wait(timeout=30)
