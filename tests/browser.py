"""Headless Chromium for one test, driven over its debugging pipe: a page, its size, what it asks and shows.

`--remote-debugging-pipe` speaks the DevTools protocol on file descriptors 3 and 4, one JSON message between
two zero bytes, so no port and no WebSocket is needed.
"""

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools import program

PATIENCE = 60.0  # seconds for one answer; a busy machine takes a few to start the browser
OPTIONS = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # small in containers
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--hide-scrollbars",
    "--ignore-certificate-errors",  # the test's own authority; what is tested is the page
    "--no-sandbox",  # root has none
]


class BrowserFailed(Exception):  # noqa: N818 (named like the project's ProgramFailed)
    """The browser did not answer, or not well."""


class Browser:
    """One tab."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._left = 0, b""
        self.requests: list[str] = []  # every URL that was asked for, also what the policy forbade
        self.complaints: list[str] = []  # what the console said
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """One command and its result; events meanwhile are noted."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise BrowserFailed(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, url: str, *, width: int, dark: bool = False, scripts: bool = True) -> None:
        """Load a page at a width in CSS pixels, and wait until it is there."""
        self.requests.clear()
        self.complaints.clear()
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        scale = {"deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, **scale)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded = False
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._next()
        for _ in range(3):  # what was asked for last is told a little later
            self.call("Runtime.evaluate", expression="1")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression, or the promise that it is, comes to; a user may have caused it."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in found:
            raise BrowserFailed(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def type(self, selector: str, text: str) -> None:
        """Put text into a field in place of what it holds, as if typed."""
        self.value(f"document.querySelector({json.dumps(selector)}).select()")
        if text:
            self.call("Input.insertText", text=text)
        else:
            for kind in ("keyDown", "keyUp"):
                self.call("Input.dispatchKeyEvent", type=kind, key="Delete", windowsVirtualKeyCode=46)

    def press(self, key: str, code: int) -> None:
        """One key."""
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def picture(self, *, whole: bool = False) -> bytes:
        """A screenshot as PNG."""
        import base64

        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._left:
            if not select.select([self._answers], [], [], max(0.0, until - time.monotonic()))[0]:
                raise BrowserFailed(f"chromium said nothing for {PATIENCE:.0f} s")
            if not (data := os.read(self._answers, 1 << 16)):
                raise BrowserFailed("chromium went away")
            self._left += data
        line, _, self._left = self._left.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        parameters = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Log.entryAdded":
                self.complaints.append(parameters["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(parameters["exceptionDetails"]))
            case "Page.loadEventFired":
                self._loaded = True
        return message


def lines(browser: Browser) -> list[str]:
    """Every line to copy as the page shows it, with every product opened."""
    browser.value("for (const one of document.querySelectorAll('[aria-expanded=false]')) one.click()")
    found: list[str] = browser.value(
        "[...document.querySelectorAll('.line code')].map((one) => one.textContent)"
    )
    return found


@contextmanager
def chromium(work: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, for as long as the body runs."""
    home = Path(tempfile.mkdtemp(prefix="chromium-", dir=work))
    # In the child, 3 is read and 4 is written; ours may have these numbers, so they are moved away first.
    command_read, command_write = os.pipe()
    answer_read, answer_write = os.pipe()

    def place() -> None:
        low, high = os.dup(command_read), os.dup(answer_write)
        while min(low, high) < 5:
            low, high = os.dup(low), os.dup(high)
        os.dup2(low, 3)
        os.dup2(high, 4)

    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [program("chromium"), *OPTIONS, f"--user-data-dir={home}/profile"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            preexec_fn=place, close_fds=False,  # noqa: PLW1509 - it calls dup2 alone
        )  # fmt: skip
    os.close(command_read)
    os.close(answer_write)
    try:
        yield Browser(command_write, answer_read)
    finally:
        os.close(command_write)  # it ends with its pipe
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(answer_read)
