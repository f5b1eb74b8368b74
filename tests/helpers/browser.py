"""Chromium without a window, with a page of a given width, real keys and scripts: its own protocol over two pipes."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {  # key, code, what it types
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Space": (" ", 32, " "),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Home": ("Home", 36, ""),
}
SECONDS = 60


def found():
    """The browser's program, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page."""

    def __init__(self, program, profile, width, height=900):
        to_read, self._write = (_high(fd) for fd in os.pipe())
        self._read, to_write = (_high(fd) for fd in os.pipe())
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--hide-scrollbars",
        ]
        line = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", program, *flags]
        self._process = subprocess.Popen(
            [*line, "--remote-debugging-pipe", "about:blank"],
            pass_fds=(to_read, to_write),
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._rest, self._count, self._session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method, **parameters):
        """The result of a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            while b"\0" in self._rest:
                text, self._rest = self._rest.split(b"\0", 1)
                answer = json.loads(text)
                if answer.get("id") == self._count:
                    assert "error" not in answer, answer
                    return answer["result"]
            if select.select([self._read], [], [], 1)[0]:
                self._rest += os.read(self._read, 1 << 20)
        raise TimeoutError(method)

    def open(self, url):
        """Load a page."""
        self.call("Page.navigate", url=url)
        end = time.monotonic() + SECONDS
        while self.run("document.readyState + location.href") != f"complete{url}":
            assert time.monotonic() < end, url
            time.sleep(0.05)
        self.call("Page.bringToFront")

    def run(self, script):
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, *names):
        """Press keys: names of KEYS, or single letters."""
        for name in names:
            key, code, text = KEYS.get(name, (name, ord(name.upper()[0]), name))
            shared = {"key": key, "code": name, "windowsVirtualKeyCode": code}
            kind = "keyDown" if text else "rawKeyDown"
            self.call("Input.dispatchKeyEvent", type=kind, **shared, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def tab_to(self, selector, at_most=200):
        """Press Tab until an element has the focus; the number of times."""
        for count in range(1, at_most + 1):
            self.press("Tab")
            if self.run(f"document.activeElement.matches({json.dumps(selector)})"):
                return count
        raise AssertionError(f"Tab does not get to {selector}")

    def close(self):
        """End the browser."""
        self._process.terminate()
        self._process.wait(SECONDS)
        os.close(self._read)
        os.close(self._write)


def _high(fd):
    """The same pipe under a number that no redirection takes."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD, 10)
    os.close(fd)
    return high
