"""A headless Chromium, controlled by its DevTools protocol over two pipes."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
KEYS = {  # by name: the key, its code, and the text that it enters
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Space": (" ", 32, " "),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Home": ("Home", 36, ""),
}
SECONDS = 60  # after which a command or a page has failed


def found():
    """The path of an installed browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser with one page of the given size, in pixels."""

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
        self._received, self._count, self._session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def call(self, method, **parameters):
        """Send a command of the protocol and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            while b"\0" in self._received:
                text, self._received = self._received.split(b"\0", 1)
                answer = json.loads(text)
                if answer.get("id") == self._count:
                    assert "error" not in answer, answer
                    return answer["result"]
            if select.select([self._read], [], [], 1)[0]:
                self._received += os.read(self._read, 1 << 20)
        raise TimeoutError(method)

    def open(self, url):
        """Load a page and wait until it is complete."""
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + SECONDS
        while self.run("document.readyState + location.href") != f"complete{url}":
            assert time.monotonic() < deadline, url
            time.sleep(0.05)
        self.call("Page.bringToFront")

    def run(self, script):
        """Evaluate JavaScript in the page and return its value."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, *names):
        """Press keys, named as in KEYS or by single letters."""
        for name in names:
            key, code, text = KEYS.get(name, (name, ord(name.upper()[0]), name))
            shared = {"key": key, "code": name, "windowsVirtualKeyCode": code}
            kind = "keyDown" if text else "rawKeyDown"
            self.call("Input.dispatchKeyEvent", type=kind, **shared, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def tab_to(self, selector, at_most=200):
        """Press Tab until an element that matches the selector has the focus; returns how often."""
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
    """Duplicate a file descriptor to a number of at least 10, which the shell's redirections do not use."""
    high = fcntl.fcntl(fd, fcntl.F_DUPFD, 10)
    os.close(fd)
    return high
