"""Debian's Chromium, headless, spoken to over a pipe: a page as a person would have it open."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page of a browser. `console` holds what it complained of, blocked fetches included."""

    def __init__(self, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        words = [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-dev-shm-usage", "--hide-scrollbars", "--disable-background-networking",
            f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        # the browser listens at 3 and speaks at 4; from above, neither overwrites the other
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 64) for end in (ours[0], theirs[1])]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", *words],
            pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (*ends, ours[0], theirs[1]):
            os.close(end)
        self.write, self.read = os.fdopen(ours[1], "wb"), os.fdopen(theirs[0], "rb")
        self.number, self.console, self.session = 0, list[str](), ""
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Ask the browser, and wait for the answer; the events before it are looked at."""
        self.number += 1
        asked = {"id": self.number, "method": method, "params": params}
        if self.session:
            asked["sessionId"] = self.session
        self.write.write(json.dumps(asked).encode() + b"\0")
        self.write.flush()
        found = self._until(lambda message: message.get("id") == self.number)
        assert "error" not in found, found
        return dict(found["result"])

    def open(self, address: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a page at a width, in light or dark mode."""
        self.console.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=address)
        self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def value(self, script: str) -> Any:
        """What an expression comes to on the page, a promise once it is kept."""
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def picture(self, path: Path) -> Path:
        """The whole page as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True,
                         clip={**size, "scale": 1})  # fmt: skip
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def close(self) -> None:
        """End the browser."""
        self.write.close()
        self.process.terminate()
        self.process.wait(timeout=30)
        self.read.close()

    def _until(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            message = self._message()
            method, params = message.get("method", ""), message.get("params", {})
            if method == "Runtime.exceptionThrown":
                self.console.append(str(params["exceptionDetails"]))
            elif method == "Log.entryAdded":
                self.console.append(str(params["entry"].get("text")))
            elif method == "Runtime.consoleAPICalled":
                self.console.append(str(params["args"]))
            elif method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("file:", "data:", "about:")):
                    self.console.append(f"fetched {url}")
            if fits(message):
                return message

    def _message(self) -> dict[str, Any]:
        found = bytearray()
        while (byte := self.read.read(1)) != b"\0":
            assert byte, "the browser is gone"
            found += byte
        return dict(json.loads(found))
