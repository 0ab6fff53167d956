"""`swiftlike deploy` in a process of its own, and clients of it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai

READY_SECONDS = 240


class Deployed:
    """A server that is ready. `log` is the file of all that it says."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, url: str = "") -> None:
        self.process, self.log = process, log
        self.url = url or self._found(r"listening on (\S+?);")
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + READY_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", verify=False).status_code == 200:
                    return
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def _found(self, pattern: str) -> str:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            text = self.log.read_text()
            if match := re.search(pattern, text):
                return match[1] if match.groups() else match[0]
            assert self.process.poll() is None, text
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def client(self, key: str = "none", **more: Any) -> openai.OpenAI:
        """OpenAI's client, which does not try again."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **{"max_retries": 0, "timeout": 120, **more})

    def metric(self, name: str) -> float:
        """A number of /metrics."""
        text = httpx.get(f"{self.url}/metrics", verify=False, timeout=60).text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    def wait_for(self, name: str, value: float) -> None:
        """Until a metric has that value."""
        end = time.monotonic() + 60
        while self.metric(name) != value:
            assert time.monotonic() < end, self.metric(name)
            time.sleep(0.05)

    def signal(self, sig: signal.Signals) -> None:
        """Send a signal to the server's own process."""
        os.kill(self.process.pid, sig)


@contextlib.contextmanager
def deployed(folder: Path, *words: object, url: str = "") -> Iterator[Deployed]:
    """A server on a free port (`url`: where one says nothing of it); it is ended whatever state it is in."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SWIFTLIKE_", "HF_"))}
    env |= {"SWIFTLIKE_CACHE": os.environ["SWIFTLIKE_CACHE"], "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = folder / "deploy.log"
    words = words if "--port" in words else (*words, "--port", 0)
    argv = [sys.executable, "-m", "swiftlike", "deploy", *map(str, words)]
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, env=env)
    try:
        yield Deployed(process, log, url)
    finally:
        process.kill()
        process.wait()
