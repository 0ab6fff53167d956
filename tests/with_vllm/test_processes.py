"""vLLM's processes do not outlive the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from .using import NEEDS_VLLM

pytestmark = NEEDS_VLLM
SCRIPT = """
import sys, time
from tests.with_vllm.using import asked, engine
if __name__ == "__main__":
    with engine("vllm", model_type="tiny-llama") as vllm:
        print("ready", flush=True)
        if sys.argv[1] == "busy":
            for one in vllm.stream(asked("Count.")): pass
            time.sleep(600)
    print("closed", flush=True)
    time.sleep(600)
"""


def alive(mark: str, but: bytes = b"\0none") -> list[int]:
    """Processes that have the mark in their environment, and not `but` in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            words = (file.parent / "cmdline").read_bytes()
            if words and but not in words and mark.encode() in file.read_bytes():
                found.append(int(file.parent.name))
        except OSError:  # it has just ended
            continue
    return found


@pytest.mark.parametrize("how", ["busy", "closed"])
def test_no_process_is_left(how: str, tmp_path: Path) -> None:
    """Killed in the middle of its work, or closed and still running."""
    mark = f"MARK={uuid.uuid4().hex}"
    name, value = mark.split("=")
    file = tmp_path / "script.py"
    file.write_text(SCRIPT, encoding="utf-8")
    root = Path(__file__).parents[2]
    started = subprocess.Popen(
        [sys.executable, str(file), how],
        env={**os.environ, name: value, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert started.stdout is not None
        for line in started.stdout:
            if line.strip() == ("ready" if how == "busy" else "closed"):
                break
        assert started.poll() is None
        if how == "busy":
            assert len(alive(mark)) >= 2
            started.kill()
            started.wait()
        # Python keeps one helper per process, which ends with it.
        tracker = b"\0none" if how == "busy" else b"resource_tracker"
        until = time.monotonic() + 30
        while set(alive(mark, tracker)) - {started.pid} and time.monotonic() < until:
            time.sleep(0.2)
        assert set(alive(mark, tracker)) <= {started.pid}
    finally:
        for pid in alive(mark):
            os.kill(pid, signal.SIGKILL)
        started.wait()
